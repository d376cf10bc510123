"""OCSP responses: what the token process signs of them, by the key of an authority and by that of its responder."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.ocsp_identifiers import HashAlgorithm, key_hash
from certd.pki.ocsp_response import SingleAnswer, State, Status, cert_id, response_data
from certd.token.client import TokenClient
from certd.token.policy import LONGEST_OCSP_RESPONSE, SignatureKind
from tests.token.material import AUTHORITY, OTHER, Authority, make_authority, make_certificate, make_policy, verifies

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
_GOOD = Status(State.GOOD)


@pytest.fixture(scope="module")
def authority(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=make_policy(kinds=(SignatureKind.CERTIFICATE, SignatureKind.OCSP_RESPONSE)))


@pytest.fixture(scope="module")
def responder(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=make_policy(kinds=(SignatureKind.OCSP_RESPONSE,)))


def _response(
    by: Authority,
    *,
    about: bytes,
    name: x509.Name = AUTHORITY,
    holds: timedelta = timedelta(days=2),
    algorithm: HashAlgorithm = HashAlgorithm.SHA1,
    status: Status = _GOOD,
    nonce: bytes | None = None,
) -> bytes:
    named = cert_id(algorithm, issuer_name=name.public_bytes(), issuer_key=about, serial=5)
    return response_data(
        responder_key_hash=key_hash(HashAlgorithm.SHA1, by.public_key),
        produced_at=_NOW,
        next_update=_NOW + holds,
        answers=[SingleAnswer(named, status)],
        nonce=nonce,
    )


def _sign(client: TokenClient, by: Authority, data: bytes) -> object:
    (result,) = client.sign([by.item(data, kind=SignatureKind.OCSP_RESPONSE)], timeout=20)
    return result


@pytest.mark.parametrize("algorithm", HashAlgorithm)
@pytest.mark.parametrize("nonce", [None, b"n" * 128])
@pytest.mark.parametrize(
    "status", [_GOOD, Status(State.UNKNOWN), Status(State.REVOKED, _NOW), Status(State.REVOKED, _NOW, "keyCompromise")]
)
def test_what_certd_writes_is_signed(
    shared: TokenClient,
    authority: Authority,
    responder: Authority,
    algorithm: HashAlgorithm,
    nonce: bytes | None,
    status: Status,
) -> None:
    for by in (authority, responder):
        data = _response(by, about=authority.public_key, algorithm=algorithm, nonce=nonce, status=status)
        item = by.item(data, kind=SignatureKind.OCSP_RESPONSE)
        (signature,) = shared.sign([item], timeout=20)
        assert verifies(by, item, signature)


def test_a_responder_signs_nothing_else(shared: TokenClient, responder: Authority) -> None:
    (result,) = shared.sign([responder.item(make_certificate())], timeout=20)
    assert isinstance(result, CertdError)
    assert result.reason is Reason.TOKEN_POLICY_FORBIDS
    assert "OCSP responses" in result.message


def test_a_key_without_the_kind_signs_none(shared: TokenClient) -> None:
    other = make_authority(shared, policy=make_policy(kinds=(SignatureKind.CERTIFICATE,)))
    result = _sign(shared, other, _response(other, about=other.public_key))
    assert isinstance(result, CertdError)
    assert result.reason is Reason.TOKEN_POLICY_FORBIDS


def test_what_breaks_the_policy_is_refused(shared: TokenClient, authority: Authority, responder: Authority) -> None:
    own = authority.public_key
    cases = {
        "another key as its responder": (authority, _response(responder, about=own)),
        "of another issuer": (responder, _response(responder, about=own, name=OTHER)),
        "another key has signed": (authority, _response(authority, about=responder.public_key)),
        "ends before it is made": (authority, _response(authority, about=own, holds=timedelta(0))),
        "to hold longer than": (
            authority,
            _response(authority, about=own, holds=LONGEST_OCSP_RESPONSE + timedelta(seconds=1)),
        ),
    }
    for finding, (by, data) in cases.items():
        result = _sign(shared, by, data)
        assert isinstance(result, CertdError), finding
        assert (result.reason, finding in result.message) == (Reason.TOKEN_POLICY_FORBIDS, True), result.message


def test_what_certd_does_not_write_is_refused(shared: TokenClient, authority: Authority) -> None:
    good = _response(authority, about=authority.public_key)
    reader = der.Reader(good).enter(der.SEQUENCE)
    by, produced, singles = reader.read_whole(0xA2), reader.read_whole(der.GENERALIZED_TIME), reader.read(der.SEQUENCE)
    several = der.encode(der.SEQUENCE, singles * 17)
    by_name = der.encode(0xA1, AUTHORITY.public_bytes())
    extension = der.sequence(der.object_identifier("1.3.6.1.5.5.7.48.1.6"), der.octet_string(b"\x05\x00"))
    extensions = der.encode(0xA1, der.sequence(extension))
    bent = [
        b"",
        good + b"\x00",
        good[:-1],
        der.sequence(by, produced, der.sequence()),
        der.sequence(by, produced, several),
        der.sequence(by_name, produced, der.encode(der.SEQUENCE, singles)),
        der.sequence(by, produced, der.encode(der.SEQUENCE, singles), extensions),
        der.sequence(bytes.fromhex("a003020101"), by, produced, der.encode(der.SEQUENCE, singles)),
        good.replace(b"20260304050607Z", b"20261304050607Z"),
        good.replace(b"20260304050607Z", b"20260304050607+"),
        # The status with a content, and one that does not exist.
        good.replace(b"\x80\x00\x18", b"\x83\x00\x18"),
    ]
    for data in bent:
        assert data != good
        result = _sign(shared, authority, data)
        assert isinstance(result, CertdError), data.hex()
        assert result.reason is Reason.FIELD_INVALID


def test_the_journal_tells_what_was_answered(shared: TokenClient, responder: Authority) -> None:
    data = _response(responder, about=responder.public_key, status=dataclasses.replace(_GOOD))
    _sign(shared, responder, data)
    _, records = shared.read_journal(position=0, limit=1000)
    assert any(b"answers=5:good next_update=2026-03-06T05:06:07Z" in record for record in records)
