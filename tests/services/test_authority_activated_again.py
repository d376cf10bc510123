"""Another certificate of an outside parent, in place of the one that an authority has."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.event import EventType
from certd.model.names import AuthorityName, CertificateName
from certd.pki.name_constraints import NameConstraints, Subtrees, encode
from certd.services.idempotency import RequestKey
from tests.outside_parent import outside_authority
from tests.services.authority_lives import CA, delete, disable, get, reissue
from tests.services.awaiting import SUB, activate, certified, create_active, parents
from tests.services.conftest import CrashError, World, crash
from tests.services.test_authority_reissue import verify

DAY = timedelta(days=1)
BELOW = AuthorityName("default", "below")


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message, caught.value.message
    return caught.value


def constrained(name: str) -> x509.UnrecognizedExtension:
    permitted = NameConstraints(permitted=Subtrees(dns_names=(name,)))
    return x509.UnrecognizedExtension(ExtensionOID.NAME_CONSTRAINTS, encode(permitted))


def test_it_takes_the_place_of_the_one_before_and_all_that_was_issued_stays_valid(world: World, tmp_path: Path) -> None:
    parent = parents(world)
    before = create_active(world, parent, path_length=1)
    world.create_subordinate("below", "sub", lifetime=900 * DAY)
    leaf = world.issue("www.example.internal", authority="sub")
    deep = world.issue("deep.example.internal", authority="below")
    # Another parent, as after a merger.
    another = parents(world)
    certificate = certified(world, another, ends=2000 * DAY)
    view = activate(world, certificate, another.chain)
    assert (view.state, view.authority.certificate, view.authority.chain) == (
        AuthorityState.ENABLED,
        certificate,
        another.chain,
    )
    assert view.authority.not_after == world.clock.now() + 2000 * DAY
    assert view.authority.etag != before.authority.etag
    assert get(world, SUB) == replace(view, warnings=())
    below = get(world, BELOW).authority
    assert below.chain == (certificate, *another.chain)
    now = world.clock.now()
    assert verify(tmp_path, now, leaf, view.authority.full_chain) == ""
    assert verify(tmp_path, now, leaf, before.authority.full_chain) == ""
    assert verify(tmp_path, now, deep, below.full_chain) == ""
    (event,) = [event for event in world.events() if event.type is EventType.AUTHORITY_REISSUED]
    assert (event.resource, event.details["issuer"]) == (str(SUB), "CN=Outside Middle")


def test_an_expired_one_issues_again_unless_it_was_disabled(world: World) -> None:
    parent = parents(world)
    create_active(world, parent)
    world.clock.advance(1001 * DAY)
    assert get(world, SUB).state is AuthorityState.EXPIRED
    assert activate(world, certified(world, parent), parent.chain).state is AuthorityState.ENABLED
    world.issue("www.example.internal", authority="sub")
    disable(world, SUB)
    world.clock.advance(1001 * DAY)
    assert activate(world, certified(world, parent), parent.chain).state is AuthorityState.DISABLED


def test_bounds_of_the_one_before_do_not_narrow_the_next(world: World) -> None:
    parent = parents(world)
    view = create_active(world, parent, path_length=2)
    assert view.authority.path_length == 2
    assert activate(world, certified(world, parent, path_length=0), parent.chain).authority.path_length == 0
    view = activate(world, certified(world, parent, path_length=2), parent.chain)
    assert (view.authority.path_length, view.warnings) == (2, ())


def test_the_subject_key_identifier_stays(world: World) -> None:
    parent = parents(world)
    before = create_active(world, parent)
    another = x509.SubjectKeyIdentifier(b"another")
    error = refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: activate(world, certified(world, parent, extensions=[(another, False)]), parent.chain),
        says="subject key identifier",
    )
    assert [violation.field for violation in error.violations] == ["certificate"]
    assert get(world, SUB) == before


def test_key_and_subject_stay(world: World) -> None:
    parent = parents(world)
    create_active(world, parent)
    key = outside_authority("Somebody", now=world.clock.now()).certificate.public_key()
    refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: activate(world, certified(world, parent, public_key=key), parent.chain),
        says="another key",
    )
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test sub")])
    refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: activate(world, certified(world, parent, subject=name), parent.chain),
        says="another subject",
    )


def test_what_would_outlive_it_is_named_unless_that_is_allowed(world: World) -> None:
    parent = parents(world)
    create_active(world, parent)
    leaf = world.issue("www.example.internal", authority="sub", lifetime=300 * DAY)
    serial = CertificateName.parse("name", leaf.name).serial
    short = certified(world, parent, ends=200 * DAY)
    for validate_only in (True, False):
        error = refused(
            Reason.CERTIFICATE_IN_USE,
            lambda v=validate_only: activate(world, short, parent.chain, validate_only=v),  # type: ignore[misc]
            says="allow_broken_certificates",
        )
        assert error.metadata["certificates"] == serial
    assert activate(world, short, parent.chain, broken=True).authority.certificate == short


def test_an_authority_below_that_it_leaves_no_room_for_is_named(world: World) -> None:
    parent = parents(world)
    create_active(world, parent, path_length=1)
    world.create_subordinate("below", "sub", lifetime=900 * DAY)
    serial = f"{x509.load_der_x509_certificate(get(world, BELOW).authority.certificate or b'').serial_number:x}"
    narrow = certified(world, parent, path_length=0)
    error = refused(Reason.CERTIFICATE_IN_USE, lambda: activate(world, narrow, parent.chain), says="path length")
    assert error.metadata["certificates"] == serial
    activate(world, narrow, parent.chain, broken=True)


def test_what_lies_outside_of_its_name_constraints_is_named(world: World) -> None:
    parent = parents(world)
    create_active(world, parent)
    for name in ("www.example.internal", "www.example.com"):
        leaf = world.issue(name, authority="sub")
    constrained_one = certified(world, parent, extensions=[(constrained("example.internal"), True)])
    error = refused(
        Reason.CERTIFICATE_IN_USE, lambda: activate(world, constrained_one, parent.chain), says="name constraints"
    )
    assert error.metadata["certificates"] == CertificateName.parse("name", leaf.name).serial
    other = certified(world, parent, extensions=[(constrained("example.com"), True)])
    refused(Reason.CERTIFICATE_IN_USE, lambda: activate(world, other, parent.chain), says="name constraints")
    activate(world, constrained_one, parent.chain, broken=True)
    refused(
        Reason.NAME_CONSTRAINT_VIOLATED, lambda: world.issue("www.example.com", authority="sub"), says="example.com"
    )


def test_one_whose_issuer_is_here_is_refused(ca: World) -> None:
    parent = parents(ca)
    refused(
        Reason.STATE_FORBIDS,
        lambda: activate(ca, parent.der, parent.chain, name=CA),
        says="ReissueAuthorityCertificate",
    )
    assert reissue(ca).state is AuthorityState.ENABLED


def test_one_that_is_deleted_is_refused(world: World) -> None:
    parent = parents(world)
    create_active(world, parent)
    disable(world, SUB)
    delete(world, SUB)
    refused(Reason.STATE_FORBIDS, lambda: activate(world, certified(world, parent), parent.chain), says="Undelete")


@pytest.mark.parametrize("step", ["activation.2.checked", "activation.3.installed"])
def test_a_crash_leaves_the_old_or_the_new_one_and_a_retry_ends_it(world: World, step: str) -> None:
    parent = parents(world)
    create_active(world, parent)
    certificate = certified(world, parent)
    key = RequestKey(str(uuid.uuid4()), b"a")
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        activate(world, certificate, parent.chain, key=key)
    assert activate(world, certificate, parent.chain, key=key).authority.certificate == certificate
    assert [event.type for event in world.events()].count(EventType.AUTHORITY_REISSUED) == 1
