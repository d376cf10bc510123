"""What is inside the encryption of a backup: a tar archive (POSIX.1-2001), whose last member tells of all others.

Members are regular files alone, with these names:

* `certd.toml`, and `files/{key}` for each file that it names, such as `files/tls.certificate`;
* `database/certd.db` of SQLite, or `database/tables/{table}.copy` and `database/sequences.json` of PostgreSQL;
* `token/{path}`: the files of a SoftHSM token, below its directory of tokens;
* `journal/{number}/{segment}.jsonl`: the journals of token processes;
* `manifest.json`, the last one: what the backup is of, and name, size and SHA-256 of every other member.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import IO, Any, Final, Protocol, cast

from certd.errors import field_invalid
from certd.pki.encrypted_file import Decrypting, Encrypting, Readable
from certd.store import copies

FORMAT: Final = 1
CONFIGURATION: Final = "certd.toml"
FILES: Final = "files/"
TOKEN: Final = "token/"  # noqa: S105  # The name of a folder.
JOURNAL: Final = "journal/"
_MANIFEST: Final = "manifest.json"
_PIECE: Final = 1 << 20
_LONGEST_MANIFEST: Final = 64 << 20
_MOST_MEMBERS: Final = 1_000_000
_TOKEN_NAME: Final = re.compile(r"token/[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,3}")
_JOURNAL_NAME: Final = re.compile(r"journal/[1-9][0-9]{0,3}/[0-9]{8}\.jsonl")
_FILE_NAME: Final = re.compile(r"files/[a-z][a-z0-9_]*(\.[a-z0-9_]+){1,3}")
_FIELD: Final = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup is of."""

    time: datetime
    """When the copy of the database was begun."""
    version: str
    """Of the certd that made it."""
    engine: str
    """`sqlite` or `postgresql`."""
    schema: int
    """Number of the newest migration."""
    seq: int
    """Number of the last event in it; 0: none."""
    chain_hash: str
    """Of that event, in hexadecimal."""
    token_label: str
    has_token: bool
    """Whether the token itself is in it: of SoftHSM alone."""
    keys: tuple[Mapping[str, str], ...]
    """Keys in the token that the database names: `use`, `key_id` in hexadecimal and `name` of each."""
    parts: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Size in bytes and SHA-256 in hexadecimal of each member, by name."""


class Sink(Protocol):
    """Takes the bytes of a member."""

    def write(self, data: bytes, /) -> object:
        """Takes some."""
        ...

    def close(self) -> None:
        """Hears that the member has ended."""
        ...


class ArchiveWriter:
    """Writes members to an encrypted file."""

    def __init__(self, encrypting: Encrypting) -> None:
        self._encrypting = encrypting
        self._tar = tarfile.open(mode="w|", fileobj=cast("IO[bytes]", encrypting), format=tarfile.PAX_FORMAT)  # noqa: SIM115  # `finish` closes it.
        self._parts: dict[str, tuple[int, str]] = {}

    def add(self, name: str, file: IO[bytes], size: int) -> None:
        """Adds a member of `size` bytes. OSError when there are fewer."""
        _check_name(name)
        hashed = _Hashed(file)
        self._tar.addfile(_member(name, size), cast("IO[bytes]", hashed))
        self._parts[name] = (size, hashed.sha256)

    def add_bytes(self, name: str, content: bytes) -> None:
        """Adds a member that is in memory."""
        self.add(name, io.BytesIO(content), len(content))

    def finish(self, manifest: Manifest) -> Manifest:
        """Adds the manifest, in which it puts the parts, and ends the archive and its encryption."""
        fields = {**asdict(manifest), "time": manifest.time.astimezone(UTC).isoformat(), "parts": self._parts}
        content = json.dumps({"format": FORMAT, **fields}, separators=(",", ":")).encode()
        self._tar.addfile(_member(_MANIFEST, len(content)), io.BytesIO(content))
        self._tar.close()
        self._encrypting.finish()
        return _manifest({"format": FORMAT, **fields})


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Nowhere:
    """Takes a member that is only verified."""

    def write(self, _data: bytes, /) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def read_archive(
    file: Decrypting, open_sink: Callable[[str], Sink] | None = None, progress: Callable[[int], None] = lambda _: None
) -> Manifest:
    """Reads an archive to its end, and verifies it; returns its manifest.

    FIELD_INVALID with the field `file` when anything is not as the manifest says, or is no part of a backup.

    Args:
        file: the archive.
        open_sink: returns what takes the bytes of the member of a name, before it is verified; None: nobody wants them.
        progress: hears how many bytes of members are read.
    """
    found: dict[str, tuple[int, str]] = {}
    manifest: Manifest | None = None
    done = 0
    try:
        with tarfile.open(mode="r|", fileobj=cast("IO[bytes]", file)) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or manifest is not None or member.name in found or len(found) > _MOST_MEMBERS:
                    raise field_invalid(_FIELD, f"has a member that does not belong there, {member.name!r}")
                if member.name == _MANIFEST:
                    manifest = _parse_manifest(content.read(_LONGEST_MANIFEST))
                    continue
                _check_name(member.name)
                sink: Sink = _Nowhere() if open_sink is None else open_sink(member.name)
                try:
                    found[member.name] = _copied(content, sink)
                finally:
                    sink.close()
                done += member.size
                progress(done)
        # What is left is padding; its end is the proof that the file has its end.
        while file.read(_PIECE):
            pass
    except tarfile.TarError as error:
        raise field_invalid(_FIELD, f"holds no archive of certd ({error}); use another backup") from None
    if manifest is None or dict(manifest.parts) != found:
        raise field_invalid(_FIELD, "does not hold what its manifest says; use another backup")
    return manifest


def _copied(content: IO[bytes], sink: Sink) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while piece := content.read(_PIECE):
        digest.update(piece)
        sink.write(piece)
        size += len(piece)
    return size, digest.hexdigest()


def _parse_manifest(content: bytes) -> Manifest:
    try:
        return _manifest(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise field_invalid(
            _FIELD, "has a manifest that this certd does not read; use the release that made it"
        ) from None


def _manifest(fields: Mapping[str, Any]) -> Manifest:
    if fields["format"] != FORMAT:
        raise ValueError
    return Manifest(
        time=datetime.fromisoformat(fields["time"]),
        version=str(fields["version"]),
        engine=str(fields["engine"]),
        schema=int(fields["schema"]),
        seq=int(fields["seq"]),
        chain_hash=str(fields["chain_hash"]),
        token_label=str(fields["token_label"]),
        has_token=bool(fields["has_token"]),
        keys=tuple({str(name): str(value) for name, value in key.items()} for key in fields["keys"]),
        parts={str(name): (int(part[0]), str(part[1])) for name, part in fields["parts"].items()},
    )


def _check_name(name: str) -> None:
    """FIELD_INVALID for a name that is none of a member: what is unpacked must land where it belongs."""
    if name == CONFIGURATION or copies.is_part(name):
        return
    if not any(form.fullmatch(name) for form in (_TOKEN_NAME, _JOURNAL_NAME, _FILE_NAME)):
        raise field_invalid(_FIELD, f"has a member that does not belong there, {name!r}")


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member
