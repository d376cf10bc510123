"""Authority keys: made, found again, and signing what their policy allows."""

import secrets
import threading
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec, SignatureAlgorithm, default_signature_algorithm, fits, key_spec_of
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
    make_request,
    verifies,
)


def refusal(client: TokenClient, authority: Authority, to_be_signed: bytes, **changes: object) -> CertdError:
    (result,) = client.sign([authority.item(to_be_signed, **changes)], timeout=20)
    assert isinstance(result, CertdError), "it was signed"
    return result


@pytest.fixture(scope="module")
def leaf_authority(shared: TokenClient) -> Authority:
    return make_authority(shared)


@pytest.fixture(scope="module")
def root(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=make_policy(path_length=2, self_signed=True))


@pytest.fixture(scope="module")
def issuing(shared: TokenClient) -> Authority:
    return make_authority(shared, policy=make_policy(path_length=2))


@pytest.mark.parametrize("spec", KeySpec)
def test_every_key_spec_signs_with_every_algorithm_that_fits(shared: TokenClient, spec: KeySpec) -> None:
    authority = make_authority(shared, spec)
    assert key_spec_of(load_der_public_key(authority.public_key)) is spec
    algorithms = [algorithm for algorithm in SignatureAlgorithm if fits(algorithm, spec)]
    items = [authority.item(make_certificate(algorithm=a), signature_algorithm=a) for a in algorithms]
    signatures = shared.sign(items, timeout=20)
    assert all(verifies(authority, item, signature) for item, signature in zip(items, signatures, strict=True))


def test_a_key_is_found_again_under_its_id(shared: TokenClient, leaf_authority: Authority) -> None:
    again = shared.create_authority_key(
        key_id=leaf_authority.key_id, key_spec=leaf_authority.spec, policy=leaf_authority.policy
    )
    assert again == leaf_authority.public_key


@pytest.mark.parametrize(
    ("spec", "policy"),
    [(KeySpec.EC_P256, make_policy(path_length=1)), (KeySpec.EC_P384, make_policy())],
    ids=["another policy", "another spec"],
)
def test_a_key_keeps_policy_and_spec(
    shared: TokenClient, leaf_authority: Authority, spec: KeySpec, policy: bytes
) -> None:
    with pytest.raises(CertdError, match="with another policy or key spec") as caught:
        shared.create_authority_key(key_id=leaf_authority.key_id, key_spec=spec, policy=policy)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


@pytest.mark.parametrize("key_id", [b"", b"short", bytes(17)])
def test_a_key_id_has_sixteen_bytes(shared: TokenClient, key_id: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        shared.create_authority_key(key_id=key_id, key_spec=KeySpec.EC_P256, policy=make_policy())
    assert [violation.field for violation in caught.value.violations] == ["key_id"]


def test_a_certification_request_holds_its_own_key_and_name(shared: TokenClient, leaf_authority: Authority) -> None:
    kind = SignatureKind.CERTIFICATION_REQUEST
    item = leaf_authority.item(make_request(leaf_authority), kind=kind)
    assert verifies(leaf_authority, item, shared.sign([item], timeout=20)[0])
    other_name = refusal(shared, leaf_authority, make_request(leaf_authority, subject=OTHER), kind=kind)
    assert "subject" in other_name.message
    other_key = make_authority(shared).public_key
    foreign = refusal(shared, leaf_authority, make_request(leaf_authority, public_key=other_key), kind=kind)
    assert "with no other" in foreign.message
    assert {other_name.reason, foreign.reason} == {Reason.TOKEN_POLICY_FORBIDS}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"issuer": OTHER}, "byte for byte"),
        ({"lifetime": LONGEST + timedelta(seconds=1)}, "lives longer than"),
        ({"lifetime": timedelta()}, "ends before it begins"),
        ({"authority": True, "path_length": 0}, "signs no certificates of authorities"),
        ({"certificate_sign": True}, "signs no certificates of authorities"),
        ({"subject": AUTHORITY, "authority": True}, "not that of a root"),
        ({"algorithm": SignatureAlgorithm.ECDSA_WITH_SHA384}, "ECDSA_WITH_SHA384 where ECDSA_WITH_SHA256"),
    ],
    ids=["issuer", "lifetime", "empty validity", "authority", "keyCertSign", "own name", "inner algorithm"],
)
def test_what_the_policy_does_not_allow_is_not_signed(
    shared: TokenClient, leaf_authority: Authority, changes: dict[str, object], rule: str
) -> None:
    error = refusal(shared, leaf_authority, make_certificate(**changes))  # type: ignore[arg-type]
    assert (error.reason, rule in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True), error.message
    # The same certificate without the change is signed.
    assert isinstance(shared.sign([leaf_authority.item(make_certificate())], timeout=20)[0], bytes)


def test_the_longest_lifetime_is_still_allowed(shared: TokenClient, leaf_authority: Authority) -> None:
    item = leaf_authority.item(make_certificate(lifetime=LONGEST))
    assert verifies(leaf_authority, item, shared.sign([item], timeout=20)[0])


def test_a_key_of_checkpoints_is_for_nothing_else(shared: TokenClient) -> None:
    with pytest.raises(CertdError) as caught:
        make_authority(shared, policy=make_policy(kinds=(SignatureKind.CERTIFICATE, SignatureKind.CHECKPOINT)))
    assert (caught.value.reason, "checkpoints alone" in caught.value.message) == (Reason.FIELD_INVALID, True)
    authority = make_authority(shared, policy=make_policy(kinds=(SignatureKind.CHECKPOINT,)))
    assert refusal(shared, authority, make_certificate()).reason is Reason.TOKEN_POLICY_FORBIDS
    error = refusal(shared, authority, make_certificate(), kind=SignatureKind.CHECKPOINT)
    assert error.reason is Reason.FIELD_INVALID


