"""What comes in is converted whole, and what goes out is whole."""

import hashlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.duration_pb2 import Duration

from certd.model.authority import AuthorityType
from certd.model.certificate import CertificateState
from certd.model.managed_certificate import ManagedCertificateType
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName, ProfileName, TenantName
from certd.model.renewal import MaintenanceWindow, RenewalMode, RenewalPolicy
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.managed_certificates import NewManagedCertificate
from certd.services.paging import PageRequest
from certd.v1 import (
    authority_pb2,
    authority_service_pb2,
    certificate_pb2,
    certificate_service_pb2,
    certificate_service_pb2_grpc,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    server_service_pb2,
    x509_pb2,
)
from tests.api.edge_messages import (
    AUTHORITY_NAME,
    MANAGED_NAME,
    PROFILE_NAME,
    REQUEST_ID,
    call,
    create_authority,
    distinguished_name_of,
    encoded,
    issue,
    moment_of,
    request_managed,
)
from tests.api.edge_server import (
    ALICE,
    AUTHORITY,
    CERTIFICATE,
    LEAF,
    MANAGED,
    NOW,
    SYSTEM_ROOT,
    TENANT_ROOT,
    Edge,
)


def test_create_authority(edge: Edge) -> None:
    request = create_authority(
        key_spec=x509_pb2.RSA_3072,
        signature_algorithm=x509_pb2.SHA512_WITH_RSA,
        lifetime=Duration(seconds=86400),
        path_length=0,
        labels={"team": "web", "ü" * 128: "ü" * 256},
        validate_only=True,
    )
    answer = call(edge, request)
    caller, new, key, validate_only = edge.told.last
    assert caller.principal == ALICE
    assert new == NewAuthority(
        name=AuthorityName("default", "web-ca"),
        type=AuthorityType.SUBORDINATE,
        key_spec=KeySpec.RSA_3072,
        signature_algorithm=SignatureAlgorithm.SHA512_WITH_RSA,
        subject=distinguished_name.encode(((("2.5.4.3", "Issuing"),), (("1.3.6.1.4.1.55555.1", "x"),))),
        lifetime=timedelta(days=1),
        path_length=0,
        issuer=AuthorityName("default", "web-root"),
        labels={"team": "web", "ü" * 128: "ü" * 256},
    )
    assert key.request_id == REQUEST_ID.lower()
    assert validate_only is True
    assert (answer.name, answer.uid) == (AUTHORITY_NAME, "5f0c")


def test_what_is_not_said_stays_unsaid(edge: Edge) -> None:
    call(
        edge,
        authority_service_pb2.CreateAuthorityRequest(
            parent="tenants/default",
            authority_id="r",
            authority=authority_pb2.Authority(
                type=authority_pb2.Authority.ROOT, subject=distinguished_name_of(("CN", "Root"))
            ),
        ),
    )
    _, new, key, validate_only = edge.told.last
    assert new == NewAuthority(
        name=AuthorityName("default", "r"), type=AuthorityType.ROOT, subject=distinguished_name.parse_text("CN=Root")
    )
    assert key is None
    assert validate_only is False


