from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.key_spec import SignatureAlgorithm, algorithm_identifier, public_key_der
from certd.pki.tbs import parse_certification_request_info, parse_tbs_certificate
from tests.unit.memory_authority import csr, public_key

_ISSUER = dn.parse_text("CN=Issuer")
_SUBJECT = dn.parse_text("CN=Subject")
_KEY = public_key()
_VERSION = der.encode(der.context(0), der.integer(2))
_ALGORITHM = algorithm_identifier(SignatureAlgorithm.ECDSA_WITH_SHA256)


def _utc(text: str) -> bytes:
    return der.encode(der.UTC_TIME, text.encode())


def _generalized(text: str) -> bytes:
    return der.encode(der.GENERALIZED_TIME, text.encode())


def _extension(oid: str, value: bytes, critical: bytes = b"") -> bytes:
    return der.sequence(der.object_identifier(oid), critical, der.octet_string(value))


_PLAIN = _extension("2.5.29.19", der.sequence())
_TRUE = b"\x01\x01\xff"


def _tbs(
    *,
    version: bytes = _VERSION,
    serial: bytes = der.integer(7),  # Immutable.
    algorithm: bytes = _ALGORITHM,
    not_before: bytes = _utc("260304050607Z"),  # Immutable.
    not_after: bytes = _generalized("20500101000000Z"),  # Immutable.
    between: bytes = b"",
    extensions: tuple[bytes, ...] = (_PLAIN,),
    after: bytes = b"",
) -> bytes:
    return der.sequence(
        version, serial, algorithm, _ISSUER, der.sequence(not_before, not_after), _SUBJECT, _KEY, between,
        der.encode(der.context(3), der.sequence(*extensions)), after,
    )  # fmt: skip


def test_fields_are_the_bytes_that_stand_there() -> None:
    parsed = parse_tbs_certificate(_tbs())
    assert (parsed.issuer, parsed.subject, parsed.public_key) == (_ISSUER, _SUBJECT, _KEY)
    assert parsed.serial == 7
    assert parsed.not_before == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert parsed.not_after == datetime(2050, 1, 1, tzinfo=UTC)
    assert parsed.signature_algorithm is SignatureAlgorithm.ECDSA_WITH_SHA256
    assert list(parsed.extensions) == ["2.5.29.19"]
    assert not parsed.authority
    assert parsed.path_length is None


def test_years_of_utc_time() -> None:
    assert parse_tbs_certificate(_tbs(not_before=_utc("491231235959Z"))).not_before.year == 2049
    assert parse_tbs_certificate(_tbs(not_before=_utc("500101000000Z"))).not_before.year == 1950


def test_negative_serial_is_read_for_the_lint_to_judge() -> None:
    assert parse_tbs_certificate(_tbs(serial=der.integer(-1))).serial == -1


@pytest.mark.parametrize(
    ("extensions", "path_length"),
    [
        ((_extension("2.5.29.19", der.sequence(_TRUE), _TRUE),), None),
        ((_extension("2.5.29.19", der.sequence(_TRUE, der.integer(3)), _TRUE),), 3),
        ((_extension("2.5.29.15", b"\x03\x02\x02\x04"),), None),
        ((_extension("2.5.29.15", b"\x03\x02\x01\x02"),), None),
        ((_PLAIN, _extension("2.5.29.15", b"\x03\x02\x02\x84")), None),
        ((_extension("2.16.840.1.113730.1.1", b"\x03\x02\x02\x04"),), None),
        ((_PLAIN, _extension("2.5.29.10", der.sequence(b"\x03\x02\x07\x80"))), None),
    ],
)
def test_whatever_makes_an_authority_is_seen(extensions: tuple[bytes, ...], path_length: int | None) -> None:
    parsed = parse_tbs_certificate(_tbs(extensions=extensions))
    assert parsed.authority
    assert parsed.path_length == path_length


@pytest.mark.parametrize("usage", [b"\x03\x02\x07\x80", b"\x03\x02\x05\xa0", b"\x03\x03\x07\x00\x80"])
def test_other_key_usages_make_none(usage: bytes) -> None:
    assert not parse_tbs_certificate(_tbs(extensions=(_PLAIN, _extension("2.5.29.15", usage)))).authority


_UNKNOWN = der.sequence(der.object_identifier("1.2.840.113549.1.1.5"), b"\x05\x00")
_PADDED_OID = der.sequence(
    der.encode(der.OBJECT_IDENTIFIER, b"\x55\x80\x1d\x13"), der.octet_string(der.sequence(_TRUE))
)