def test_a_kind_that_the_policy_does_not_name_is_refused(shared: TokenClient) -> None:
    authority = make_authority(shared, policy=make_policy(kinds=(SignatureKind.CERTIFICATE,)))
    error = refusal(shared, authority, make_request(authority), kind=SignatureKind.CERTIFICATION_REQUEST)
    assert (error.reason, "unknown kind" in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True)


def test_another_policy_than_the_sealed_one_is_refused(shared: TokenClient, leaf_authority: Authority) -> None:
    wider = make_policy(path_length=5)
    error = refusal(shared, leaf_authority, make_certificate(authority=True, path_length=0), policy=wider)
    assert (error.reason, "sealed with the key" in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True)


def test_a_digest_is_not_signed(shared: TokenClient, leaf_authority: Authority) -> None:
    error = refusal(shared, leaf_authority, secrets.token_bytes(32))
    assert error.reason is Reason.FIELD_INVALID


def test_an_algorithm_of_another_family_is_refused(shared: TokenClient, leaf_authority: Authority) -> None:
    algorithm = SignatureAlgorithm.SHA256_WITH_RSA
    error = refusal(shared, leaf_authority, make_certificate(algorithm=algorithm), signature_algorithm=algorithm)
    assert (error.reason, "does not fit" in error.message) == (Reason.TOKEN_POLICY_FORBIDS, True)


def test_trailing_bytes_are_refused(shared: TokenClient, leaf_authority: Authority) -> None:
    assert refusal(shared, leaf_authority, make_certificate() + b"\x05\x00").reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(("path_length", "allowed"), [(None, False), (0, True), (1, True), (2, False), (3, False)])
def test_an_authority_below_has_a_shorter_path(
    shared: TokenClient, issuing: Authority, path_length: int | None, *, allowed: bool
) -> None:
    item = issuing.item(make_certificate(authority=True, path_length=path_length, certificate_sign=True))
    (result,) = shared.sign([item], timeout=20)
    assert isinstance(result, bytes) is allowed
    if isinstance(result, CertdError):
        assert result.reason is Reason.TOKEN_POLICY_FORBIDS


def test_a_root_signs_itself_and_nothing_else_of_its_name(shared: TokenClient, root: Authority) -> None:
    own = {"subject": AUTHORITY, "authority": True, "certificate_sign": True}
    item = root.item(make_certificate(**own, path_length=2, public_key=root.public_key))  # type: ignore[arg-type]
    assert verifies(root, item, shared.sign([item], timeout=20)[0])
    other_key = refusal(shared, root, make_certificate(**own, path_length=2))  # type: ignore[arg-type]
    assert "must hold the key" in other_key.message
    for path_length in (None, 1, 3):
        longer = make_certificate(**own, path_length=path_length, public_key=root.public_key)  # type: ignore[arg-type]
        assert "path length 2" in refusal(shared, root, longer).message


def test_a_root_that_may_sign_no_authorities_still_signs_itself(shared: TokenClient) -> None:
    lone = make_authority(shared, policy=make_policy(path_length=0, self_signed=True))
    own = make_certificate(subject=AUTHORITY, authority=True, path_length=0, public_key=lone.public_key)
    assert isinstance(shared.sign([lone.item(own)], timeout=20)[0], bytes)
    assert "may not exist" in refusal(shared, lone, make_certificate(authority=True, path_length=0)).message


def test_an_item_that_fails_fails_alone(shared: TokenClient, leaf_authority: Authority) -> None:
    unknown = Authority(secrets.token_bytes(16), KeySpec.EC_P256, leaf_authority.policy, b"")
    items = [
        leaf_authority.item(make_certificate()),
        leaf_authority.item(make_certificate(issuer=OTHER)),
        unknown.item(make_certificate()),
        leaf_authority.item(make_certificate()),
    ]
    results = shared.sign(items, timeout=20)
    reasons = [result.reason if isinstance(result, CertdError) else None for result in results]
    assert reasons == [None, Reason.TOKEN_POLICY_FORBIDS, Reason.TOKEN_UNAVAILABLE, None]
    assert verifies(leaf_authority, items[3], results[3])
    missing = results[2]
    assert isinstance(missing, CertdError)
    assert unknown.key_id.hex() in missing.message
    assert missing.metadata == {"ckr": "CKR_KEY_HANDLE_INVALID"}


@pytest.mark.parametrize(
    "policy",
    [
        b"",
        b"\xff\xff",
        make_policy(kinds=()),
        make_policy() + b"\x98\x06\x01",
        make_policy() + b"\x08\x63",
    ],
    ids=["empty", "no message", "no kinds", "a rule of the future", "a kind of the future"],
)
def test_a_policy_that_is_not_understood_is_refused(shared: TokenClient, policy: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        shared.create_authority_key(key_id=secrets.token_bytes(16), key_spec=KeySpec.EC_P256, policy=policy)
    assert [violation.field for violation in caught.value.violations] == ["policy"]


def test_threads_hammer_one_token(shared: TokenClient) -> None:
    authorities = [make_authority(shared, spec) for spec in (KeySpec.EC_P256, KeySpec.ED25519, KeySpec.RSA_2048)]
    wrong: list[object] = []

    def hammer(authority: Authority) -> None:
        algorithm = default_signature_algorithm(authority.spec)
        for size in (1, 1, 7, 1, 20):
            items = [authority.item(make_certificate(algorithm=algorithm)) for _ in range(size)]
            for item, signature in zip(items, shared.sign(items, timeout=60), strict=True):
                if isinstance(signature, CertdError) or not verifies(authority, item, signature):
                    wrong.append(signature)

    threads = [threading.Thread(target=hammer, args=(authorities[number % 3],)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
