"""What is to be signed and does not fit into a request: it comes in parts, is put together here, and taken once.

A CRL of a million entries has fifty megabytes. In parts it keeps nobody waiting who wants a certificate signed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from certd.errors import CertdError, Reason, field_invalid

MOST_BYTES: Final = 128 << 20
"""Of all that is not taken yet, together."""
PART_BYTES: Final = 1 << 20
"""The longest part."""
ID_BYTES: Final = 16
_IDLE_SECONDS: Final = 60.0
"""After this nobody is thought to go on, and others get the room."""


@dataclass(slots=True)
class _Upload:
    content: bytearray = field(default_factory=bytearray)
    used: float = 0.0


class Uploads:
    """Parts that have come. For the thread of the module.

    Args:
        elapsed: returns seconds since some moment.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._uploads: dict[bytes, _Upload] = {}

    def append(self, upload_id: bytes, offset: int, content: bytes) -> None:
        """Adds a part; the first one has the offset 0, and begins anew what was begun under this id.

        Raises:
            CertdError: FIELD_INVALID for an id, a part or an offset that is none; RATE_LIMITED when there is no room.
        """
        if len(upload_id) != ID_BYTES:
            raise field_invalid("upload_id", f"must be {ID_BYTES} bytes")
        if not 1 <= len(content) <= PART_BYTES:
            raise field_invalid("content", f"must be 1 to {PART_BYTES} bytes")
        if offset == 0:
            self._uploads.pop(upload_id, None)
        upload = self._uploads.get(upload_id, _Upload())
        if len(upload.content) != offset:
            raise field_invalid("offset", "must be where the parts before end; begin again with 0")
        now = self._elapsed()
        self._make_room(len(content), upload_id, now)
        upload.content += content
        upload.used = now
        self._uploads[upload_id] = upload

    def take(self, upload_id: bytes) -> bytes:
        """Returns what was put together, and forgets it; FIELD_INVALID when there is nothing."""
        upload = self._uploads.pop(upload_id, None)
        if upload is None:
            raise field_invalid("upload_id", "names nothing that was sent in parts, or was given up; send it again")
        return bytes(upload.content)

    def _make_room(self, length: int, upload_id: bytes, now: float) -> None:
        for other in [key for key, one in self._uploads.items() if now - one.used > _IDLE_SECONDS]:
            if other != upload_id:
                del self._uploads[other]
        if sum(len(one.content) for one in self._uploads.values()) + length > MOST_BYTES:
            self._uploads.pop(upload_id, None)
            raise CertdError(
                Reason.RATE_LIMITED,
                f"The token process holds at most {MOST_BYTES} bytes that are to be signed; try again in a moment,"
                " or spread the certificates over more partitions.",
                retry_after=_IDLE_SECONDS,
            )
