"""Authorities whose keys were in the token before certd, taken over with their certificates."""

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityKeyState, AuthorityState, AuthorityType
from certd.model.event import EventType
from certd.pki.key_spec import KeySpec
from certd.services.adoption import AdoptedAuthority
from certd.services.authority_views import AuthorityView
from certd.services.idempotency import RequestKey
from certd.token.settings import TokenSettings
from tests.outside_parent import OutsideAuthority, certify, name, outside_authority, pem_of
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash
from tests.services.rotated_books import activate, authority_in, certificate, name_of, prepare, states
from tests.services.test_cross_certificates import verifies
from tests.token.foreign_keys import generate_key, import_key

_KEY_ID = bytes.fromhex("a1b2")


def adopt(
    world: World,
    der: bytes,
    chain: tuple[bytes, ...] = (),
    *,
    authority_id: str = "old",
    key_id: bytes = _KEY_ID,
    key: RequestKey | None = None,
    validate_only: bool = False,
) -> AuthorityView:
    new = AdoptedAuthority(
        name=name_of(authority_id), key_id=key_id, certificate=der, chain=pem_of(*chain), labels={"from": "elsewhere"}
    )
    return world.core.rotation.adoption.adopt(ADMINISTRATOR, new, key=key, validate_only=validate_only)


def refused(world: World, reason: Reason, der: bytes, chain: tuple[bytes, ...] = (), **options: Any) -> str:
    with pytest.raises(CertdError) as caught:
        adopt(world, der, chain, **options)
    assert caught.value.reason is reason, caught.value
    return caught.value.message


def old_root(world: World, settings: TokenSettings, folder: Path, **changes: Any) -> OutsideAuthority:
    """Makes a root with a key in memory, and imports that into the token."""
    made = outside_authority("Old Root", now=world.clock.now(), **changes)
    import_key(settings, made.key, _KEY_ID, folder)
    return made


def test_a_root_is_adopted_and_goes_on(world: World, token_settings: TokenSettings, tmp_path: Path) -> None:
    root = old_root(world, token_settings, tmp_path)
    before = certify(
        root,
        now=world.clock.now(),
        subject=name("before"),
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        authority=False,
        ends=timedelta(days=10),
    ).public_bytes(Encoding.DER)
    view = adopt(world, root.der)
    assert (view.state, view.authority.type) == (AuthorityState.ENABLED, AuthorityType.ROOT)
    assert view.authority.certificate == root.der
    assert view.authority.labels == {"from": "elsewhere"}
    assert [warning.field for warning in view.warnings][-1] == "key_id"
    (event,) = [one for one in world.events() if one.type is EventType.AUTHORITY_ADOPTED]
    assert event.details["key_id"] == _KEY_ID.hex()
    leaf = world.issue("www.example.internal", authority="old")
    for der in (leaf.der or b"", before):
        assert verifies(tmp_path, der, trusted=root.der, untrusted=(), strict=False)
    world.create_subordinate("below", issuer="old")
    # Its key is rotated as any other.
    rotated = prepare(world, "old", cross_certify=True)
    assert states(activate(world, 2, "old")) == {2: AuthorityKeyState.ACTIVE, 1: AuthorityKeyState.SUPERSEDED}
    new = rotated.keys[0].certificate or b""
    after = world.issue("new.example.internal", authority="old").der or b""
    assert verifies(tmp_path, after, trusted=root.der, untrusted=rotated.cross_certificates[2], strict=False)
    assert verifies(tmp_path, before, trusted=new, untrusted=rotated.cross_certificates[1], strict=False)


def test_an_authority_below_an_outside_root_is_adopted_with_its_chain(
    world: World, token_settings: TokenSettings, tmp_path: Path
) -> None:
    root = outside_authority("Outside Root", now=world.clock.now())
    sub = outside_authority("Old CA", root, now=world.clock.now())
    import_key(token_settings, sub.key, _KEY_ID, tmp_path)
    assert "chain" in refused(world, Reason.IMPORT_CHAIN_INVALID, sub.der)
    view = adopt(world, sub.der, (root.der,))
    assert (view.authority.type, view.issuer_name) == (AuthorityType.SUBORDINATE, "")
    assert view.authority.chain == (root.der,)
    leaf = world.issue("www.example.internal", authority="old")
    assert verifies(tmp_path, leaf.der or b"", trusted=root.der, untrusted=(sub.der,), strict=False)


