"""CRLs that are to be signed: what the policy allows, and what does not fit into one request."""

import secrets
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.pki import revocation_list
from certd.pki.assembly import extension
from certd.pki.key_spec import KeySpec, SignatureAlgorithm, default_signature_algorithm
from certd.token.client import TokenClient
from certd.token.policy import SignatureKind
from certd.token.uploads import ID_BYTES, MOST_BYTES, PART_BYTES, Uploads
from tests.token.material import AUTHORITY, NOW, OTHER, Authority, make_authority, make_policy, verifies

ENTRY = revocation_list.entry("7f" * 16, revoke_time=1_900_000_000, reason="keyCompromise", invalidity_time=None)
NUMBER = revocation_list.crl_number(7)
ALGORITHM = SignatureAlgorithm.ECDSA_WITH_SHA256


def make_list(**changes: object) -> bytes:
    values: dict[str, object] = {
        "algorithm": ALGORITHM,
        "issuer": AUTHORITY.public_bytes(),
        "this_update": NOW,
        "next_update": NOW + timedelta(days=7),
        "entries": [ENTRY],
        "extensions": [NUMBER],
    }
    return revocation_list.tbs_revocation_list(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def authority(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=make_policy(kinds=(SignatureKind.REVOCATION_LIST,)))


def refusal(client: TokenClient, authority: Authority, to_be_signed: bytes) -> CertdError:
    (result,) = client.sign([authority.item(to_be_signed, kind=SignatureKind.REVOCATION_LIST)], timeout=20)
    assert isinstance(result, CertdError), "it was signed"
    return result


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.ED25519])
def test_every_kind_of_key_signs_them(shared: TokenClient, spec: KeySpec) -> None:
    authority = make_authority(shared, spec, make_policy(kinds=(SignatureKind.REVOCATION_LIST,)))
    for entries in ([], [ENTRY]):
        to_be_signed = make_list(algorithm=default_signature_algorithm(spec), entries=entries)
        item = authority.item(to_be_signed, kind=SignatureKind.REVOCATION_LIST)
        assert verifies(authority, item, shared.sign([item], timeout=20)[0])


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"issuer": OTHER.public_bytes()}, "byte for byte"),
        ({"algorithm": SignatureAlgorithm.ECDSA_WITH_SHA384}, "ECDSA_WITH_SHA384 where ECDSA_WITH_SHA256"),
        ({"next_update": NOW}, "ends before it begins"),
        ({"next_update": NOW - timedelta(days=1)}, "ends before it begins"),
        ({"next_update": NOW + timedelta(days=367, seconds=1)}, "hold longer than"),
    ],
)
def test_what_the_policy_does_not_allow_is_not_signed(
    shared: TokenClient, authority: Authority, changes: dict[str, object], rule: str
) -> None:
    error = refusal(shared, authority, make_list(**changes))
    assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message
    item = authority.item(make_list(next_update=NOW + timedelta(days=367)), kind=SignatureKind.REVOCATION_LIST)
    assert verifies(authority, item, shared.sign([item], timeout=20)[0])


@pytest.mark.parametrize(
    ("to_be_signed", "finding"),
    [
        (make_list().replace(bytes.fromhex("020101"), bytes.fromhex("020100"), 1), "version"),
        (make_list() + b"\x00", "after its end"),
        (make_list()[:-1], "ends too early"),
        (make_list(extensions=[revocation_list.authority_key_identifier(b"k")]), "no CRL number"),
        (make_list(extensions=[NUMBER, NUMBER]), "twice"),
        (make_list(extensions=[NUMBER, extension("2.5.29.27", b"\x02\x01\x01", critical=True)]), "critical"),
        (make_list(extensions=[revocation_list.crl_number(-1)]), "negative"),
        (make_list(extensions=[revocation_list.crl_number(1 << 160)]), "too high"),
    ],
)
def test_what_is_no_list_of_certd_is_not_signed(
    shared: TokenClient, authority: Authority, to_be_signed: bytes, finding: str
) -> None:
    error = refusal(shared, authority, to_be_signed)
    assert (error.reason, finding in error.message) == (Reason.FIELD_INVALID, True), error.message


def test_a_key_that_signs_no_lists_signs_none(shared: TokenClient) -> None:
    authority = make_authority(shared)
    assert refusal(shared, authority, make_list()).reason is Reason.TOKEN_POLICY_FORBIDS


def test_fifty_megabytes_are_signed_in_parts(shared: TokenClient, authority: Authority) -> None:
    to_be_signed = make_list(entries=[ENTRY * 1_000_000])
    assert len(to_be_signed) > 40_000_000
    item = authority.item(to_be_signed, kind=SignatureKind.REVOCATION_LIST)
    # The whole of it would be no frame.
    with pytest.raises(CertdError):
        shared.sign([item], timeout=60)
    assert verifies(authority, item, shared.sign_large(item, timeout=60))


def test_what_is_refused_is_refused_in_parts_too(shared: TokenClient, authority: Authority) -> None:
    item = authority.item(make_list(issuer=OTHER.public_bytes()), kind=SignatureKind.REVOCATION_LIST)
    with pytest.raises(CertdError) as refused:
        shared.sign_large(item, timeout=20)
    assert refused.value.reason is Reason.TOKEN_POLICY_FORBIDS


class Elapsed:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_id() -> bytes:
    return secrets.token_bytes(ID_BYTES)


def test_parts_are_put_together_and_taken_once() -> None:
    uploads, one, other = Uploads(), new_id(), new_id()
    uploads.append(one, 0, b"ab")
    uploads.append(other, 0, b"x")
    uploads.append(one, 2, b"cd")
    assert (uploads.take(one), uploads.take(other)) == (b"abcd", b"x")
    with pytest.raises(CertdError) as gone:
        uploads.take(one)
    assert gone.value.reason is Reason.FIELD_INVALID


def test_the_first_part_begins_anew() -> None:
    uploads, one = Uploads(), new_id()
    uploads.append(one, 0, b"ab")
    uploads.append(one, 0, b"c")
    assert uploads.take(one) == b"c"


@pytest.mark.parametrize(
    ("upload_id", "offset", "content"),
    [
        (b"short", 0, b"a"),
        *((bytes(ID_BYTES), 0, content) for content in (b"", bytes(PART_BYTES + 1))),
        *((bytes(ID_BYTES), offset, b"a") for offset in (1, 3)),
    ],
)
def test_a_part_that_is_none_is_refused(upload_id: bytes, offset: int, content: bytes) -> None:
    uploads = Uploads()
    uploads.append(bytes(ID_BYTES), 0, b"ab")
    with pytest.raises(CertdError) as refused:
        uploads.append(upload_id, offset, content)
    assert refused.value.reason is Reason.FIELD_INVALID


def test_what_waits_is_bounded_and_given_up_when_nobody_goes_on() -> None:
    elapsed = Elapsed()
    uploads, first, second = Uploads(elapsed), new_id(), new_id()
    part = bytes(PART_BYTES)
    for place in range(MOST_BYTES // PART_BYTES):
        uploads.append(first, place * PART_BYTES, part)
    with pytest.raises(CertdError) as full:
        uploads.append(second, 0, b"a")
    assert full.value.reason is Reason.RATE_LIMITED
    elapsed.now = 61.0
    uploads.append(second, 0, b"a")
    assert uploads.take(second) == b"a"
    with pytest.raises(CertdError):
        uploads.take(first)