def test_an_authority_goes_out_whole(edge: Edge) -> None:
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert edge.told.last[1] == AuthorityName("default", "web-ca")
    description = answer.description
    answer.ClearField("description")
    assert answer.revocation.crl.lifetime == Duration(seconds=7 * 86400)
    answer.ClearField("revocation")
    key = answer.key
    assert (key.number, key.token_label, key.mechanism) == (1, "certd", "CKM_ECDSA")
    assert key.key_id == "000102030405060708090a0b0c0d0e0f"
    assert key.public_key == AUTHORITY.key.public_key
    assert (key.state, key.certificate) == (authority_pb2.Authority.Key.ACTIVE, answer.certificate)
    answer.ClearField("key")
    assert answer == authority_pb2.Authority(
        name=AUTHORITY_NAME,
        uid="5f0c",
        type=authority_pb2.Authority.ROOT,
        state=authority_pb2.Authority.ENABLED,
        key_spec=x509_pb2.EC_P256,
        signature_algorithm=x509_pb2.ECDSA_WITH_SHA256,
        subject=x509_pb2.DistinguishedName(
            relative_distinguished_names=[
                x509_pb2.RelativeDistinguishedName(
                    attributes=[x509_pb2.AttributeTypeAndValue(type="CN", value="Example Root")]
                ),
                x509_pb2.RelativeDistinguishedName(
                    attributes=[
                        # As the encoding sorts a set: the shorter one first.
                        x509_pb2.AttributeTypeAndValue(type="OU", value="Trust"),
                        x509_pb2.AttributeTypeAndValue(type="O", value="Example"),
                    ]
                ),
            ]
        ),
        lifetime=Duration(seconds=3650 * 86400),
        path_length=0,
        certificate=encoded(TENANT_ROOT),
        labels={"team": "web"},
        create_time=moment_of(NOW),
        update_time=moment_of(NOW),
        etag="5f0c-3",
        usage_mode=authority_pb2.Authority.GENERAL_PURPOSE,
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )
    assert answer.HasField("path_length")
    root = TENANT_ROOT.certificate
    assert description.subject_text == description.issuer_text == "CN=Example Root"
    assert description.subject == distinguished_name_of(("CN", "Example Root"))
    assert int(description.serial_number, 16) == root.serial_number
    assert description.not_before_time == moment_of(root.not_valid_before_utc)
    assert description.not_after_time == moment_of(root.not_valid_after_utc)
    assert description.authority
    assert not description.HasField("path_length")
    assert (description.key_spec, description.signature_algorithm) == (x509_pb2.EC_P256, x509_pb2.ECDSA_WITH_SHA256)
    assert description.public_key == AUTHORITY.key.public_key
    assert description.sha256_fingerprint == hashlib.sha256(TENANT_ROOT.der).digest()
    assert [(each.oid, each.critical) for each in description.extensions] == [("2.5.29.19", True)]


def test_an_authority_without_certificate_goes_out(edge: Edge) -> None:
    key = replace(AUTHORITY.key, public_key=None)
    edge.authorities.view = replace(edge.authorities.view, authority=replace(AUTHORITY, certificate=None, key=key))
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert not answer.HasField("certificate")
    assert not answer.HasField("description")


def test_list_authorities(edge: Edge) -> None:
    request = authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=7, page_token="token")
    answer = call(edge, request)
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(7, "token"))
    assert ([each.name for each in answer.authorities], answer.next_page_token) == ([AUTHORITY_NAME], "next")
    call(edge, authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default"))
    assert edge.told.last[2] == PageRequest(100, "")


def test_issue_certificate(edge: Edge) -> None:
    answer = call(
        edge,
        issue(
            profile=PROFILE_NAME,
            lifetime=Duration(seconds=60),
            labels={"a": "b"},
            request_id=REQUEST_ID,
            validate_only=True,
        ),
    )
    caller, new, key, validate_only, timeout = edge.told.last
    assert caller.principal == ALICE
    assert new == NewCertificate(
        authority=AuthorityName("default", "web-ca"),
        csr=b"csr",
        profile=ProfileName("default", "end-entity"),
        lifetime=timedelta(seconds=60),
        labels={"a": "b"},
    )
    assert key.request_id == REQUEST_ID.lower()
    assert validate_only is True
    assert 0 < timeout <= 20, "the caller's deadline reaches the service"
    assert answer.description.subject_alternative_names.dns_names == ["www.example.internal"]
    assert answer.description.extended_key_usages == ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]
    assert answer.description.issuer_text == "CN=Example Root"
    answer.ClearField("description")
    assert answer == certificate_pb2.Certificate(
        name=f"{AUTHORITY_NAME}/certificates/0a1b",
        state=certificate_pb2.Certificate.ISSUED,
        certificate=encoded(LEAF),
        chain=[encoded(TENANT_ROOT)],
        profile=PROFILE_NAME,
        profile_version=4,
        create_time=moment_of(NOW),
        labels={"team": "web"},
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )


