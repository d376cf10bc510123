"""Codes let in whom they are for, once, and nobody learns why another code does not."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certd.errors import CertdError, Reason
from certd.model.access import Grant, Permission, Role, new_grant_id
from certd.model.event import EventType
from certd.model.identity import IdentityState
from certd.model.names import GrantName, IdentityName
from certd.pki.credential_request import new_credential_request
from certd.pki.description import describe
from certd.pki.enrollment_code import code_invalid, key_sha256, new_code, parse_code
from certd.services import enrollment
from certd.services.code_guesses import FROM_A_NETWORK
from certd.services.enrollment import MadeCode, NewCode
from certd.services.identities import IdentityCredential
from certd.store import enrollment_codes, grants, identities
from tests.services.conftest import ADMINISTRATOR, STRANGER, TRUST_DOMAIN, World

WEB = IdentityName("default", "web")
ADDRESS = "192.0.2.7"
HOUR = timedelta(hours=1)


def _code(world: World, **changes: object) -> MadeCode:
    return world.core.enrollment.create_code(ADMINISTRATOR, NewCode(identity=WEB, **changes))  # type: ignore[arg-type]  # Of NewCode.


def _enroll(world: World, code: str, csr: bytes | None = None, *, address: str = ADDRESS) -> IdentityCredential:
    return world.core.enrollment.enroll(code, csr or new_credential_request().csr, address=address)


def _refused(world: World, code: str, csr: bytes | None = None, *, address: str = ADDRESS) -> None:
    """The code does not let in, and the answer is that of any other."""
    with pytest.raises(CertdError) as refused:
        _enroll(world, code, csr, address=address)
    expected = code_invalid()
    assert refused.value.reason is Reason.ENROLLMENT_CODE_INVALID
    assert (refused.value.message, dict(refused.value.metadata), refused.value.resource) == (
        expected.message,
        {},
        None,
    )


def _key_of(csr: bytes) -> bytes:
    key = x509.load_der_x509_csr(csr).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def test_a_code_lets_its_identity_in(world: World) -> None:
    made = _code(world)
    credential = _enroll(world, made.code.text())
    assert credential.view.identity.name == WEB
    assert credential.view.identity.state is IdentityState.ACTIVE
    spiffe_id = f"spiffe://{TRUST_DOMAIN}/tenants/default/identities/web"
    assert describe(credential.certificate).subject_alternative_names.uris == (spiffe_id,)
    assert world.core.access.authenticate(credential.certificate).principal == spiffe_id
    assert [key_sha256(root) for root in credential.system_roots] == [made.code.root_sha256]
    assert world.clock.now() + timedelta(days=19) < credential.renew_time < world.clock.now() + timedelta(days=21)


def test_the_secret_stands_nowhere(world: World) -> None:
    made = _code(world)
    with world.core.store.read("test") as tx:
        row = enrollment_codes.get(tx, made.code.secret_sha256)
        identity = identities.get(tx, WEB)
    assert row is not None
    assert identity is not None
    assert identity.state is IdentityState.INVITED
    assert made.code.secret not in {row.code_sha256, row.public_key_sha256}
    assert made.code.text() not in repr(made)
    assert made.code.secret.hex() not in repr(world.events())
    (event,) = [one for one in world.events() if one.type is EventType.ENROLLMENT_CODE_CREATED]
    assert (event.tenant, event.principal, event.resource) == ("default", ADMINISTRATOR.principal, str(WEB))


def test_the_same_code_and_key_get_the_same_certificate_until_the_code_expires(world: World) -> None:
    made, csr = _code(world), new_credential_request().csr
    first = _enroll(world, made.code.text(), csr)
    assert _enroll(world, made.code.text().upper() + "\n", csr).certificate == first.certificate
    world.clock.advance(HOUR - timedelta(seconds=1))
    assert _enroll(world, made.code.text(), csr).certificate == first.certificate
    world.clock.advance(timedelta(seconds=1))
    _refused(world, made.code.text(), csr)


def test_a_code_is_for_one_key(world: World) -> None:
    made = _code(world)
    _enroll(world, made.code.text())
    _refused(world, made.code.text())
    enrolled = [one for one in world.events() if one.type is EventType.IDENTITY_ENROLLED]
    assert [one.details["address"] for one in enrolled] == [ADDRESS]


def test_of_many_at_once_one_gets_in(world: World) -> None:
    text = _code(world).code.text()

    def attempt(_number: int) -> bytes | Reason:
        try:
            return _enroll(world, text).certificate
        except CertdError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, range(8)))
    assert len([one for one in outcomes if isinstance(one, bytes)]) == 1
    assert outcomes.count(Reason.ENROLLMENT_CODE_INVALID) == 7
    with world.core.store.read("test") as tx:
        spiffe_id = f"spiffe://{TRUST_DOMAIN}/tenants/default/identities/web"
        uid = world.core.system_authority.uid
        assert len(identities.live_certificates(tx, uid, spiffe_id, now=world.clock.now(), limit=9)) == 1


def test_the_same_call_many_times_at_once_gets_one_certificate(world: World) -> None:
    text, csr = _code(world).code.text(), new_credential_request().csr
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _number: _enroll(world, text, csr).certificate, range(8)))
    assert len(made) == 1


def test_a_code_for_a_key_is_for_no_other(world: World) -> None:
    csr = new_credential_request().csr
    made = _code(world, public_key_sha256=_key_of(csr))
    _refused(world, made.code.text())
    _enroll(world, made.code.text(), csr)


@pytest.mark.parametrize(
    ("network", "address", "lets_in"),
    [
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("192.0.2.0/24", "198.51.100.7", False),
        ("192.0.2.0/24", "2001:db8::1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("192.0.2.0/24", "", False),
    ],
)
def test_a_code_for_a_network(world: World, network: str, address: str, *, lets_in: bool) -> None:
    text = _code(world, source_networks=("203.0.113.0/24", network)).code.text()
    if lets_in:
        _enroll(world, text, address=address)
    else:
        _refused(world, text, address=address)


def test_what_is_no_code_of_ours_does_not_let_in(world: World) -> None:
    made = _code(world)
    text = made.code.text()
    for wrong in ("", "certd1", text[:-1], text + "a", text.replace("certd1", "certd2"), "ä" * 92, "x" * 5000):
        _refused(world, wrong, address=f"198.51.100.{len(wrong) % 250}")
    other = text[:7] + ("b" if text[7] != "b" else "c") + text[8:]
    _refused(world, other)
    world.clock.advance(timedelta(minutes=1))
    # What is wrong with a CSR is told to those alone whose code is right.
    _refused(world, other, b"no csr")
    with pytest.raises(CertdError) as refused:
        _enroll(world, text, b"no csr")
    assert refused.value.reason is Reason.CSR_MALFORMED
    # A key that TLS does not take does not use the code up.
    with pytest.raises(CertdError) as refused:
        _enroll(world, text, _csr_of(ec.SECP521R1()))
    assert refused.value.reason is Reason.PROFILE_FORBIDS
    _enroll(world, text)


def _csr_of(curve: ec.EllipticCurve) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ec.generate_private_key(curve), SHA256()).public_bytes(Encoding.DER)


def test_revoking_the_identity_takes_its_codes(world: World) -> None:
    unused, used, csr = _code(world).code.text(), _code(world).code.text(), new_credential_request().csr
    _enroll(world, used, csr)
    world.core.identity_changes.revoke(ADMINISTRATOR, WEB, key=None, validate_only=False)
    _refused(world, unused)
    _refused(world, used, csr)
    # A new code lets it in again.
    assert _enroll(world, _code(world).code.text()).view.identity.state is IdentityState.ACTIVE


def test_codes_end_with_the_rights_of_who_made_them(world: World) -> None:
    _give(world, STRANGER.principal, Role.ADMINISTRATOR, "tenants/default")
    made = world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB)).code.text()
    (held,) = world.core.access.held(STRANGER)
    world.core.grants.delete(ADMINISTRATOR, GrantName(None, held.grant_id), key=None, validate_only=False)
    _refused(world, made)


def test_codes_end_with_the_revocation_of_who_made_them(world: World) -> None:
    name = IdentityName("default", "helper")
    helper = world.core.access.authenticate(
        _enroll(world, world.core.enrollment.create_code(ADMINISTRATOR, NewCode(identity=name)).code.text()).certificate
    )
    _give(world, helper.principal, Role.ADMINISTRATOR, "tenants/default")
    made = world.core.enrollment.create_code(helper, NewCode(identity=WEB)).code.text()
    world.core.identity_changes.revoke(ADMINISTRATOR, name, key=None, validate_only=False)
    _refused(world, made)


def test_a_code_gives_no_more_than_who_made_it_holds(world: World) -> None:
    _give(world, STRANGER.principal, Role.ADMINISTRATOR, "tenants/default")
    made = world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    _give(world, made.spiffe_id, Role.ISSUER, "tenants/default")
    _refused(world, made.code.text())


def test_an_identity_has_so_many_codes_that_nobody_used_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrollment, "MOST_CODES", 2)
    first, _ = (_code(world).code.text() for _ in range(2))
    with pytest.raises(CertdError) as refused:
        _code(world)
    assert (refused.value.reason, refused.value.metadata["limit"]) == (Reason.QUOTA_EXCEEDED, "2")
    _enroll(world, first)
    _code(world)
    # Those that ended do not count, whether they are deleted already or not.
    world.clock.advance(HOUR)
    _code(world)


def test_who_guesses_waits_and_who_has_a_code_does_not(world: World) -> None:
    right, csr = _code(world).code.text(), new_credential_request().csr
    for _ in range(FROM_A_NETWORK):
        _refused(world, "certd1-wrong")
    with pytest.raises(CertdError) as refused:
        _enroll(world, new_code(bytes(32)).text())
    assert refused.value.reason is Reason.RATE_LIMITED
    assert "enrollment codes" in refused.value.message
    assert 0 < (refused.value.retry_after or 0) <= 60
    # A right code lets in from there, with its key alone.
    _enroll(world, right, csr)
    _refused(world, right)
    _enroll(world, right, csr)
    # Others are not hindered, and the next minute is a new one.
    _refused(world, "certd1-wrong", address="192.0.3.8")
    world.clock.advance(timedelta(minutes=1))
    _refused(world, "certd1-wrong")
    world.clock.advance(timedelta(minutes=1))
    world.core.enrollment.tidy()
    world.core.enrollment.tidy()
    events = [one for one in world.events() if one.type is EventType.ENROLLMENT_REFUSED]
    assert [(one.details["address"], one.details["count"]) for one in events] == [
        (ADDRESS, str(FROM_A_NETWORK + 2)),
        ("192.0.3.8", "1"),
        (ADDRESS, "1"),
    ]
    assert {one.principal for one in events} == {"unknown"}


def test_refusals_of_the_last_minute_are_told_at_the_end(world: World) -> None:
    _refused(world, "certd1-wrong")
    world.core.enrollment.tell_all()
    assert [one.details["count"] for one in world.events() if one.type is EventType.ENROLLMENT_REFUSED] == ["1"]


def test_expired_codes_are_deleted(world: World) -> None:
    made = _code(world, lifetime=timedelta(minutes=1))
    later = _code(world)
    world.clock.advance(timedelta(minutes=1))
    world.core.enrollment.tidy()
    with world.core.store.read("test") as tx:
        assert enrollment_codes.get(tx, made.code.secret_sha256) is None
        assert enrollment_codes.get(tx, later.code.secret_sha256) is not None


def test_codes_are_made_by_those_who_may(world: World) -> None:
    with pytest.raises(CertdError) as refused:
        world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    assert refused.value.reason is Reason.PERMISSION_MISSING
    with pytest.raises(CertdError) as refused:
        world.core.enrollment.create_code(ADMINISTRATOR, NewCode(identity=IdentityName("nowhere", "web")))
    assert refused.value.reason is Reason.TENANT_NOT_FOUND


def test_nobody_enrolls_what_holds_more_than_they_do(world: World) -> None:
    _give(world, STRANGER.principal, Role.ADMINISTRATOR, "tenants/default")
    world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    _give(world, f"spiffe://{TRUST_DOMAIN}/tenants/default/identities/web", Role.ISSUER, "tenants/default")
    with pytest.raises(CertdError) as refused:
        world.core.enrollment.create_code(STRANGER, NewCode(identity=WEB))
    assert refused.value.reason is Reason.PERMISSION_MISSING
    assert refused.value.metadata["permission"] != Permission.IDENTITY_ENROLL
    for name in (IdentityName(None, "admin"), IdentityName(None, "web")):
        with pytest.raises(CertdError) as refused:
            world.core.enrollment.create_code(STRANGER, NewCode(identity=name))
        assert refused.value.metadata["permission"] == Permission.IDENTITY_ENROLL
    # Who has every role on everything may.
    world.core.enrollment.create_code(ADMINISTRATOR, NewCode(identity=IdentityName(None, "admin")))


def _give(world: World, principal: str, role: Role, scope: str) -> None:
    grant = Grant(grant_id=new_grant_id(), principal=principal, role=role, scope=scope, profiles=None)
    world.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"lifetime": timedelta(seconds=59)}, ["lifetime"]),
        ({"lifetime": timedelta(days=7, seconds=1)}, ["lifetime"]),
        ({"public_key_sha256": b"short"}, ["public_key_sha256"]),
        ({"source_networks": ("192.0.2.1/24", "192.0.2.0/24", "all")}, ["source_networks[0]", "source_networks[2]"]),
        ({"source_networks": ("192.0.2.0/24",) * 17}, ["source_networks"]),
    ],
)
def test_rules_of_a_code(world: World, changes: dict[str, object], fields: list[str]) -> None:
    with pytest.raises(CertdError) as refused:
        _code(world, **changes)
    assert refused.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in refused.value.violations] == fields


def test_codes_are_written_in_one_way() -> None:
    text = "certd1-" + "a" * 32 + "-" + "a" * 52
    assert parse_code(f" {text.upper()}\n").text() == text
    # The last character of a pin stands for four bits that are not there.
    with pytest.raises(CertdError):
        parse_code(text[:-1] + "b")
