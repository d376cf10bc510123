"""OCSP requests as others write them, and responses as others read them."""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ReasonFlags, ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from certd.pki import der
from certd.pki.key_spec import KeySpec
from certd.pki.ocsp_identifiers import HashAlgorithm, key_hash, name_hash
from certd.pki.ocsp_request import (
    LONGEST_NONCE,
    LONGEST_REQUEST,
    MOST_CERTIFICATES,
    MalformedRequestError,
    parse_request,
)
from certd.pki.ocsp_response import (
    ResponseStatus,
    SingleAnswer,
    State,
    Status,
    cert_id,
    error_response,
    parse_response_data,
    response_data,
    signed_response,
    successful_response,
)
from tests.unit.memory_authority import root, sign

_ROOT = root()
_CERTIFICATE = x509.load_der_x509_certificate(_ROOT.certificate)
_NOW = datetime(2026, 3, 4, 5, 6, 7, 890_123, tzinfo=UTC)
_ALGORITHMS = [(hashes.SHA1(), HashAlgorithm.SHA1), (hashes.SHA256(), HashAlgorithm.SHA256)]  # RFC 5019.
_NONCE = "1.3.6.1.5.5.7.48.1.2"


def _request(algorithm: hashes.HashAlgorithm = _ALGORITHMS[0][0], nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(_CERTIFICATE, _CERTIFICATE, algorithm)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def _parts(request: bytes) -> bytes:
    """Returns the list of single requests."""
    return der.Reader(request).enter(der.SEQUENCE).enter(der.SEQUENCE).read(der.SEQUENCE)


def _with_extensions(*extensions: bytes) -> bytes:
    listed = der.encode(der.context(2), der.sequence(*extensions))
    return der.sequence(der.sequence(der.encode(der.SEQUENCE, _parts(_request())), listed))


def _extension(oid: str, value: bytes, *, critical: bytes = b"") -> bytes:
    return der.sequence(der.object_identifier(oid), critical, der.octet_string(value))


@pytest.mark.parametrize(("theirs", "ours"), _ALGORITHMS)
def test_a_request_is_read_as_others_write_it(theirs: hashes.HashAlgorithm, ours: HashAlgorithm) -> None:
    parsed = parse_request(_request(theirs))
    (named,) = parsed.certificates
    assert (parsed.nonce, parsed.plain, named.algorithm) == (None, True, ours)
    assert named.serial == _CERTIFICATE.serial_number
    assert named.issuer_name_hash == name_hash(ours, _ROOT.issuer.name)
    assert named.issuer_key_hash == key_hash(ours, _ROOT.issuer.public_key)


@pytest.mark.parametrize("length", [1, 16, 32, LONGEST_NONCE])
def test_a_nonce_has_one_to_128_octets(length: int) -> None:
    parsed = parse_request(_request(nonce=b"n" * length))
    assert (parsed.nonce, parsed.plain) == (b"n" * length, False)


def test_a_version_a_requestor_and_a_signature_are_passed_over() -> None:
    listed = der.encode(der.SEQUENCE, _parts(_request()))
    version = bytes.fromhex("a003020100")
    requestor = der.encode(der.context(1), der.encode(0xA4, _ROOT.issuer.name))
    signature = der.encode(der.context(0), der.sequence(b"\x30\x00", der.bit_string(b"signature")))
    assert parse_request(der.sequence(der.sequence(version, listed))).plain
    assert not parse_request(der.sequence(der.sequence(requestor, listed))).plain
    assert not parse_request(der.sequence(der.sequence(listed), signature)).plain
    without_null = _request().replace(bytes.fromhex("300906052b0e03021a0500"), bytes.fromhex("300706052b0e03021a"))
    assert without_null != _request()


def test_what_is_no_request_is_malformed() -> None:
    good = _request()
    parts = _parts(good)
    listed = der.encode(der.SEQUENCE, parts)
    nonce = _extension(_NONCE, der.octet_string(b"n"))
    bent = {
        "nothing": b"",
        "cut off": good[:-1],
        "more": good + b"\x00",
        "too long": good + bytes(LONGEST_REQUEST),
        "indefinite": b"\x30\x80" + good[2:] + b"\x00\x00",
        "version": der.sequence(der.sequence(bytes.fromhex("a003020101"), listed)),
        "no certificate": der.sequence(der.sequence(der.sequence())),
        "too many": der.sequence(der.sequence(der.encode(der.SEQUENCE, parts * (MOST_CERTIFICATES + 1)))),
        "another hash": _request(hashes.SHA384()),
        "short hash": good.replace(b"\x04\x14", b"\x04\x13", 1),
        "empty nonce": _with_extensions(_extension(_NONCE, der.octet_string(b""))),
        "long nonce": _with_extensions(_extension(_NONCE, der.octet_string(bytes(LONGEST_NONCE + 1)))),
        "bare nonce": _with_extensions(_extension(_NONCE, b"nonce")),
        "two nonces": _with_extensions(nonce, nonce),
        "critical": _with_extensions(_extension("1.2.3", b"\x05\x00", critical=b"\x01\x01\xff")),
        "empty extensions": der.sequence(der.sequence(listed, der.encode(der.context(2), b""))),
    }
    assert parse_request(_with_extensions(nonce, _extension("1.2.3", b"\x05\x00"))).nonce == b"n"
    for what, request in bent.items():
        try:
            parse_request(request)
        except MalformedRequestError:
            continue
        pytest.fail(what)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 100), st.integers(0, 40))