def test_issue_certificate_until_a_time(edge: Edge) -> None:
    call(edge, issue(not_after_time=moment_of(NOW)))
    assert edge.told.last[1] == NewCertificate(authority=AuthorityName("default", "web-ca"), csr=b"csr", not_after=NOW)
    call(edge, issue())
    assert edge.told.last[1] == NewCertificate(authority=AuthorityName("default", "web-ca"), csr=b"csr")


def test_a_call_without_deadline_has_the_servers(edge: Edge) -> None:
    edge.stub(certificate_service_pb2_grpc.CertificateServiceStub).IssueCertificate(issue())
    assert 60 < edge.told.last[4] <= 120


@pytest.mark.parametrize("serial", ["0a1b", "A1B", "0A:1B", "00:00:0a:1b"])
def test_get_certificate_takes_serials_as_people_write_them(edge: Edge, serial: str) -> None:
    call(edge, certificate_service_pb2.GetCertificateRequest(name=f"{AUTHORITY_NAME}/certificates/{serial}"))
    assert edge.told.last[1] == CertificateName("default", "web-ca", "0a1b")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (CertificateState.PENDING, certificate_pb2.Certificate.STATE_UNSPECIFIED),
        (CertificateState.REVOKED, certificate_pb2.Certificate.REVOKED),
    ],
)
def test_states_of_certificates(edge: Edge, state: CertificateState, expected: int) -> None:
    edge.certificates.view = replace(edge.certificates.view, certificate=replace(CERTIFICATE, state=state))
    answer = call(edge, certificate_service_pb2.GetCertificateRequest(name=f"{AUTHORITY_NAME}/certificates/0a1b"))
    assert answer.state == expected


def test_list_certificates(edge: Edge) -> None:
    answer = call(edge, certificate_service_pb2.ListCertificatesRequest(parent="tenants/default/authorities/-"))
    assert edge.told.last[1:] == (AuthorityName("default", "-"), PageRequest(100, ""))
    issued, lost = answer.certificates
    assert not issued.HasField("revoke_time")
    assert lost.state == certificate_pb2.Certificate.LOST
    assert lost.revoke_time == moment_of(NOW)
    assert not lost.HasField("certificate")
    assert not lost.HasField("description")


def test_request_managed_certificate(edge: Edge) -> None:
    names = x509_pb2.SubjectAlternativeNames(
        dns_names=["WWW.Example.internal", "*.example.internal"],
        ip_addresses=["2001:DB8::0001"],
        uris=["https://example.internal/x"],
        email_addresses=["someone@Example.internal"],
    )
    answer = call(
        edge,
        request_managed(
            subject_alternative_names=names,
            profile=PROFILE_NAME,
            key_spec=x509_pb2.RSA_2048,
            subject=distinguished_name_of(("cn", "www.example.internal")),
            lifetime=Duration(seconds=3600),
            export_policy=managed_certificate_pb2.ManagedCertificate.NOT_EXPORTABLE,
            renewal=managed_certificate_pb2.RenewalPolicy(
                mode=managed_certificate_pb2.RenewalPolicy.WHEN_USED,
                remaining_percent=20,
                maintenance_windows=[
                    managed_certificate_pb2.MaintenanceWindow(cron="0 2 * * SAT", duration=Duration(seconds=3600))
                ],
            ),
            labels={"a": ""},
            request_id=REQUEST_ID,
        ),
    )
    _, new, key, validate_only = edge.told.last
    assert new == NewManagedCertificate(
        name=ManagedCertificateName("default", "web"),
        authority=AuthorityName("default", "web-ca"),
        profile=ProfileName("default", "end-entity"),
        key_spec=KeySpec.RSA_2048,
        subject=distinguished_name.parse_text("CN=www.example.internal"),
        names=SubjectAlternativeNames(
            dns_names=("www.example.internal", "*.example.internal"),
            ip_addresses=("2001:db8::1",),
            uris=("https://example.internal/x",),
            email_addresses=("someone@example.internal",),
        ),
        lifetime=timedelta(hours=1),
        exportable=False,
        renewal=RenewalPolicy(
            mode=RenewalMode.WHEN_USED,
            remaining_percent=20,
            maintenance_windows=(MaintenanceWindow(cron="0 2 * * SAT", duration=timedelta(hours=1)),),
        ),
        labels={"a": ""},
    )
    assert key.request_id == REQUEST_ID.lower()
    assert validate_only is False
    assert answer.state == managed_certificate_pb2.ManagedCertificate.PENDING
    for absent in ("certificate", "description", "next_attempt_time", "lifetime"):
        assert not answer.HasField(absent)


