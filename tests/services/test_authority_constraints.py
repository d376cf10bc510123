"""Name constraints of authorities: written into their certificates, and held against whatever stands below."""

import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.model.event import EventType
from certd.model.names import AuthorityName, ProfileName
from certd.pki import distinguished_name, name_constraints
from certd.pki.authority_certificate import standing_of
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from certd.services.certificates import NewCertificate
from certd.services.profile_check import RequestToCheck
from tests.outside_parent import pem_of
from tests.services.awaiting import activate, certified, create_active, create_awaiting, parents
from tests.services.conftest import ADMINISTRATOR, World

INSIDE = NameConstraints(
    permitted=Subtrees(dns_names=("example.internal",), ip_ranges=("192.0.2.0/24",)),
    excluded=Subtrees(dns_names=("bad.example.internal",)),
)


def csr(*names: x509.GeneralName) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def verified(folder: Path, leaf: bytes, chain: tuple[bytes, ...]) -> bool:
    """Whether openssl verifies a leaf under the last certificate of its chain."""
    for name, content in (("leaf", [leaf]), ("untrusted", chain[:-1]), ("root", chain[-1:])):
        (folder / f"{name}.pem").write_bytes(pem_of(*content))
    command = ["openssl", "verify", "-no_check_time", "-CAfile", "root.pem", "-untrusted", "untrusted.pem", "leaf.pem"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def refused_outside(world: World, authority: str, name: str, field: str) -> None:
    before = [event for event in world.events() if event.type is EventType.CERTIFICATE_ISSUED]
    with pytest.raises(CertdError) as refused:
        world.issue(name, authority=authority)
    assert refused.value.reason is Reason.NAME_CONSTRAINT_VIOLATED
    assert [violation.field for violation in refused.value.violations] == [field]
    assert [event for event in world.events() if event.type is EventType.CERTIFICATE_ISSUED] == before


_DNS = "csr.subject_alternative_names.dns_names[0]"


def test_they_stand_critical_in_the_certificate_and_hold(world: World, tmp_path: Path) -> None:
    world.create_root()
    view = world.create_subordinate(name_constraints=INSIDE)
    assert view.authority.constraints == INSIDE
    assert view.warnings == ()
    assert world.core.authorities.get(ADMINISTRATOR, AuthorityName("default", "ca")) == view
    certificate = x509.load_der_x509_certificate(view.authority.certificate or b"")
    extension = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert [str(one.value) for one in extension.value.permitted_subtrees or ()] == ["example.internal", "192.0.2.0/24"]
    inside = world.issue("www.example.internal")
    assert verified(tmp_path, inside.der or b"", inside.chain)
    for name in ("www.example.com", "example.internal.com", "bad.example.internal", "x.bad.example.internal"):
        refused_outside(world, "ca", name, _DNS)


def test_a_root_does_not_sign_itself_free_of_them(world: World) -> None:
    """The CSR of its own key says less than its certificate; with another path length only the token would refuse."""
    for path_length in (0, 1):
        name = AuthorityName("default", f"root{path_length}")
        world.create_root(name.authority, name_constraints=INSIDE, path_length=path_length)
        own = world.core.authority_activation.csr(ADMINISTRATOR, name)
        new = NewCertificate(authority=name, csr=own, profile=ProfileName("default", "root-ca"))
        for validate_only in (True, False):
            with pytest.raises(CertdError) as refused:
                world.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=validate_only, timeout=30)
            assert refused.value.reason is Reason.PROFILE_FORBIDS
            assert [violation.field for violation in refused.value.violations] == ["profile"]
        asked = RequestToCheck(name=ProfileName("default", "root-ca"), csr=own, authority=name)
        checked = world.core.profile_checks.check(ADMINISTRATOR, asked)
        assert [finding.reason for finding in checked.findings] == [Reason.PROFILE_FORBIDS]


def test_what_they_refuse_openssl_refuses(world: World, tmp_path: Path) -> None:
    """Two certificates for one key, with constraints and without: what one issued is held against both."""
    parent = parents(world)
    create_awaiting(world)
    free = certified(world, parent)
    bound = certified(
        world, parent, extensions=[(x509.NameConstraints([x509.DNSName("example.internal")], None), True)]
    )
    activate(world, free, parent.chain)
    for name, fits in (("www.example.internal", True), ("www.example.com", False)):
        leaf = world.issue(name, authority="sub").der or b""
        assert verified(tmp_path, leaf, (free, *parent.chain))
        assert verified(tmp_path, leaf, (bound, *parent.chain)) is fits
        names = SubjectAlternativeNames(dns_names=(name,))
        held = standing_of(bound, parent.chain).name_constraints
        assert (not name_constraints.check(held, subject=distinguished_name.EMPTY, names=names)) is fits