def test_an_authority_below_one_that_was_adopted_has_that_as_its_issuer(
    world: World, token_settings: TokenSettings, tmp_path: Path
) -> None:
    root = old_root(world, token_settings, tmp_path)
    adopt(world, root.der)
    sub = outside_authority("Old CA", root, now=world.clock.now())
    import_key(token_settings, sub.key, b"\x02", tmp_path)
    view = adopt(world, sub.der, (root.der,), authority_id="below", key_id=b"\x02")
    assert view.issuer_name == "tenants/default/authorities/old"


def test_a_key_that_another_program_generated_was_never_outside(world: World, token_settings: TokenSettings) -> None:
    modulus = generate_key(token_settings, _KEY_ID)
    public = rsa.RSAPublicNumbers(65537, modulus).public_key()
    issuer = outside_authority("Outside Root", now=world.clock.now())
    der = certify(issuer, now=world.clock.now(), subject=name("Old CA"), public_key=public, path_length=0).public_bytes(
        Encoding.DER
    )
    view = adopt(world, der, issuer.chain)
    assert view.authority.key_spec is KeySpec.RSA_2048
    assert not [warning for warning in view.warnings if warning.field == "key_id"]
    leaf = world.issue("www.example.internal", authority="old")
    certificate(leaf.der).verify_directly_issued_by(certificate(der))


@pytest.mark.parametrize(("options", "says"), [({"extractable": True}, "read out"), ({"use": "DECRYPT"}, "CKA_SIGN")])
def test_keys_that_do_not_do(world: World, token_settings: TokenSettings, options: dict[str, Any], says: str) -> None:
    modulus = generate_key(token_settings, _KEY_ID, **options)
    issuer = outside_authority("Outside Root", now=world.clock.now())
    der = certify(
        issuer,
        now=world.clock.now(),
        subject=name("Old CA"),
        public_key=rsa.RSAPublicNumbers(65537, modulus).public_key(),
        path_length=0,
    ).public_bytes(Encoding.DER)
    assert says in refused(world, Reason.FIELD_INVALID, der, issuer.chain)


def test_what_is_not_adopted(ca: World, token_settings: TokenSettings, tmp_path: Path) -> None:
    root = outside_authority("Old Root", now=ca.clock.now())
    assert "no private key" in refused(ca, Reason.FIELD_INVALID, root.der)
    import_key(token_settings, root.key, _KEY_ID, tmp_path)
    other = outside_authority("Other Root", now=ca.clock.now())
    assert "another" in refused(ca, Reason.IMPORT_KEY_MISMATCH, other.der)
    refused(ca, Reason.FIELD_INVALID, root.der, (other.der,))
    refused(ca, Reason.AUTHORITY_EXISTS, root.der, authority_id="root")
    # Keys of authorities here, of whichever tenant, are theirs.
    own = authority_in(ca, "root")
    refused(ca, Reason.FIELD_INVALID, own.certificate or b"", key_id=own.key.key_id)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name("leaf"))
        .issuer_name(name("leaf"))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(ca.clock.now())
        .not_valid_after(ca.clock.now() + timedelta(days=5))
        .sign(key, hashes.SHA256())
    )
    refused(ca, Reason.IMPORT_NOT_COMPATIBLE, leaf.public_bytes(Encoding.DER))
    new = AdoptedAuthority(name=name_of("old"), key_id=_KEY_ID, certificate=root.der, chain=b"")
    with pytest.raises(CertdError) as caught:
        ca.core.rotation.adoption.adopt(STRANGER, new, key=None, validate_only=False)
    assert caught.value.reason is Reason.PERMISSION_MISSING
    assert adopt(ca, root.der).state is AuthorityState.ENABLED
    import_key(token_settings, root.key, b"\x99", tmp_path)
    assert "another CKA_ID" in refused(ca, Reason.FIELD_INVALID, root.der, authority_id="twice", key_id=b"\x99")


def test_a_rehearsal_seals_nothing_and_whoever_died_calls_again(
    world: World, token_settings: TokenSettings, tmp_path: Path
) -> None:
    root, count = old_root(world, token_settings, tmp_path), len(world.events())
    assert adopt(world, root.der, validate_only=True).authority.certificate == root.der
    assert len(world.events()) == count
    world.steps.at["adoption.2.sealed"] = crash
    key = RequestKey(str(uuid.uuid4()), b"a")
    with pytest.raises(CrashError):
        adopt(world, root.der, key=key)
    first = adopt(world, root.der, key=key)
    assert adopt(world, root.der, key=key).authority == first.authority
