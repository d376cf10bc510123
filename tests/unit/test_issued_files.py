"""What other CAs have written down, read: of openssl, step-ca, Vault, and CRLs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.cli.certctl.issued_files import Issued, Records, exported, openssl_index, read_crl
from certd.errors import CertdError
from tests.outside_parent import certify, name, outside_authority

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CA = outside_authority("Old Root", now=NOW)


def leaf(common_name: str = "leaf") -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    return certify(CA, now=NOW, subject=name(common_name), public_key=key.public_key(), authority=False)


def crl_of(*serials: int, number: int | None = 7) -> x509.CertificateRevocationList:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name("Old Root")).last_update(NOW)
    builder = builder.next_update(NOW + timedelta(days=7))
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)
        entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        entry = entry.add_extension(x509.InvalidityDate(NOW - timedelta(days=1)), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(CA.key, hashes.SHA256())


INDEX = (
    "V\t270301120000Z\t\t1000\tunknown\t/CN=www.example.internal\n"
    "E\t200301120000Z\t\t1001\tunknown\t/CN=expired\n"
    "R\t20510301120000Z\t260201000000Z,keyCompromise\t1002\tunknown\t/C=DE/CN=compromised\n"
    "R\t270301120000Z\t260201000000Z\t1003\tunknown\t/CN=no reason\n"
    "R\t270301120000Z\t260201000000Z,keyTime,20260115000000Z\t0A\tunknown\t/CN=since\n"
    "R\t270301120000Z\t260201000000Z,certificateHold\t0B\tunknown\t/CN=held\n"
)


def test_an_index_of_openssl(tmp_path: Path) -> None:
    (tmp_path / "index.txt").write_text(INDEX)
    valid, expired, compromised, plain, since, held = openssl_index(str(tmp_path / "index.txt"), None)
    assert valid == Issued(
        serial=0x1000, not_after=datetime(2027, 3, 1, 12, tzinfo=UTC), subject="/CN=www.example.internal"
    )
    assert (expired.not_after, expired.revoked) == (datetime(2020, 3, 1, 12, tzinfo=UTC), None)
    assert compromised.not_after == datetime(2051, 3, 1, 12, tzinfo=UTC)
    assert compromised.revoked is not None
    assert (compromised.revoked.time, compromised.revoked.reason) == (
        datetime(2026, 2, 1, tzinfo=UTC),
        "KEY_COMPROMISE",
    )
    for one in (plain, held):
        assert one.revoked is not None
        assert one.revoked.reason == "REVOCATION_REASON_UNSPECIFIED"
    assert since.revoked is not None
    assert (since.revoked.reason, since.revoked.invalidity_time) == (
        "KEY_COMPROMISE",
        datetime(2026, 1, 15, tzinfo=UTC),
    )


def test_certificates_beside_an_index_are_found_by_their_serial_numbers(tmp_path: Path) -> None:
    made = leaf()
    serial = f"{made.serial_number:X}"
    serial = serial if len(serial) % 2 == 0 else f"0{serial}"
    (tmp_path / f"{serial}.pem").write_bytes(b"Certificate:\n    Data:\n" + made.public_bytes(Encoding.PEM))
    (tmp_path / "index.txt").write_text(
        f"V\t270301120000Z\t\t{serial}\tunknown\t/CN=leaf\nV\t270301120000Z\t\t77\tunknown\t/CN=gone\n"
    )
    found, gone = openssl_index(str(tmp_path / "index.txt"), tmp_path)
    assert found.certificate == made.public_bytes(Encoding.DER)
    assert gone.certificate == b""


@pytest.mark.parametrize(
    "line",
    [
        "V\t270301120000Z\t\t1000\tunknown",
        "X\t270301120000Z\t\t1000\tunknown\t/CN=a",
        "V\tlater\t\t1000\tunknown\t/CN=a",
        "V\t270301120000Z\t\tnumber\tunknown\t/CN=a",
        "R\t270301120000Z\t\t1000\tunknown\t/CN=a",
        "R\t270301120000Z\t260201000000Z,because\t1000\tunknown\t/CN=a",
        "x" * (1 << 17),
    ],
)
def test_what_is_no_index_is_told_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "index.txt").write_text(f"{INDEX}{line}\n")
    with pytest.raises(CertdError, match="line 7"):
        list(openssl_index(str(tmp_path / "index.txt"), None))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_a_crl(tmp_path: Path, encoding: Encoding) -> None:
    (tmp_path / "last.crl").write_bytes(crl_of(5, 0xABC).public_bytes(encoding))
    records = Records()
    read_crl(str(tmp_path / "last.crl"), records)
    assert records.crl_number == 7
    assert set(records.revocations) == {5, 0xABC}
    assert records.revocations[5].reason == "KEY_COMPROMISE"
    assert records.revocations[5].invalidity_time == NOW - timedelta(days=1)


def test_a_crl_without_a_number_and_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "old.crl").write_bytes(crl_of(5, number=None).public_bytes(Encoding.DER))
    records = Records()
    read_crl(str(tmp_path / "old.crl"), records)
    assert (records.crl_number, len(records.revocations)) == (0, 1)
    (tmp_path / "none.crl").write_bytes(b"none")
    with pytest.raises(CertdError, match="is no CRL"):
        read_crl(str(tmp_path / "none.crl"), records)


def test_exports_of_step_ca(tmp_path: Path) -> None:
    """Certificates as PEM, and records of `revoked_x509_certs`, whose serial numbers are decimal."""
    made = [leaf(f"leaf-{index}") for index in range(3)]
    (tmp_path / "all.pem").write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in made))
    lines = [
        {"Serial": str(made[1].serial_number), "ReasonCode": 4, "RevokedAt": "2026-02-01T10:00:00.123456789Z"},
        {"Serial": "12345", "ReasonCode": 0, "RevokedAt": "2026-02-01T10:00:00Z", "ExpiresAt": "2027-02-01T10:00:00Z"},
    ]
    (tmp_path / "revoked.json").write_text("\n".join(map(json.dumps, lines)))
    records = Records()
    found = list(exported([str(tmp_path / "all.pem"), str(tmp_path / "revoked.json")], records))
    assert [one.certificate for one in found] == [one.public_bytes(Encoding.DER) for one in made]
    assert set(records.revocations) == {made[1].serial_number, 12345}
    assert records.revocations[made[1].serial_number].reason == "SUPERSEDED"
    assert records.revocations[12345].not_after == datetime(2027, 2, 1, 10, tzinfo=UTC)


def test_exports_of_vault(tmp_path: Path) -> None:
    """Answers of `pki/cert/SERIAL`, and a list of revoked serial numbers, in one directory."""
    good, bad = leaf("good"), leaf("bad")
    for one, revocation_time in ((good, 0), (bad, 1_769_940_000)):
        data = {"certificate": one.public_bytes(Encoding.PEM).decode(), "revocation_time": revocation_time}
        (tmp_path / f"{one.serial_number:x}.json").write_text(json.dumps({"request_id": "x", "data": data}))
    (tmp_path / "revoked.json").write_text(json.dumps(["17:67:16:b0", f"{bad.serial_number:x}"]))
    (tmp_path / "notes.txt").write_text("of no concern")
    records = Records()
    found = list(exported([str(tmp_path)], records))
    assert {one.serial for one in found} == {good.serial_number, bad.serial_number}
    assert set(records.revocations) == {bad.serial_number, 0x176716B0}
    assert records.revocations[bad.serial_number].time == datetime.fromtimestamp(1_769_940_000, UTC)
    (tmp_path / "revoked.json").write_text(json.dumps({"data": {"keys": ["0a"]}}))
    list(exported([str(tmp_path)], records := Records()))
    assert 0x0A in records.revocations


def test_a_list_of_all_certificates_is_not_taken_for_one_of_what_is_revoked(tmp_path: Path) -> None:
    good = leaf("good")
    data = {"certificate": good.public_bytes(Encoding.PEM).decode(), "revocation_time": 0}
    (tmp_path / "good.json").write_text(json.dumps({"data": data}))
    (tmp_path / "serials.json").write_text(json.dumps([f"{good.serial_number:x}"]))
    with pytest.raises(CertdError, match="pki/certs/revoked"):
        list(exported([str(tmp_path)], Records()))


def test_what_step_ca_does_not_know_is_not_known_here(tmp_path: Path) -> None:
    told = {"Serial": "12345", "ReasonCode": "?", "RevokedAt": "2026-02-01T10:00:00Z"}
    (tmp_path / "revoked.json").write_text(json.dumps({**told, "ExpiresAt": "0001-01-01T00:00:00Z"}))
    list(exported([str(tmp_path)], records := Records()))
    assert records.revocations[12345].not_after is None
    assert records.revocations[12345].reason == "REVOCATION_REASON_UNSPECIFIED"


def test_a_certificate_in_der(tmp_path: Path) -> None:
    made = leaf()
    (tmp_path / "leaf.der").write_bytes(made.public_bytes(Encoding.DER))
    (found,) = exported([str(tmp_path / "leaf.der")], Records())
    assert found.serial == made.serial_number


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1]", "no record"),
        (b'{"data": ', "no JSON"),
        (b'{"RevokedAt": "2026-02-01T10:00:00Z"}', "no serial number"),
        (b'{"Serial": "1", "RevokedAt": "yesterday"}', "no time"),
        (b'["no number"]', "no serial number"),
        (b"nothing", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"),
    ],
)
def test_what_does_not_read_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CertdError, match=says):
        list(exported([str(tmp_path / "file")], Records()))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    for read in (
        lambda path: list(openssl_index(path, None)),
        lambda path: list(exported([path], Records())),
        lambda path: read_crl(path, Records()),
    ):
        with pytest.raises(CertdError, match="absent"):
            read(str(tmp_path / "absent"))