def test_those_of_an_outside_parent_hold(world: World, tmp_path: Path) -> None:
    parent = parents(world, extensions=[(x509.NameConstraints([x509.DNSName("example.internal")], None), True)])
    create_active(world, parent)
    view = world.issue("www.example.internal", authority="sub")
    assert verified(tmp_path, view.der or b"", view.chain)
    refused_outside(world, "sub", "www.example.com", _DNS)


def test_those_of_every_authority_above_hold(world: World) -> None:
    world.create_root(path_length=2)
    world.create_subordinate("middle", name_constraints=INSIDE, path_length=1)
    below = NameConstraints(permitted=Subtrees(dns_names=("a.example.internal",)))
    view = world.create_subordinate("ca", issuer="middle", name_constraints=below)
    assert view.authority.constraints == below
    world.issue("www.a.example.internal")
    refused_outside(world, "ca", "www.b.example.internal", _DNS)
    # The range of addresses of the one above holds where the one below says nothing.
    with pytest.raises(CertdError) as refused:
        world.issue(csr=csr(x509.IPAddress(ip_address("198.51.100.1"))))
    assert refused.value.reason is Reason.NAME_CONSTRAINT_VIOLATED


def test_a_managed_certificate_obeys_them(world: World) -> None:
    world.create_root()
    world.create_subordinate(name_constraints=INSIDE)
    with pytest.raises(CertdError) as refused:
        world.request(names=SubjectAlternativeNames(dns_names=("www.example.com",)))
    assert refused.value.reason is Reason.NAME_CONSTRAINT_VIOLATED
    assert [violation.field for violation in refused.value.violations] == [
        "managed_certificate.subject_alternative_names.dns_names[0]"
    ]


def test_a_subordinate_lies_within_those_of_its_issuer(world: World) -> None:
    world.create_root(path_length=2)
    within = distinguished_name.parse_text("O=Example")
    world.create_subordinate(
        "middle", path_length=1, name_constraints=NameConstraints(permitted=Subtrees(directory_names=(within,)))
    )
    with pytest.raises(CertdError) as refused:
        world.create_subordinate(issuer="middle", subject=distinguished_name.parse_text("CN=CA,O=Other"))
    assert refused.value.reason is Reason.NAME_CONSTRAINT_VIOLATED
    assert [violation.field for violation in refused.value.violations] == ["authority.subject"]
    world.create_subordinate(issuer="middle", subject=distinguished_name.parse_text("CN=CA,O=Example"))


def test_what_gains_nothing_is_told(world: World) -> None:
    root = world.create_root(name_constraints=INSIDE)
    assert [warning.field for warning in root.warnings] == ["authority.name_constraints"]
    wider = NameConstraints(permitted=Subtrees(dns_names=("a.example.internal", "internal", "example.com")))
    view = world.create_subordinate(name_constraints=wider)
    assert [warning.field for warning in view.warnings] == [
        "authority.name_constraints.permitted.dns_names[1]",
        "authority.name_constraints.permitted.dns_names[2]",
    ]
    assert "stays forbidden" in view.warnings[0].message


def test_what_the_outside_parent_wrote_holds(world: World) -> None:
    parent = parents(world)
    asked = create_awaiting(world, name_constraints=INSIDE)
    assert asked.authority.constraints == INSIDE
    written = (x509.NameConstraints([x509.DNSName("other.internal")], None), True)
    view = activate(world, certified(world, parent, extensions=[written]), parent.chain)
    assert view.authority.constraints == NameConstraints(permitted=Subtrees(dns_names=("other.internal",)))
    assert ["name constraints" in warning.message for warning in view.warnings] == [True]
    world.issue("www.other.internal", authority="sub")
    refused_outside(world, "sub", "www.example.internal", _DNS)


def test_what_was_asked_for_and_written_is_no_warning(world: World) -> None:
    parent = parents(world)
    view = create_active(world, parent, name_constraints=INSIDE)
    assert (view.warnings, view.authority.constraints) == ((), INSIDE)


@pytest.mark.parametrize(
    "changes",
    [
        {"permitted": Subtrees(uri_hosts=(".example.internal",))},
        {"permitted": Subtrees(email_addresses=("example.internal",))},
        {"excluded": Subtrees(dns_names=("",))},
        {"excluded": Subtrees(directory_names=(distinguished_name.parse_text("O=Bad"),))},
    ],
)
def test_every_form_is_written_and_read_again(world: World, changes: dict[str, Any]) -> None:
    world.create_root()
    constraints = NameConstraints(**changes)
    assert world.create_subordinate(name_constraints=constraints).authority.constraints == constraints
