"""certctl certificate revoke of what is in files: the certificate of the books, or none."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import (
    BatchRevokeCertificatesResponse,
    SearchCertificatesResponse,
)
from tests.certctl import CA, Certctl, encoded
from tests.fakes_server import FakeServer, Issued, make_leaf

OTHER = "tenants/default/authorities/mail-ca"


def named(issued: Issued, authority: str = CA) -> str:
    serial = issued.certificate.serial_number
    return f"{authority}/certificates/{serial.to_bytes((serial.bit_length() + 7) // 8).hex()}"


@pytest.fixture
def leaf(root: Issued) -> Issued:
    return make_leaf(root, "www.example.internal")


def books(fake: FakeServer, *pages: Sequence[tuple[str, Issued]]) -> None:
    """Has a search find these, whatever the serial number."""
    answers = [
        SearchCertificatesResponse(
            certificates=[Certificate(name=name, certificate=encoded(one)) for name, one in page],
            next_page_token="more" if number < len(pages) else "",
        )
        for number, page in enumerate(pages, 1)
    ]
    fake.answer("SearchCertificates", *answers)


@pytest.mark.parametrize(("encoding", "ending"), [(Encoding.PEM, "pem"), (Encoding.DER, "cer")])
def test_the_certificate_in_a_file_is_revoked(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, root: Issued, leaf: Issued, encoding: Encoding, ending: str
) -> None:
    file = tmp_path / f"leaf.{ending}"
    file.write_bytes(leaf.certificate.public_bytes(encoding))
    # Another authority has one with that serial number, too.
    books(fake, [(named(leaf, OTHER), make_leaf(root, "mail.example.internal"))], [(named(leaf), leaf)])
    fake.answer("RevokeCertificate", Certificate(name=named(leaf), state=Certificate.REVOKED))
    ended = certctl("certificate", "revoke", file, "--reason", "superseded")
    assert ended.code == 0, ended.err
    search = fake.requests("SearchCertificates")[0]
    assert search.parent == "tenants/default/authorities/-"
    assert int(search.filter.serial_number, 16) == leaf.certificate.serial_number
    (call,) = fake.requests("RevokeCertificate")
    assert call.name == named(leaf)


def test_what_is_not_the_same_as_in_the_books_is_not_revoked(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, root: Issued, leaf: Issued
) -> None:
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate_pem)
    books(fake, [(named(leaf), make_leaf(root, "www.example.internal"))])
    ended = certctl("certificate", "revoke", tmp_path / "leaf.pem", "--authority", "web-ca")
    assert (ended.code, f"is not the one of its serial number in the books: {named(leaf)}" in ended.err) == (1, True)
    assert fake.requests("SearchCertificates")[0].parent == CA
    fake.answer("SearchCertificates", SearchCertificatesResponse(certificates=[Certificate(name=named(leaf))]))
    ended = certctl("certificate", "revoke", tmp_path / "leaf.pem")
    assert (ended.code, f"no copy of {named(leaf)} to compare" in ended.err) == (1, True)
    books(fake, [])
    ended = certctl("certificate", "revoke", tmp_path / "leaf.pem", "0a1b", "--authority", "web-ca")
    assert (ended.code, "no certificate with the serial number" in ended.err) == (1, True)
    assert fake.requests("RevokeCertificate") == fake.requests("BatchRevokeCertificates") == []


def test_a_file_of_several_is_refused_before_anything_is_asked(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, root: Issued, leaf: Issued
) -> None:
    (tmp_path / "full.pem").write_bytes(leaf.certificate_pem + root.certificate_pem)
    ended = certctl("certificate", "revoke", tmp_path / "full.pem")
    assert (ended.code, "has 2 certificates" in ended.err) == (1, True)
    ended = certctl("certificate", "revoke", tmp_path / "none.pem")
    assert (ended.code, "cannot be read" in ended.err) == (1, True)
    assert fake.requests("SearchCertificates") == []


def test_files_and_serial_numbers_are_revoked_together(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, leaf: Issued
) -> None:
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate_pem)
    books(fake, [(named(leaf), leaf)])
    results = [BatchRevokeCertificatesResponse.Result(certificate=Certificate()) for _ in range(2)]
    fake.answer("BatchRevokeCertificates", BatchRevokeCertificatesResponse(results=results))
    ended = certctl("certificate", "revoke", "0a1b", tmp_path / "leaf.pem", "--authority", "web-ca")
    assert ended.code == 0, ended.err
    (call,) = fake.requests("BatchRevokeCertificates")
    assert [one.name for one in call.requests] == [f"{CA}/certificates/0a1b", named(leaf)]