@pytest.mark.parametrize("policy", ["EXPORT_POLICY_UNSPECIFIED", "EXPORTABLE"])
def test_exportable_is_the_default(edge: Edge, policy: str) -> None:
    call(edge, request_managed(export_policy=policy))
    _, new, _, _ = edge.told.last
    assert new == NewManagedCertificate(
        name=ManagedCertificateName("default", "web"),
        authority=AuthorityName("default", "web-ca"),
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    assert new.exportable is True


def test_a_managed_certificate_goes_out_whole(edge: Edge) -> None:
    answer = call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=MANAGED_NAME))
    assert edge.told.last[1] == ManagedCertificateName("default", "web")
    assert answer.description.sha256_fingerprint == hashlib.sha256(LEAF.der).digest()
    answer.ClearField("description")
    kind = managed_certificate_pb2.ManagedCertificate
    condition = managed_certificate_pb2.Condition
    assert answer == kind(
        name=MANAGED_NAME,
        uid="77aa",
        type=kind.PRIVATE,
        state=kind.ACTIVE,
        authority=AUTHORITY_NAME,
        profile=PROFILE_NAME,
        key_spec=x509_pb2.EC_P256,
        subject=x509_pb2.DistinguishedName(),
        subject_alternative_names=x509_pb2.SubjectAlternativeNames(
            dns_names=["www.example.internal"], ip_addresses=["192.0.2.1"]
        ),
        lifetime=Duration(seconds=90 * 86400),
        export_policy=kind.EXPORTABLE,
        current_version=2,
        certificate=encoded(LEAF),
        chain=[encoded(TENANT_ROOT)],
        conditions=[
            condition(
                type="Issued",
                status=condition.TRUE,
                reason="ISSUED",
                message="issued",
                last_transition_time=moment_of(NOW),
            ),
            condition(
                type="Renewed",
                status=condition.FALSE,
                reason="LINT_FAILED",
                message="not",
                last_transition_time=moment_of(NOW),
            ),
        ],
        next_attempt_time=moment_of(NOW),
        create_time=moment_of(NOW),
        update_time=moment_of(NOW),
        etag="77aa-5",
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
        renewal=managed_certificate_pb2.RenewalPolicy(
            mode=managed_certificate_pb2.RenewalPolicy.ALWAYS, remaining_percent=33
        ),
    )
    edge.managed_certificates.view = replace(
        edge.managed_certificates.view, managed_certificate=replace(MANAGED, exportable=False)
    )
    answer = call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=MANAGED_NAME))
    assert answer.export_policy == kind.NOT_EXPORTABLE


