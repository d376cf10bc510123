import os
import stat
from pathlib import Path

import pytest

from certd.cli.certctl import files
from certd.errors import CertdError, Reason


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_trailing_newline_of_a_passphrase_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "pass.txt"
    for content, expected in [
        (b"long enough\n", b"long enough"),
        (b"long enough\n\n", b"long enough\n"),
        (b"long enough", b"long enough"),
    ]:
        file.write_bytes(content)
        file.chmod(0o600)
        assert files.read_passphrase(str(file)) == (expected, None)


def test_a_passphrase_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "pass.txt"
    file.write_bytes(b"long enough")
    file.chmod(0o644)
    _, warning = files.read_passphrase(str(file))
    assert warning is not None
    assert "0644" in warning


@pytest.mark.parametrize("length", [0, 7, 1025, 5000])
def test_a_passphrase_out_of_bounds_is_refused_without_showing_it(tmp_path: Path, length: int) -> None:
    file = tmp_path / "pass.txt"
    file.write_bytes(b"Z" * length)
    with pytest.raises(CertdError) as caught:
        files.read_passphrase(str(file))
    assert "ZZ" not in caught.value.message


@pytest.mark.parametrize("length", [8, 1024])
def test_the_bounds_of_a_passphrase_are_inclusive(tmp_path: Path, length: int) -> None:
    file = tmp_path / "pass.txt"
    file.write_bytes(b"Z" * length + b"\n")
    assert len(files.read_passphrase(str(file))[0]) == length


def test_a_csr_that_is_too_large_is_refused_before_it_travels(tmp_path: Path) -> None:
    file = tmp_path / "req.pem"
    file.write_bytes(b"x" * (32 << 10))
    assert len(files.read_csr(str(file))) == 32 << 10
    file.write_bytes(b"x" * ((32 << 10) + 1))
    with pytest.raises(CertdError) as caught:
        files.read_csr(str(file))
    assert caught.value.reason is Reason.CSR_MALFORMED


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertdError, match=r"none\.pem"):
        files.read_csr(str(tmp_path / "none.pem"))


def test_files_are_written_with_their_modes_whatever_was_there(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    key.write_bytes(b"old")
    key.chmod(0o644)
    files.write(
        [files.Output(path=certificate, content=b"c"), files.Output(path=key, content=b"k", mode=files.SECRET_MODE)]
    )
    assert (key.read_bytes(), mode_of(key)) == (b"k", 0o600)
    assert (certificate.read_bytes(), mode_of(certificate)) == (b"c", 0o644)
    assert {path.name for path in tmp_path.iterdir()} == {"cert.pem", "key.pem"}


def test_when_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    first = tmp_path / "first.pem"
    first.write_bytes(b"old")
    with pytest.raises(CertdError, match="cannot be written"):
        files.write(
            [
                files.Output(path=first, content=b"new"),
                files.Output(path=tmp_path / "no" / "such" / "second.pem", content=b"new"),
            ]
        )
    assert first.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [first]


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files.check_writable([tmp_path / "new.pem", tmp_path / "file"])
    reader, writer = os.pipe()
    try:
        for path in (
            Path("-"),
            tmp_path,
            tmp_path / "no" / "x.pem",
            tmp_path / "file" / "x",
            Path(f"/dev/fd/{writer}"),
        ):
            with pytest.raises(CertdError) as caught:
                files.check_writable([path])
            assert caught.value.reason is Reason.FIELD_INVALID, path
    finally:
        os.close(reader)
        os.close(writer)


def test_a_directory_that_cannot_be_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files.check_directory(tmp_path / "new" / "out")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(CertdError, match="is no directory"):
            files.check_directory(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target.pem", tmp_path / "link.pem"
    link.symlink_to(target)
    files.write([files.Output(path=link, content=b"new")])
    assert target.read_bytes() == b"new"
    assert link.is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(CertdError, match="no regular file"):
        files.write([files.Output(path=tmp_path, content=b"new")])


@pytest.mark.parametrize("label", ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_a_private_key_does_not_travel_with_its_csr(tmp_path: Path, label: str) -> None:
    file = tmp_path / "req.pem"
    file.write_text(f"-----BEGIN CERTIFICATE REQUEST-----\n-----BEGIN {label}-----\nSECRET\n-----END {label}-----\n")
    with pytest.raises(CertdError) as caught:
        files.read_csr(str(file))
    assert "SECRET" not in caught.value.message
    assert "private key" in caught.value.message