def test_whatever_comes_is_read_or_malformed(noise: bytes, at: int, dropped: int) -> None:
    good = _request(nonce=b"n" * 16)
    for request in (noise, good[:at] + noise[:4] + good[at + dropped :]):
        with contextlib.suppress(MalformedRequestError):
            assert parse_request(request).certificates


@pytest.mark.parametrize("spec", [KeySpec.EC_P256, KeySpec.RSA_2048])
@pytest.mark.parametrize(("theirs", "ours"), _ALGORITHMS)
@pytest.mark.parametrize(
    "status",
    [
        Status(State.GOOD),
        Status(State.UNKNOWN),
        Status(State.REVOKED, _NOW - timedelta(days=1)),
        Status(State.REVOKED, _NOW, "unspecified"),
        Status(State.REVOKED, _NOW, "keyCompromise"),
        Status(State.REVOKED, _NOW, "aACompromise"),
    ],
)
def test_a_response_is_read_by_others_as_it_was_meant(
    spec: KeySpec, theirs: hashes.HashAlgorithm, ours: HashAlgorithm, status: Status
) -> None:
    signer = root(spec)
    named = cert_id(ours, issuer_name=signer.issuer.name, issuer_key=signer.issuer.public_key, serial=1 << 150)
    hashed = key_hash(HashAlgorithm.SHA1, signer.issuer.public_key)
    tbs = response_data(
        responder_key_hash=hashed,
        produced_at=_NOW,
        next_update=_NOW + timedelta(days=2),
        answers=[SingleAnswer(named, status)],
        nonce=b"nonce",
    )
    algorithm = signer.issuer.signature_algorithm
    signed = signed_response(tbs, algorithm, sign(signer.private_key, algorithm, tbs))
    loaded = ocsp.load_der_ocsp_response(successful_response(signed, [signer.certificate]))
    assert loaded.tbs_response_bytes == tbs
    assert loaded.certificate_status.name == status.state.name
    assert (loaded.serial_number, loaded.responder_key_hash) == (1 << 150, hashed)
    assert loaded.hash_algorithm.name == theirs.name
    second = _NOW.replace(microsecond=0)
    assert loaded.produced_at_utc == loaded.this_update_utc == second
    assert loaded.next_update_utc == second + timedelta(days=2)
    assert loaded.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"nonce"
    assert [one.public_bytes(Encoding.DER) for one in loaded.certificates] == [signer.certificate]
    if status.revoke_time is not None:
        assert loaded.revocation_time_utc == status.revoke_time.replace(microsecond=0)
        reason = status.reason if status.reason != "unspecified" else None
        assert loaded.revocation_reason == (None if reason is None else ReasonFlags(reason))
    (read,) = parse_response_data(tbs).answers
    assert (read.state, read.serial, read.algorithm) == (status.state, 1 << 150, ours)
    assert (read.this_update, read.next_update) == (second, second + timedelta(days=2))


@pytest.mark.parametrize("status", ResponseStatus)
def test_an_error_is_a_response_without_more(status: ResponseStatus) -> None:
    assert ocsp.load_der_ocsp_response(error_response(status)).response_status.value == status
