"""Cross-certificates between the keys of a root: the one case in which a key signs its own name for another key."""

import secrets
from dataclasses import replace
from datetime import timedelta

import pytest

from certd.errors import CertdError, Reason
from certd.token.calls import CertifiedKey
from certd.token.client import TokenClient
from certd.token.policy import SignatureKind
from tests.token.material import (
    AUTHORITY,
    LONGEST,
    OTHER,
    Authority,
    make_authority,
    make_certificate,
    make_policy,
    verifies,
)

ROOT = make_policy(path_length=2, self_signed=True)


@pytest.fixture(scope="module")
def old(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=ROOT)


@pytest.fixture(scope="module")
def new(shared: TokenClient) -> Authority:
    """The key of the same root that comes next, which may have fewer authorities below it."""
    return make_authority(shared, policy=make_policy(path_length=1, self_signed=True))


def cross(certified: Authority, **changes: object) -> bytes:
    values: dict[str, object] = {
        "subject": AUTHORITY,
        "public_key": certified.public_key,
        "authority": True,
        "path_length": 1,
        "certificate_sign": True,
    }
    return make_certificate(**{**values, **changes})  # type: ignore[arg-type]


def named(authority: Authority) -> CertifiedKey:
    return CertifiedKey(authority.key_id, authority.policy)


def refusal(client: TokenClient, by: Authority, to_be_signed: bytes, certified: CertifiedKey | None) -> CertdError:
    (result,) = client.sign([by.item(to_be_signed, certified=certified)], timeout=20)
    assert isinstance(result, CertdError), "it was signed"
    return result


def test_each_key_of_a_root_certifies_the_other(shared: TokenClient, old: Authority, new: Authority) -> None:
    for by, other in ((old, new), (new, old)):
        for path_length in (0, 1):
            item = by.item(cross(other, path_length=path_length), certified=named(other))
            assert verifies(by, item, shared.sign([item], timeout=20)[0])
    _, records = shared.read_journal(position=0, limit=1000)
    assert sum(b"authority certificate serial=" in one for one in records) >= 4


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"path_length": 2}, "no higher path length than either"),
        ({"path_length": None}, "no higher path length than either"),
        ({"issuer": OTHER}, "issuer of the certificate is not the name"),
        ({"lifetime": LONGEST + timedelta(seconds=1)}, "lives longer than"),
    ],
    ids=["longer path", "endless path", "another issuer", "longer life"],
)
def test_a_cross_certificate_goes_no_further_than_both_keys(
    shared: TokenClient, old: Authority, new: Authority, changes: dict[str, object], rule: str
) -> None:
    for by, other in ((old, new), (new, old)):
        error = refusal(shared, by, cross(other, **changes), named(other))
        assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message


def test_the_order_names_the_key_that_is_certified(shared: TokenClient, old: Authority, new: Authority) -> None:
    third = make_authority(shared, policy=ROOT)
    for certified, rule in (
        (None, "must hold the key that signs it"),
        (named(third), "must hold the key of the token that it is said to be for"),
        # Its own is no other: this is a root's own certificate, of another key.
        (named(old), "must hold the key that signs it"),
        # Under a policy that allows more than what was sealed.
        (replace(named(new), policy=ROOT), "not the policy that was sealed"),
    ):
        error = refusal(shared, old, cross(new), certified)
        assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message


def test_its_own_key_gets_no_shorter_path_by_naming_it(shared: TokenClient, old: Authority) -> None:
    error = refusal(shared, old, cross(old), named(old))
    assert (error.reason, "path length 2" in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message


def test_a_key_outside_of_the_token_is_not_certified(shared: TokenClient, old: Authority, new: Authority) -> None:
    """Not under the root's own name, whatever key of the token the order names."""
    for certified in (None, named(new), named(old)):
        error = refusal(shared, old, cross(replace(new, public_key=None)), certified)  # type: ignore[arg-type]
        assert error.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (make_policy(issuer=OTHER, path_length=2, self_signed=True), "not that of a root of the same name"),
        (make_policy(path_length=2), "not that of a root of the same name"),
        (make_policy(self_signed=True), "signs no certificates of authorities"),
        (make_policy(kinds=(SignatureKind.CHECKPOINT,)), "not that of a root of the same name"),
    ],
    ids=["another name", "no root", "no authorities below", "checkpoints"],
)
def test_a_key_that_is_not_that_of_the_same_root_is_not_certified(
    shared: TokenClient, old: Authority, policy: bytes, rule: str
) -> None:
    other = make_authority(shared, policy=policy)
    error = refusal(shared, old, cross(other, path_length=0), named(other))
    assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (make_policy(path_length=2), "not that of a root"),
        (make_policy(self_signed=True), "signs no certificates of authorities"),
        (make_policy(kinds=(SignatureKind.REVOCATION_LIST,), path_length=2, self_signed=True), "unknown kind"),
    ],
    ids=["no root", "no authorities below", "no certificates"],
)
def test_a_key_that_certifies_no_authorities_certifies_no_other_key_either(
    shared: TokenClient, new: Authority, policy: bytes, rule: str
) -> None:
    by = make_authority(shared, policy=policy)
    error = refusal(shared, by, cross(new, path_length=0), named(new))
    assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message


def test_a_key_that_is_named_has_to_be_there(shared: TokenClient, old: Authority, new: Authority) -> None:
    wrapping_key_id = secrets.token_bytes(16)
    assert shared.ensure_wrapping_key(key_id=wrapping_key_id)
    for key_id in (secrets.token_bytes(16), wrapping_key_id):
        error = refusal(shared, old, cross(new), CertifiedKey(key_id, new.policy))
        assert (error.reason, key_id.hex() in error.message) == (Reason.TOKEN_UNAVAILABLE, True), error.message
    for certified, field in (
        (CertifiedKey(bytes(65), new.policy), "certified_key_id"),
        (CertifiedKey(new.key_id, b""), "policy"),
    ):
        error = refusal(shared, old, cross(new), certified)
        assert [violation.field for violation in error.violations] == [field]
