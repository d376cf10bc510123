"""Keys that were in the token before certd: which of them become authority keys, and what those sign from then on."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.token.calls import AdoptedKey, CertifiedKey
from certd.token.client import TokenClient, start_child
from certd.token.module import AUTHORITY_LABEL
from certd.token.policy import SignatureKind, parse_policy
from certd.token.settings import TokenSettings
from tests.softhsm import make_token
from tests.token.foreign_keys import P256, ForeignPair, generate_pairs, import_key, relabel
from tests.token.material import (
    AUTHORITY,
    OTHER,
    Authority,
    make_authority,
    make_certificate,
    make_policy,
    verifies,
)

_SECP256K1 = "06052b8104000a"
_POLICY = make_policy(path_length=2, self_signed=True)
_ELSEWHERE = b"elsewhere"
_PAIRS = {
    "good": ForeignPair(b"\x01"),
    "kept": ForeignPair(b"\x10"),
    "sealed": ForeignPair(b"\x11"),
    "copied": ForeignPair(b"\x12"),
    "tried": ForeignPair(b"\x02"),
    "certified": ForeignPair(b"\x03"),
    "half adopted": ForeignPair(b"\x04", label=AUTHORITY_LABEL + parse_policy(_POLICY).sha256),
    "extractable": ForeignPair(b"\x05", {"EXTRACTABLE": True}),
    "readable": ForeignPair(b"\x06", {"SENSITIVE": False}),
    "of another use": ForeignPair(b"\x07", {"SIGN": False, "DERIVE": True}),
    "unchangeable": ForeignPair(b"\x08", {"MODIFIABLE": False}),
    "without a public half": ForeignPair(b"\x09", public_key_id=_ELSEWHERE),
    # The public half of one pair beside the private half of another.
    "torn": ForeignPair(b"\x0a", public_key_id=b"\x0b"),
    "torn, too": ForeignPair(b"\x0c", public_key_id=b"\x0a"),
    "one of two": ForeignPair(b"\x0d"),
    "the other of two": ForeignPair(b"\x0d"),
    "of another curve": ForeignPair(b"\x0e", curve=_SECP256K1),
    "short": ForeignPair(b"\x0f", curve=""),
}


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A key that another program put into the token."""

    key_id: bytes
    public_key: bytes
    """DER of its SubjectPublicKeyInfo; empty for what is not P-256."""

    def authority(self, policy: bytes = _POLICY) -> Authority:
        return Authority(self.key_id, KeySpec.EC_P256, policy, self.public_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token in which other programs have made keys."""

    client: TokenClient
    settings: TokenSettings
    keys: dict[str, ForeignKey]

    def adopt(self, key: ForeignKey, *, policy: bytes = _POLICY, validate_only: bool = False) -> AdoptedKey:
        return self.client.adopt_authority_key(
            key_id=key.key_id, policy=policy, public_key=key.public_key, validate_only=validate_only
        )

    def refusal(self, key: ForeignKey, *, policy: bytes = _POLICY) -> CertdError:
        """Returns why a key is not adopted, which a rehearsal says as well."""
        before, found = self.adoptions(key), []
        for validate_only in (True, False):
            with pytest.raises(CertdError) as caught:
                self.adopt(key, policy=policy, validate_only=validate_only)
            found.append(caught.value)
        assert (found[0].reason, found[0].message) == (found[1].reason, found[1].message)
        assert self.adoptions(key) == before
        return found[1]

    def signed(self, by: Authority, to_be_signed: bytes, **changes: object) -> bytes | CertdError:
        (result,) = self.client.sign([by.item(to_be_signed, **changes)], timeout=20)
        return result

    def signs(self, by: Authority) -> bool:
        item = by.item(make_certificate())
        (result,) = self.client.sign([item], timeout=20)
        if isinstance(result, CertdError):
            assert result.reason is Reason.TOKEN_POLICY_FORBIDS, result
            return False
        return verifies(by, item, result)

    def adoptions(self, key: ForeignKey) -> list[dict[str, object]]:
        """Returns what the journal tells of it."""
        _, lines = self.client.read_journal(position=0, limit=1000)
        told = [json.loads(line) for line in lines]
        return [one for one in told if one["kind"] == "adopt-authority-key" and one["key"] == key.key_id.hex()]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    folder = tmp_path_factory.mktemp("token")
    settings = make_token(folder)
    imported = ec.generate_private_key(ec.SECP256R1())
    import_key(settings, imported, b"imported", folder)
    keys = {"imported": ForeignKey(b"imported", _encoded(imported.public_key()))}
    for (which, pair), made in zip(_PAIRS.items(), generate_pairs(settings, list(_PAIRS.values())), strict=True):
        keys[which] = ForeignKey(pair.key_id, b"")
        if pair.curve == P256:
            point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), made)
            keys[which] = ForeignKey(pair.key_id, _encoded(point))
    client = start_child(settings)
    try:
        assert client.wait_ready(20), client.problem
        yield Token(client=client, settings=settings, keys=keys)
    finally:
        client.stop()


def _encoded(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_key_that_is_adopted_signs_what_its_policy_allows(token: Token) -> None:
    key = token.keys["good"]
    authority = key.authority()
    assert not token.signs(authority)
    found = AdoptedKey(KeySpec.EC_P256, never_extractable=True, sealed=False)
    assert token.adopt(key, validate_only=True) == found
    assert not token.signs(authority)
    assert token.adoptions(key) == []
    assert token.adopt(key) == replace(found, sealed=True)
    assert token.signs(authority)
    refused = token.signed(authority, make_certificate(issuer=OTHER))
    assert isinstance(refused, CertdError)
    assert "byte for byte" in refused.message
    (told,) = token.adoptions(key)
    assert told["policy_sha256"] == hashlib.sha256(_POLICY).hexdigest()
    assert told["public_key_sha256"] == hashlib.sha256(key.public_key).hexdigest()


def test_a_key_keeps_the_policy_that_it_was_adopted_with(token: Token) -> None:
    key, wider = token.keys["kept"], make_policy(path_length=5, self_signed=True)
    token.adopt(key)
    refused = token.refusal(key, policy=wider)
    assert (refused.reason, "does not change" in refused.message) == (Reason.TOKEN_POLICY_FORBIDS, True)
    assert not token.signs(key.authority(wider))
    # The same once more is no change.
    assert token.adopt(key).key_spec is KeySpec.EC_P256
    assert token.signs(key.authority())


def test_a_key_that_was_outside_once_is_told_of(token: Token) -> None:
    key = token.keys["imported"]
    assert token.adopt(key) == AdoptedKey(KeySpec.EC_P256, never_extractable=False, sealed=True)
    assert token.signs(key.authority())


def test_nobody_changes_the_policy_of_an_adopted_key_not_even_with_the_pin(token: Token) -> None:
    key, label = token.keys["sealed"], AUTHORITY_LABEL + parse_policy(make_policy(path_length=9)).sha256
    assert relabel(token.settings, key.key_id, "mine") == ["done"]
    token.adopt(key)
    assert relabel(token.settings, key.key_id, label) == ["refused"]
    assert relabel(token.settings, key.key_id, label, how="copy") == ["refused"]
    assert token.signs(key.authority())


def test_an_adoption_that_a_process_died_of_leaves_one_key_when_it_is_repeated(token: Token) -> None:
    key, label = token.keys["copied"], AUTHORITY_LABEL + parse_policy(_POLICY).sha256
    # The original was to be destroyed.
    assert relabel(token.settings, key.key_id, label, how="copy") == ["done"]
    assert token.adopt(key).sealed
    assert relabel(token.settings, key.key_id, "mine") == ["refused"]
    assert token.signs(key.authority())


def test_an_adoption_that_a_process_died_of_gets_into_the_journal(token: Token) -> None:
    # It has the label already, and the journal says nothing of it.
    key = token.keys["half adopted"]
    assert token.signs(key.authority())
    assert token.adoptions(key) == []
    token.adopt(key)
    assert len(token.adoptions(key)) == 1


@pytest.mark.parametrize(
    ("which", "finding"),
    [
        ("extractable", "read out of the token"),
        ("readable", "read out of the token"),
        ("of another use", "CKA_SIGN"),
        ("unchangeable", "CKA_MODIFIABLE"),
        ("without a public half", "without a public one"),
        ("one of two", "several keys"),
        ("of another curve", "none of RSA_2048"),
        ("short", "none of RSA_2048"),
    ],
)
def test_a_key_that_authorities_cannot_have_is_not_adopted(token: Token, which: str, finding: str) -> None:
    refused = token.refusal(token.keys[which])
    assert (refused.reason, finding in refused.message) == (Reason.FIELD_INVALID, True), refused.message
    assert [violation.field for violation in refused.violations] == ["key_id"]


def test_a_public_half_of_another_key_is_found_out(token: Token) -> None:
    torn = ForeignKey(token.keys["torn"].key_id, token.keys["torn, too"].public_key)
    refused = token.refusal(torn)
    assert (refused.reason, "does not sign" in refused.message) == (Reason.FIELD_INVALID, True), refused.message


def test_what_is_no_private_key_is_not_adopted(token: Token) -> None:
    wrapping_key_id = secrets.token_bytes(16)
    assert token.client.ensure_wrapping_key(key_id=wrapping_key_id)
    public_key = token.keys["tried"].public_key
    for key_id in (wrapping_key_id, secrets.token_bytes(16), _ELSEWHERE):
        refused = token.refusal(ForeignKey(key_id, public_key))
        assert (refused.reason, "no private key" in refused.message) == (Reason.FIELD_INVALID, True), refused.message
    for key_id in (b"", bytes(65)):
        refused = token.refusal(ForeignKey(key_id, public_key))
        assert (refused.reason, "1 to 64 bytes" in refused.message) == (Reason.FIELD_INVALID, True), refused.message


def test_another_key_than_that_of_the_certificate_is_not_adopted(token: Token) -> None:
    tried = token.keys["tried"]
    for public_key in (token.keys["certified"].public_key, b""):
        assert token.refusal(ForeignKey(tried.key_id, public_key)).reason is Reason.IMPORT_KEY_MISMATCH
    assert not token.signs(tried.authority())


@pytest.mark.parametrize("policy", [b"", make_policy(kinds=())], ids=["empty", "no kinds"])
def test_a_policy_that_allows_nothing_is_not_sealed(token: Token, policy: bytes) -> None:
    refused = token.refusal(token.keys["tried"], policy=policy)
    assert [violation.field for violation in refused.violations] == ["policy"]


@pytest.mark.parametrize("kind", [SignatureKind.CERTIFICATE, SignatureKind.CHECKPOINT])
def test_an_authority_key_of_certd_is_not_adopted_with_another_policy(token: Token, kind: SignatureKind) -> None:
    own = make_authority(token.client, policy=make_policy(kinds=(kind,)))
    refused = token.refusal(ForeignKey(own.key_id, own.public_key))
    assert (refused.reason, "with another policy" in refused.message) == (Reason.TOKEN_POLICY_FORBIDS, True)


def test_a_key_is_certified_as_its_equal_by_a_root_only_once_it_is_adopted(token: Token) -> None:
    root, key = make_authority(token.client, policy=_POLICY), token.keys["certified"]
    cross = make_certificate(
        subject=AUTHORITY, public_key=key.public_key, authority=True, path_length=2, certificate_sign=True
    )
    certified = CertifiedKey(key.key_id, _POLICY)
    refused = token.signed(root, cross, certified=certified)
    assert isinstance(refused, CertdError)
    assert (refused.reason, "sealed with the key" in refused.message) == (Reason.TOKEN_POLICY_FORBIDS, True)
    token.adopt(key)
    item = root.item(cross, certified=certified)
    assert verifies(root, item, token.client.sign([item], timeout=20)[0])


def test_an_order_for_a_key_of_no_use_fails_alone(token: Token) -> None:
    root = make_authority(token.client, policy=_POLICY)
    items = [token.keys[which].authority().item(make_certificate()) for which in ("of another curve", "short")]
    *failed, signed = token.client.sign([*items, root.item(make_certificate())], timeout=20)
    assert [one.reason for one in failed if isinstance(one, CertdError)] == [Reason.TOKEN_UNAVAILABLE] * 2
    assert isinstance(signed, bytes)
