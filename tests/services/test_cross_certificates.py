"""Cross-certificates: authorities certify others, and openssl finds every chain, before and after a rotation."""

import subprocess
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import CertificateName
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.services.cross_certification import CrossCertificate, NewCrossCertificate
from certd.services.idempotency import RequestKey
from tests.outside_parent import certify, name, outside_authority, pem_of
from tests.services.conftest import ADMINISTRATOR, STRANGER, World
from tests.services.rotated_books import activate, authority_in, certificate, name_of, prepare


def cross(
    world: World,
    der: bytes,
    authority: str = "root",
    *,
    lifetime: timedelta | None = None,
    key: RequestKey | None = None,
    validate_only: bool = False,
) -> CrossCertificate:
    new = NewCrossCertificate(authority=name_of(authority), certificate=der, lifetime=lifetime)
    return world.core.rotation.certifier.create(ADMINISTRATOR, new, key=key, validate_only=validate_only)


def verifies(folder: Path, leaf: bytes, *, trusted: bytes, untrusted: tuple[bytes, ...], strict: bool = True) -> bool:
    """Has openssl look for a chain from a leaf to one trusted root."""
    for file, content in (("leaf", [leaf]), ("untrusted", untrusted), ("root", [trusted])):
        (folder / f"{file}.pem").write_bytes(pem_of(*content))
    strictly = ["-x509_strict"] if strict else []
    command = ["openssl", "verify", *strictly, "-no_check_time", "-CAfile", "root.pem"]
    result = subprocess.run(
        [*command, *(["-untrusted", "untrusted.pem"] if untrusted else []), "leaf.pem"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode == 0


def test_openssl_finds_chains_through_old_and_new_root(ca: World, tmp_path: Path) -> None:
    old_root, old_ca = authority_in(ca, "root").certificate or b"", authority_in(ca).certificate or b""
    before = ca.issue("before.example.internal").der or b""
    view = prepare(ca, "root", cross_certify=True)
    activate(ca, 2, "root")
    new_root = view.keys[0].certificate or b""
    prepare(ca)
    activate(ca, 2)
    new_ca = authority_in(ca).certificate or b""
    after = ca.issue("after.example.internal").der or b""
    (new_by_old,), (old_by_new,) = view.cross_certificates[2], view.cross_certificates[1]
    assert verifies(tmp_path, before, trusted=old_root, untrusted=(old_ca,))
    assert verifies(tmp_path, after, trusted=new_root, untrusted=(new_ca,))
    # Without the cross-certificates neither knows what the other key signed.
    assert not verifies(tmp_path, before, trusted=new_root, untrusted=(old_ca,))
    assert not verifies(tmp_path, after, trusted=old_root, untrusted=(new_ca,))
    assert verifies(tmp_path, before, trusted=new_root, untrusted=(old_ca, old_by_new))
    assert verifies(tmp_path, after, trusted=old_root, untrusted=(new_ca, new_by_old))


def test_the_authority_of_others_is_certified(ca: World, tmp_path: Path) -> None:
    now = ca.clock.now()
    partner = outside_authority("Partner Root", now=now)
    made = cross(ca, partner.der)
    assert [warning.field for warning in made.warnings] == ["certificate"]
    found = certificate(made.der)
    found.verify_directly_issued_by(certificate(authority_in(ca, "root").certificate))
    assert found.subject == partner.certificate.subject
    assert found.public_key() == partner.certificate.public_key()
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert found.not_valid_after_utc == partner.certificate.not_valid_after_utc
    event = next(one for one in ca.events() if one.type is EventType.AUTHORITY_CROSS_CERTIFIED)
    assert event.details["subject"] == "CN=Partner Root"
    serial = made.name.rpartition("/")[2]
    row = ca.core.certificates.get(ADMINISTRATOR, CertificateName("default", "root", serial))
    assert row.der == made.der
    leaf = certify(
        partner,
        now=now,
        subject=name("leaf"),
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        authority=False,
        ends=timedelta(days=10),
    )
    root = authority_in(ca, "root").certificate or b""
    assert verifies(tmp_path, leaf.public_bytes(Encoding.DER), trusted=root, untrusted=(made.der,), strict=False)


def test_a_cross_certificate_of_an_authority_here_shows_at_its_key(ca: World) -> None:
    ca.create_root("other")
    made = cross(ca, authority_in(ca, "other").certificate or b"")
    view = ca.core.authorities.get(ADMINISTRATOR, name_of("other"))
    assert view.cross_certificates == {1: (made.der,)}


def test_what_others_are_bound_by_is_taken_over(ca: World) -> None:
    constraints = NameConstraints(permitted=Subtrees(dns_names=("lab.internal",)))
    ca.create_root("other", name_constraints=constraints, path_length=0)
    made = cross(ca, authority_in(ca, "other").certificate or b"", lifetime=timedelta(days=30))
    assert made.warnings == ()
    found = certificate(made.der)
    value = found.extensions.get_extension_for_class(x509.NameConstraints)
    assert value.critical
    assert value.value.permitted_subtrees == [x509.DNSName("lab.internal")]
    assert found.not_valid_after_utc == ca.clock.now() + timedelta(days=30, seconds=-1)


def test_a_repeated_call_makes_one(ca: World) -> None:
    partner = outside_authority("Partner Root", now=ca.clock.now())
    key = RequestKey(str(uuid.uuid4()), b"a")
    assert cross(ca, partner.der, validate_only=True).der == b""
    first, second = cross(ca, partner.der, key=key), cross(ca, partner.der, key=key)
    assert (first.name, first.der) == (second.name, second.der)
    assert len([event for event in ca.events() if event.type is EventType.AUTHORITY_CROSS_CERTIFIED]) == 1


def test_what_is_not_certified(ca: World) -> None:
    now = ca.clock.now()
    partner = outside_authority("Partner Root", now=now)
    ended = outside_authority("Ended", now=now - timedelta(days=4000))
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certify(partner, now=now, subject=name("leaf"), public_key=key.public_key(), authority=False)
    same = certify(
        None,
        now=now,
        subject=certificate(authority_in(ca, "root").certificate).subject,
        public_key=key.public_key(),
        signing_key=key,
    )
    for der, authority, reason in (
        (partner.der, "ca", Reason.PROFILE_FORBIDS),
        (ended.der, "root", Reason.IMPORT_EXPIRED),
        (leaf.public_bytes(Encoding.DER), "root", Reason.IMPORT_CHAIN_INVALID),
        # Its equal under its own name is nobody's but its own key.
        (same.public_bytes(Encoding.DER), "root", Reason.IMPORT_KEY_MISMATCH),
        (authority_in(ca, "root").certificate or b"", "root", Reason.PROFILE_FORBIDS),
        (b"no certificate", "root", Reason.IMPORT_NOT_PEM),
    ):
        with pytest.raises(CertdError) as caught:
            cross(ca, der, authority)
        assert caught.value.reason is reason, caught.value
    with pytest.raises(CertdError) as caught:
        cross(ca, partner.der, lifetime=timedelta(days=5000))
    assert caught.value.reason is Reason.LIFETIME_EXCEEDS_AUTHORITY
    with pytest.raises(CertdError) as caught:
        ca.core.rotation.certifier.create(
            STRANGER,
            NewCrossCertificate(authority=name_of("root"), certificate=partner.der),
            key=None,
            validate_only=False,
        )
    assert caught.value.reason is Reason.PERMISSION_MISSING