def test_when_it_is_renewed_and_was_exported_goes_out(edge: Edge) -> None:
    window = MaintenanceWindow(cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=timedelta(hours=1))
    managed = replace(
        MANAGED,
        renewal=RenewalPolicy(mode=RenewalMode.NEVER, remaining_percent=20, maintenance_windows=(window,)),
        renewal_window=(NOW, NOW + timedelta(days=1)),
        export_time=NOW,
        exported_version=2,
    )
    edge.managed_certificates.view = replace(edge.managed_certificates.view, managed_certificate=managed)
    answer = call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=MANAGED_NAME))
    policy = managed_certificate_pb2.RenewalPolicy
    assert answer.renewal == policy(
        mode=policy.NEVER,
        remaining_percent=20,
        maintenance_windows=[
            managed_certificate_pb2.MaintenanceWindow(
                cron="0 2 * * SAT", time_zone="Europe/Berlin", duration=Duration(seconds=3600)
            )
        ],
    )
    assert answer.renewal_window.start_time == moment_of(NOW)
    assert answer.renewal_window.end_time == moment_of(NOW + timedelta(days=1))
    assert (answer.export_time, answer.used) == (moment_of(NOW), True)
    # What was made elsewhere has no policy, and was imported instead.
    imported = replace(managed, type=ManagedCertificateType.IMPORTED, issue_time=NOW)
    edge.managed_certificates.view = replace(edge.managed_certificates.view, managed_certificate=imported)
    answer = call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=MANAGED_NAME))
    assert not answer.HasField("renewal")
    assert answer.import_time == moment_of(NOW)


def test_list_managed_certificates(edge: Edge) -> None:
    request = managed_certificate_service_pb2.ListManagedCertificatesRequest(parent="tenants/default", page_size=1000)
    answer = call(edge, request)
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(1000, ""))
    assert ([each.name for each in answer.managed_certificates], answer.next_page_token) == ([MANAGED_NAME], "")


def test_server_info(edge: Edge) -> None:
    answer = call(edge, server_service_pb2.GetServerInfoRequest())
    assert answer == server_service_pb2.ServerInfo(
        version="1.2.3",
        token=server_service_pb2.TokenInfo(
            module="/usr/lib/softhsm/libsofthsm2.so",
            label="certd",
            serial_number="0001",
            manufacturer="SoftHSM project",
            model="SoftHSM v2",
            mechanisms=["CKM_ECDSA"],
            missing=["CKM_EDDSA is missing: no Ed25519 authorities"],
            ready=False,
            problem="gone",
        ),
        isolation=server_service_pb2.ServerInfo.SEPARATE_USER,
        database_engine="sqlite",
        start_time=moment_of(NOW),
        trust_domain="certd.test",
        preparation=server_service_pb2.PreparationInfo(
            configured_processes=2, ready_processes=1, problem="The prepare process is starting."
        ),
        problems=["the CRL of an authority is late"],
    )
    edge.description.description = replace(edge.description.description, token=None, isolation=None)
    answer = call(edge, server_service_pb2.GetServerInfoRequest())
    assert answer.token == server_service_pb2.TokenInfo(ready=False, problem="gone")
    assert answer.isolation == server_service_pb2.ServerInfo.ISOLATION_UNSPECIFIED


def test_trust_bundle(edge: Edge) -> None:
    answer = call(edge, server_service_pb2.GetTrustBundleRequest())
    assert edge.told.last[1:] == (None,)
    assert answer == server_service_pb2.TrustBundle(system_roots=[encoded(SYSTEM_ROOT)])
    answer = call(edge, server_service_pb2.GetTrustBundleRequest(tenant="tenants/default"))
    assert edge.told.last[1] == TenantName("default")
    assert list(answer.tenant_roots) == [encoded(TENANT_ROOT)]
    assert answer.tenant_roots[0].der == TENANT_ROOT.certificate.public_bytes(Encoding.DER)


def test_the_hash_of_a_request_is_of_all_but_its_request_id(edge: Edge) -> None:
    labels = {f"key-{number}": "value" for number in range(40)}
    backwards = dict(reversed(labels.items()))
    hashes = []
    for request in (
        issue(labels=labels, request_id=REQUEST_ID),
        issue(labels=backwards, request_id=REQUEST_ID.lower().replace("1f", "2e")),
        issue(labels={**labels, "key-0": "other"}, request_id=REQUEST_ID),
        issue(labels=labels, request_id=REQUEST_ID, lifetime=Duration(seconds=1)),
    ):
        call(edge, request)
        hashes.append(edge.told.last[2].request_sha256)
    assert len(hashes[0]) == 32
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