@pytest.mark.parametrize(
    ("tbs", "problem"),
    [
        (b"", "too early"),
        (_tbs()[:-1], "too early"),
        (_tbs() + b"\x00", "after its end"),
        (_tbs(version=b""), "tag"),
        (_tbs(version=der.encode(der.context(0), der.integer(1))), "version"),
        (_tbs(serial=b"\x02\x02\x00\x01"), "shortest"),
        (_tbs(algorithm=_UNKNOWN), "algorithm"),
        (_tbs(algorithm=_ALGORITHM[:-1] + b"\x09"), "algorithm"),
        (_tbs(algorithm=der.sequence(_ALGORITHM[2:], b"\x05\x00")), "algorithm"),
        (_tbs(not_before=_utc("2603040506Z")), "to the second"),
        (_tbs(not_before=_utc("260304050607+0000")), "to the second"),
        (_tbs(not_before=_utc("26030405060 Z")), "to the second"),
        (_tbs(not_before=_utc("260230050607Z")), "does not exist"),
        (_tbs(not_before=_utc("260304050660Z")), "does not exist"),
        (_tbs(not_after=_generalized("20491231235959Z")), "before 2050"),
        (_tbs(not_after=_generalized("20500101000000.5Z")), "to the second"),
        (_tbs(not_after=der.integer(5)), "to the second"),
        (_tbs(between=der.encode(0x81, b"\x00\x01")), "tag"),
        (_tbs(after=b"\x05\x00"), "after its end"),
        (_tbs(extensions=()), "no extensions"),
        (_tbs(extensions=(_PLAIN, _PLAIN)), "twice"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence(), b"\x01\x01\x00"),)), "BOOLEAN"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence(b"\x01\x01\x01")),)), "BOOLEAN"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence(der.integer(0))),)), "path length"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence(_TRUE, der.integer(-1))),)), "path length"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence(_TRUE, b"\x05\x00")),)), "tag"),
        (_tbs(extensions=(_extension("2.5.29.19", der.sequence() + b"\x00"),)), "after its end"),
        (_tbs(extensions=(_extension("2.5.29.15", b"\x03\x01\x00"),)), "key usage"),
        (_tbs(extensions=(_extension("2.5.29.15", b"\x03\x02\x02\x85"),)), "key usage"),
        (_tbs(extensions=(_extension("2.5.29.15", b"\x03\x02\x09\x80"),)), "key usage"),
        (_tbs(extensions=(_extension("2.5.29.15", b"\x03\x04\x00\x80\x00\x01"),)), "key usage"),
        (_tbs(extensions=(_PADDED_OID,)), "OBJECT IDENTIFIER"),
    ],
)
def test_anything_else_is_refused(tbs: bytes, problem: str) -> None:
    with pytest.raises(CertdError, match=problem) as caught:
        parse_tbs_certificate(tbs)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "to_be_signed"


def _parses_or_refuses(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        parse(data)
    except CertdError as error:
        return error.reason is Reason.FIELD_INVALID
    return True


@given(st.binary(max_size=300))
def test_no_bytes_surprise_the_reader(data: bytes) -> None:
    assert _parses_or_refuses(parse_tbs_certificate, data)
    assert _parses_or_refuses(parse_certification_request_info, data)


@given(st.integers(0, len(_tbs()) - 1), st.integers(0, 255))
def test_no_changed_byte_surprises_the_reader(at: int, value: int) -> None:
    changed = bytearray(_tbs())
    changed[at] = value
    assert _parses_or_refuses(parse_tbs_certificate, bytes(changed))


def test_request() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    info = csr(key, subject=x509.Name.from_bytes(_SUBJECT), san=[x509.DNSName("a")]).tbs_certrequest_bytes
    assert parse_certification_request_info(info) == (_SUBJECT, public_key_der(key.public_key()))


@pytest.mark.parametrize(
    "info",
    [
        b"",
        der.sequence(der.integer(1), _SUBJECT, _KEY, b"\xa0\x00"),
        der.sequence(der.integer(0), _SUBJECT, _KEY),
        der.sequence(der.integer(0), _SUBJECT, _KEY, b"\xa0\x00", b"\x05\x00"),
        der.sequence(der.integer(0), _SUBJECT, _KEY, b"\xa0\x00") + b"\x00",
        _tbs(),
    ],
)
def test_what_is_no_request(info: bytes) -> None:
    with pytest.raises(CertdError, match="CertificationRequestInfo") as caught:
        parse_certification_request_info(info)
    assert caught.value.reason is Reason.FIELD_INVALID
