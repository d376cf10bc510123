"""What the agent keeps of a certificate for itself: the bundles, so that nothing is leased twice, and where it stands.

state_directory/kept/NAME/
  12.json       a bundle with its private key, mode 0600
  record.json   which version is served, tried, failed, reported
"""

import base64
import binascii
import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from certd.agent import folders
from certd.agent.bundle import Bundle
from certd.agent.errors import AgentError
from certd.agent.log import fields

_RECORD: Final = "record.json"
_BUNDLE: Final = re.compile(r"([1-9][0-9]{0,18})\.json")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A version that programs did not take."""

    version: int
    message: str
    count: int
    """Of tries."""
    retry_time: float
    """When it is tried again, in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Where a certificate stands on this machine."""

    source: str = ""
    """Opaque uid of the managed certificate that all of this is about: a name may get another one."""
    deployed: int = 0
    """Version that is served: programs took it. 0: none."""
    deployed_sha256: str = ""
    """Of its certificate, in hexadecimal; empty in what an earlier release wrote."""
    previous: int = 0
    """The one that was served before."""
    deploying: int = 0
    """Version that programs are being given; 0: none. What a crash interrupted is done again."""
    failure: Failure | None = None
    """The last try, when it failed."""
    reported: str = ""
    """What the server was told last."""
    revoked: tuple[str, ...] = ()
    """SHA-256 of certificates that the server told to be revoked, in hexadecimal."""


class Kept:
    """The folder of one certificate.

    Args:
        state_directory: of the agent.
        name: of the certificate.
    """

    def __init__(self, state_directory: Path, name: str) -> None:
        self._folder = state_directory / "kept" / name
        self._name = name

    def record(self) -> Record:
        """Returns where it stands; that of nothing when there is no record, or none that can be read."""
        try:
            content = self._read(_RECORD)
        except AgentError as error:
            # Told again by the first that writes; other certificates are none the worse.
            _log.warning("%s", error.message, extra=fields(certificate=self._name))
            return Record()
        try:
            values: dict[str, Any] = json.loads(content or b"{}")
            failure = values.pop("failure", None)
            revoked = tuple(map(str, values.pop("revoked", ())))
            return Record(**values, revoked=revoked, failure=None if failure is None else Failure(**failure))
        except (ValueError, TypeError, AttributeError):
            return Record()

    def write_record(self, record: Record) -> None:
        """Writes where it stands; raises AgentError."""
        self._write(_RECORD, json.dumps(asdict(record), sort_keys=True).encode())

    def bundle(self, version: int, source: str) -> Bundle | None:
        """Returns a bundle of a managed certificate; None when it is not kept, or damaged."""
        content = self._read(f"{version}.json")
        try:
            values: dict[str, Any] = json.loads(content or b"")
            made = Bundle(
                name=self._name,
                version=values["version"],
                certificate=_bytes(values["certificate"]),
                chain=tuple(map(_bytes, values["chain"])),
                private_key_info=_bytes(values["private_key"]),
                roots=tuple(map(_bytes, values["roots"])),
            )
            whole = values["sha256"] == _digest(made) and (made.version, values["source"]) == (version, source)
        except (ValueError, TypeError, KeyError, binascii.Error):
            return None
        return made if whole else None

    def keep(self, bundle: Bundle, source: str) -> None:
        """Keeps a bundle of a managed certificate; raises AgentError."""
        values = {
            "source": source,
            "version": bundle.version,
            "certificate": _text(bundle.certificate),
            "chain": [_text(each) for each in bundle.chain],
            "private_key": _text(bundle.private_key_info),
            "roots": [_text(each) for each in bundle.roots],
            "sha256": _digest(bundle),
        }
        self._write(f"{bundle.version}.json", json.dumps(values).encode())

    def prune(self, *, keep: tuple[int, ...]) -> None:
        """Forgets the bundles of all versions but some, and what crashes left."""
        try:
            with folders.opened(self._folder) as folder:
                for name in folders.names(folder):
                    found = _BUNDLE.fullmatch(name)
                    if name.startswith(".") or (found is not None and int(found[1]) not in keep):
                        folders.remove(folder, name)
        except FileNotFoundError:
            return

    def _read(self, name: str) -> bytes | None:
        try:
            with folders.opened(self._folder) as folder:
                found = folders.read(folder, name)
        except FileNotFoundError:
            return None
        return None if found is None else found[0]

    def _write(self, name: str, content: bytes) -> None:
        with folders.opened(self._folder, make=folders.PRIVATE) as folder:
            folders.replace(folder, name, content)


def _digest(bundle: Bundle) -> str:
    """Returns what tells whether a bundle is whole."""
    digest = hashlib.sha256(bundle.version.to_bytes(8))
    for part in (bundle.certificate, bundle.private_key_info, *bundle.chain, b"", *bundle.roots):
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
