"""Files of keys: nobody who was there before reads along."""

import os
from pathlib import Path

from certd import credential_files


def test_who_made_a_file_before_does_not_read_the_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    partial = tmp_path / f".{path.name}.{os.getpid()}"
    partial.touch(mode=0o666)
    with partial.open("rb") as other:
        credential_files.write(path, b"secret", mode=0o600)
        assert other.read() == b""
    assert path.read_bytes() == b"secret"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
