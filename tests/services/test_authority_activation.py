"""Activation: the certificate of an outside parent installed, once, whole, and what follows from it."""

import subprocess
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certd.errors import CertdError, Reason
from certd.model.authority import AuthorityState
from certd.model.event import EventType
from certd.model.names import AuthorityName, ProfileName, TenantName
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.services.authority_activation import Activation
from certd.services.authority_changes import Change
from certd.services.certificates import NewCertificate
from certd.services.idempotency import RequestKey
from tests.outside_parent import outside_authority, pem_of
from tests.services.awaiting import SUB, activate, certified, create_active, create_awaiting, csr_of, parents
from tests.services.conftest import ADMINISTRATOR, STRANGER, CrashError, World, crash


def refused(reason: Reason, call: Callable[[], object], *, says: str) -> CertdError:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is reason, caught.value
    assert says in caught.value.message
    return caught.value


def verify(folder: Path, leaf: bytes, chain: tuple[bytes, ...]) -> subprocess.CompletedProcess[str]:
    """Has openssl verify a leaf under the last certificate of its chain."""
    for name, content in (("leaf", [leaf]), ("untrusted", chain[:-1]), ("root", chain[-1:])):
        (folder / f"{name}.pem").write_bytes(pem_of(*content))
    command = ["openssl", "verify", "-x509_strict", "-no_check_time", "-CAfile", "root.pem", "-untrusted"]
    return subprocess.run(
        [*command, "untrusted.pem", "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_it_is_enabled_and_issues_what_others_verify(world: World, tmp_path: Path) -> None:
    parent = parents(world)
    create_awaiting(world, path_length=1)
    certificate = certified(world, parent)
    view = activate(world, certificate, parent.chain)
    assert (view.state, view.issuer_name, view.warnings) == (AuthorityState.ENABLED, "", ())
    assert (view.authority.certificate, view.authority.chain) == (certificate, parent.chain)
    assert view.authority.not_after == world.clock.now() + timedelta(days=1000)
    assert world.core.authorities.get(ADMINISTRATOR, SUB) == view
    (event,) = [event for event in world.events() if event.type is EventType.AUTHORITY_ACTIVATED]
    assert (event.resource, event.principal) == (str(SUB), ADMINISTRATOR.principal)
    assert (event.details["issuer"], event.details["path_length"]) == ("CN=Outside Middle", "1")
    leaf = world.issue("www.example.internal", authority="sub")
    assert leaf.chain == (certificate, *parent.chain)
    # The parent has its own way to compute identifiers of keys, and the leaf points at what stands there.
    own = x509.load_der_x509_certificate(certificate).extensions
    found = x509.load_der_x509_certificate(leaf.der or b"").extensions
    pointer = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert pointer == own.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    below = world.create_subordinate("below", issuer="sub", lifetime=timedelta(days=900))
    assert below.authority.chain == (certificate, *parent.chain)
    deep = world.issue("deep.example.internal", authority="below")
    for issued in (leaf, deep):
        verified = verify(tmp_path, issued.der or b"", issued.chain)
        assert verified.returncode == 0, verified.stderr


def openssl(folder: Path, *arguments: str) -> None:
    run = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_openssl_may_be_the_parent(world: World, tmp_path: Path) -> None:
    """As an operator does it with an offline root: what is asked for is copied, and what comes back is installed."""
    create_awaiting(world, name_constraints=NameConstraints(permitted=Subtrees(dns_names=("example.internal",))))
    (tmp_path / "sub.csr").write_bytes(csr_of(world))
    extensions = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    key = ("-newkey", "rsa:3072", "-noenc", "-keyout", "root.key")
    openssl(
        tmp_path, "req", "-x509", *key, "-subj", "/O=Offline/CN=Root", "-days", "9000", *extensions, "-out", "root.pem"
    )
    openssl(
        tmp_path,
        *("x509", "-req", "-inform", "DER", "-in", "sub.csr", "-copy_extensions", "copyall", "-days", "5000"),
        *("-CA", "root.pem", "-CAkey", "root.key", "-out", "sub.pem"),
    )
    given = Activation((tmp_path / "sub.pem").read_bytes(), (tmp_path / "root.pem").read_bytes())
    view = world.core.authority_activation.activate(ADMINISTRATOR, Change(name=SUB), given)
    # It was certified for longer than it was created for.
    assert ["the key of the authority was created for less" in one.message for one in view.warnings] == [True]
    leaf = world.issue("www.example.internal", authority="sub")
    assert verify(tmp_path, leaf.der or b"", leaf.chain).returncode == 0
    refused(
        Reason.NAME_CONSTRAINT_VIOLATED, lambda: world.issue("www.example.com", authority="sub"), says="www.example.com"
    )


def test_its_chain_is_published_and_its_root_is_to_be_trusted(world: World) -> None:
    parent = parents(world)
    root = world.create_root()
    view = create_active(world, parent)
    assert world.core.public_certificates.authority_chain(view.authority.uid, 1) == (
        view.authority.certificate,
        *parent.chain,
    )
    world.create_subordinate("below-root")
    bundle = world.core.server.trust_bundle(ADMINISTRATOR, TenantName("default"))
    assert set(bundle.tenant_roots) == {root.authority.certificate, parent.chain[-1]}
    assert len(bundle.tenant_roots) == 2


def test_nothing_is_published_of_one_that_awaits(world: World) -> None:
    view = create_awaiting(world)
    refused(
        Reason.AUTHORITY_NOT_FOUND,
        lambda: world.core.public_certificates.authority_chain(view.authority.uid, 1),
        says="no authority has",
    )
    assert world.core.server.trust_bundle(ADMINISTRATOR, TenantName("default")).tenant_roots == ()


def test_an_authority_of_certd_may_be_the_parent(world: World) -> None:
    root = world.create_root()
    create_awaiting(world)
    new = NewCertificate(
        authority=AuthorityName("default", "root"),
        csr=csr_of(world),
        profile=ProfileName("default", "subordinate-ca"),
    )
    made = world.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
    view = activate(world, made.der or b"", made.chain)
    assert (view.state, view.authority.path_length) == (AuthorityState.ENABLED, 0)
    assert view.authority.chain == (root.authority.certificate,)


def test_a_lower_path_length_holds(world: World) -> None:
    parent = parents(world)
    create_awaiting(world, path_length=2)
    view = activate(world, certified(world, parent, path_length=0), parent.chain)
    assert view.authority.path_length == 0
    assert [warning.field for warning in view.warnings] == ["certificate"]
    refused(
        Reason.PROFILE_FORBIDS,
        lambda: world.create_subordinate("below", issuer="sub", lifetime=timedelta(days=30)),
        says="path length",
    )


def test_nothing_it_issues_outlives_its_chain(world: World) -> None:
    parent = parents(world, ends=timedelta(days=10))
    create_awaiting(world)
    view = activate(world, certified(world, parent), parent.chain)
    assert view.authority.not_after == world.clock.now() + timedelta(days=10)
    refused(
        Reason.LIFETIME_EXCEEDS_AUTHORITY,
        lambda: world.issue("www.example.internal", authority="sub", lifetime=timedelta(days=11)),
        says="shorter lifetime",
    )
    world.clock.advance(timedelta(days=11))
    assert world.core.authorities.get(ADMINISTRATOR, SUB).state is AuthorityState.EXPIRED


def test_a_certificate_that_will_not_do_changes_nothing(world: World) -> None:
    parent = parents(world)
    view = create_awaiting(world)
    other = ec.generate_private_key(ec.SECP256R1())
    before = world.events()
    error = refused(
        Reason.IMPORT_KEY_MISMATCH,
        lambda: activate(world, certified(world, parent, public_key=other.public_key()), parent.chain),
        says="GetAuthorityCsr",
    )
    assert [violation.field for violation in error.violations] == ["certificate"]
    refused(
        Reason.IMPORT_CHAIN_INVALID, lambda: activate(world, certified(world, parent), parent.chain[:1]), says="root"
    )
    assert world.core.authorities.get(ADMINISTRATOR, SUB) == view
    signed = [event for event in world.events() if event.type is EventType.AUTHORITY_CSR_SIGNED]
    assert world.events() == before + signed
    assert activate(world, certified(world, parent), parent.chain).state is AuthorityState.ENABLED


def test_validate_only_tells_what_would_be_and_changes_nothing(world: World) -> None:
    parent = parents(world)
    created = create_awaiting(world)
    certificate = certified(world, parent, path_length=3)
    before = world.events()
    view = activate(world, certificate, parent.chain, validate_only=True)
    assert (view.state, view.authority.certificate) == (AuthorityState.ENABLED, certificate)
    assert [warning.field for warning in view.warnings] == ["certificate"]
    assert world.events() == before
    assert world.core.authorities.get(ADMINISTRATOR, SUB) == created


def test_one_that_does_not_exist_is_not_found(world: World) -> None:
    parent = parents(world)
    refused(
        Reason.AUTHORITY_NOT_FOUND,
        lambda: activate(world, parent.der, parent.chain, name=AuthorityName("default", "absent")),
        says="does not exist",
    )


def test_one_in_the_making_is_not_activated(world: World) -> None:
    parent = parents(world)
    world.create_root()
    world.steps.at["authority.3.key-recorded"] = crash
    with pytest.raises(CrashError):
        world.create_subordinate("made-here")
    world.steps.at["authority.1.requested"] = crash
    with pytest.raises(CrashError):
        create_awaiting(world)
    refused(
        Reason.STATE_FORBIDS,
        lambda: activate(world, parent.der, parent.chain, name=AuthorityName("default", "made-here")),
        says="gets its certificate from its issuer here",
    )
    waiting = refused(
        Reason.REQUEST_IN_PROGRESS, lambda: activate(world, parent.der, parent.chain), says="still being made"
    )
    assert waiting.retry_after is not None


def test_an_outdated_etag_is_refused(world: World) -> None:
    parent = parents(world)
    view = create_awaiting(world)
    certificate = certified(world, parent)
    error = refused(
        Reason.ETAG_MISMATCH,
        lambda: activate(world, certificate, parent.chain, etag="outdated"),
        says="read it again",
    )
    assert [violation.field for violation in error.violations] == ["etag"]
    assert error.metadata == {"etag": view.authority.etag}
    enabled = activate(world, certificate, parent.chain, etag=view.authority.etag)
    assert enabled.authority.etag != view.authority.etag


def test_a_repeated_request_returns_the_authority_again(world: World) -> None:
    parent = parents(world)
    create_awaiting(world)
    certificate = certified(world, parent)
    key = RequestKey(str(uuid.uuid4()), b"a")
    first = activate(world, certificate, parent.chain, key=key)
    assert activate(world, certificate, parent.chain, key=key) == first
    other = RequestKey(key.request_id, b"b")
    error = refused(
        Reason.REQUEST_ID_REUSED, lambda: activate(world, certificate, parent.chain, key=other), says="send a new one"
    )
    assert error.metadata == {"request_id": key.request_id}
    assert [event.type for event in world.events()].count(EventType.AUTHORITY_ACTIVATED) == 1


@pytest.mark.parametrize("step", ["activation.2.checked", "activation.3.installed"])
def test_a_crash_leaves_it_awaiting_or_enabled_and_a_retry_ends_it(world: World, step: str) -> None:
    parent = parents(world)
    create_awaiting(world)
    certificate = certified(world, parent)
    key = RequestKey(str(uuid.uuid4()), b"a")
    world.steps.at[step] = crash
    with pytest.raises(CrashError):
        activate(world, certificate, parent.chain, key=key)
    assert activate(world, certificate, parent.chain, key=key).state is AuthorityState.ENABLED
    assert [event.type for event in world.events()].count(EventType.AUTHORITY_ACTIVATED) == 1


def test_of_two_activations_at_once_one_is_refused(world: World) -> None:
    first, second = parents(world), parents(world)
    create_awaiting(world)
    mine, theirs = certified(world, first), certified(world, second)
    world.steps.at["activation.2.checked"] = lambda: activate(world, theirs, second.chain)
    refused(Reason.ETAG_MISMATCH, lambda: activate(world, mine, first.chain), says="another certificate meanwhile")
    view = world.core.authorities.get(ADMINISTRATOR, SUB)
    assert (view.authority.certificate, view.authority.chain) == (theirs, second.chain)


def test_of_one_request_twice_at_once_both_are_answered(world: World) -> None:
    parent = parents(world)
    create_awaiting(world)
    certificate = certified(world, parent)
    key = RequestKey(str(uuid.uuid4()), b"a")
    world.steps.at["activation.2.checked"] = lambda: activate(world, certificate, parent.chain, key=key)
    assert activate(world, certificate, parent.chain, key=key).state is AuthorityState.ENABLED


def test_it_is_for_who_may_activate(world: World) -> None:
    create_awaiting(world)
    root = outside_authority("Root", now=world.clock.now())
    for name in (SUB, AuthorityName("default", "absent")):
        error = refused(
            Reason.PERMISSION_MISSING,
            lambda n=name: activate(world, root.der, root.chain, name=n, caller=STRANGER),  # type: ignore[misc]
            says="an administrator can grant it",
        )
        assert error.metadata["permission"] == "authority.activate"
