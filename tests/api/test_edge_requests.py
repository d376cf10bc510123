"""What comes in is converted whole or refused with every field; what goes out is whole."""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api import fields
from certd.errors import CertdError, Reason, Violation
from certd.model.authority import AuthorityType
from certd.model.certificate import CertificateState
from certd.model.names import AuthorityName, CertificateName, ManagedCertificateName, ProfileName, TenantName
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.managed_certificates import NewManagedCertificate, PassphraseExport, RecipientExport
from certd.services.paging import PageRequest
from certd.v1 import (
    authority_pb2,
    authority_service_pb2,
    authority_service_pb2_grpc,
    certificate_pb2,
    certificate_service_pb2,
    certificate_service_pb2_grpc,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    managed_certificate_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
    x509_pb2,
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
    Failure,
    Identity,
    failure_of,
)

_AUTHORITY = "tenants/default/authorities/web-ca"
_MANAGED = "tenants/default/managedCertificates/web"
_PROFILE = "tenants/default/profiles/end-entity"
_REQUEST_ID = "1F6E5B0A-6f0e-4d3b-9f55-2f0c6f1f8a11"

_SERVICES: dict[str, tuple[Any, Any]] = {
    "AuthorityService": (authority_service_pb2, authority_service_pb2_grpc),
    "CertificateService": (certificate_service_pb2, certificate_service_pb2_grpc),
    "ManagedCertificateService": (managed_certificate_service_pb2, managed_certificate_service_pb2_grpc),
    "ServerService": (server_service_pb2, server_service_pb2_grpc),
}


def _call(edge: Edge, request: Message) -> Any:
    """Calls the method that takes this request."""
    method = type(request).__name__.removesuffix("Request")
    for service, (messages, stubs) in _SERVICES.items():
        if method in messages.DESCRIPTOR.services_by_name[service].methods_by_name:
            return getattr(edge.stub(getattr(stubs, f"{service}Stub")), method)(request, timeout=20)
    raise LookupError(method)


def _refused(edge: Edge, request: Message) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        _call(edge, request)
    assert edge.told.calls == [], "the service was reached"
    return failure_of(raised.value)


def _encoded(identity: Identity) -> x509_pb2.EncodedCertificate:
    return x509_pb2.EncodedCertificate(der=identity.der, pem=identity.pem.decode())


def _name(*attributes: tuple[str, str]) -> x509_pb2.DistinguishedName:
    return x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(attributes=[x509_pb2.AttributeTypeAndValue(type=type_, value=value)])
            for type_, value in attributes
        ]
    )


def _moment(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _create_authority(**changes: Any) -> authority_service_pb2.CreateAuthorityRequest:
    authority: dict[str, Any] = {
        "type": authority_pb2.Authority.SUBORDINATE,
        "subject": _name(("CN", "Issuing"), ("1.3.6.1.4.1.55555.1", "x")),
        "issuer": "tenants/default/authorities/web-root",
    }
    authority.update(
        {name: value for name, value in changes.items() if name in authority_pb2.Authority.DESCRIPTOR.fields_by_name}
    )
    request: dict[str, Any] = {"parent": "tenants/default", "authority_id": "web-ca", "request_id": _REQUEST_ID}
    request.update({name: value for name, value in changes.items() if name not in authority})
    return authority_service_pb2.CreateAuthorityRequest(authority=authority_pb2.Authority(**authority), **request)


def _issue(**changes: Any) -> certificate_service_pb2.IssueCertificateRequest:
    return certificate_service_pb2.IssueCertificateRequest(**{"parent": _AUTHORITY, "csr": b"csr", **changes})


def _request(**changes: Any) -> managed_certificate_service_pb2.RequestManagedCertificateRequest:
    fields_of_it = managed_certificate_pb2.ManagedCertificate.DESCRIPTOR.fields_by_name
    managed: dict[str, Any] = {
        "authority": _AUTHORITY,
        "subject_alternative_names": x509_pb2.SubjectAlternativeNames(dns_names=["WWW.example.internal"]),
    }
    managed.update({name: value for name, value in changes.items() if name in fields_of_it})
    request: dict[str, Any] = {"parent": "tenants/default", "managed_certificate_id": "web"}
    request.update({name: value for name, value in changes.items() if name not in fields_of_it})
    return managed_certificate_service_pb2.RequestManagedCertificateRequest(
        managed_certificate=managed_certificate_pb2.ManagedCertificate(**managed), **request
    )


def _export(**changes: Any) -> managed_certificate_service_pb2.ExportManagedCertificateRequest:
    protection = managed_certificate_service_pb2.PassphraseProtection(passphrase=b"correct horse")
    return managed_certificate_service_pb2.ExportManagedCertificateRequest(
        **{"name": _MANAGED, "passphrase": protection, **changes}
    )


# What goes right.


def test_create_authority(edge: Edge) -> None:
    request = _create_authority(
        key_spec=x509_pb2.RSA_3072,
        signature_algorithm=x509_pb2.SHA512_WITH_RSA,
        lifetime=Duration(seconds=86400),
        path_length=0,
        labels={"team": "web", "ü" * 128: "ü" * 256},
        validate_only=True,
    )
    answer = _call(edge, request)
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
    assert key.request_id == _REQUEST_ID.lower()
    assert validate_only is True
    assert (answer.name, answer.uid) == (_AUTHORITY, "5f0c")


def test_what_is_not_said_stays_unsaid(edge: Edge) -> None:
    _call(
        edge,
        authority_service_pb2.CreateAuthorityRequest(
            parent="tenants/default",
            authority_id="r",
            authority=authority_pb2.Authority(type=authority_pb2.Authority.ROOT, subject=_name(("CN", "Root"))),
        ),
    )
    _, new, key, validate_only = edge.told.last
    assert new == NewAuthority(
        name=AuthorityName("default", "r"), type=AuthorityType.ROOT, subject=distinguished_name.parse_text("CN=Root")
    )
    assert key is None
    assert validate_only is False


def test_an_authority_goes_out_whole(edge: Edge) -> None:
    answer = _call(edge, authority_service_pb2.GetAuthorityRequest(name=_AUTHORITY))
    assert edge.told.last[1] == AuthorityName("default", "web-ca")
    description = answer.description
    answer.ClearField("description")
    assert answer == authority_pb2.Authority(
        name=_AUTHORITY,
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
        key=authority_pb2.Authority.Key(
            number=1,
            token_label="certd",
            key_id="000102030405060708090a0b0c0d0e0f",
            mechanism="CKM_ECDSA",
            public_key=AUTHORITY.key.public_key or b"",
        ),
        certificate=_encoded(TENANT_ROOT),
        labels={"team": "web"},
        create_time=_moment(NOW),
        update_time=_moment(NOW),
        etag="5f0c-3",
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )
    assert answer.HasField("path_length")
    root = TENANT_ROOT.certificate
    assert description.subject_text == description.issuer_text == "CN=Example Root"
    assert description.subject == _name(("CN", "Example Root"))
    assert int(description.serial_number, 16) == root.serial_number
    assert description.not_before_time == _moment(root.not_valid_before_utc)
    assert description.not_after_time == _moment(root.not_valid_after_utc)
    assert description.authority
    assert not description.HasField("path_length")
    assert (description.key_spec, description.signature_algorithm) == (x509_pb2.EC_P256, x509_pb2.ECDSA_WITH_SHA256)
    assert description.public_key == AUTHORITY.key.public_key
    assert description.sha256_fingerprint == hashlib.sha256(TENANT_ROOT.der).digest()
    assert [(each.oid, each.critical) for each in description.extensions] == [("2.5.29.19", True)]


def test_an_authority_without_certificate_goes_out(edge: Edge) -> None:
    key = replace(AUTHORITY.key, public_key=None)
    edge.authorities.view = replace(edge.authorities.view, authority=replace(AUTHORITY, certificate=None, key=key))
    answer = _call(edge, authority_service_pb2.GetAuthorityRequest(name=_AUTHORITY))
    assert not answer.HasField("certificate")
    assert not answer.HasField("description")


def test_list_authorities(edge: Edge) -> None:
    request = authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=7, page_token="token")
    answer = _call(edge, request)
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(7, "token"))
    assert ([each.name for each in answer.authorities], answer.next_page_token) == ([_AUTHORITY], "next")
    _call(edge, authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default"))
    assert edge.told.last[2] == PageRequest(100, "")


def test_issue_certificate(edge: Edge) -> None:
    answer = _call(
        edge,
        _issue(
            profile=_PROFILE,
            lifetime=Duration(seconds=60),
            labels={"a": "b"},
            request_id=_REQUEST_ID,
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
    assert key.request_id == _REQUEST_ID.lower()
    assert validate_only is True
    assert 0 < timeout <= 20, "the caller's deadline reaches the service"
    assert answer.description.subject_alternative_names.dns_names == ["www.example.internal"]
    assert answer.description.extended_key_usages == ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]
    assert answer.description.issuer_text == "CN=Example Root"
    answer.ClearField("description")
    assert answer == certificate_pb2.Certificate(
        name=f"{_AUTHORITY}/certificates/0a1b",
        state=certificate_pb2.Certificate.ISSUED,
        certificate=_encoded(LEAF),
        chain=[_encoded(TENANT_ROOT)],
        profile=_PROFILE,
        create_time=_moment(NOW),
        labels={"team": "web"},
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )


def test_issue_certificate_until_a_time(edge: Edge) -> None:
    _call(edge, _issue(not_after_time=_moment(NOW)))
    assert edge.told.last[1] == NewCertificate(authority=AuthorityName("default", "web-ca"), csr=b"csr", not_after=NOW)
    _call(edge, _issue())
    assert edge.told.last[1] == NewCertificate(authority=AuthorityName("default", "web-ca"), csr=b"csr")


def test_a_call_without_deadline_has_the_servers(edge: Edge) -> None:
    edge.stub(certificate_service_pb2_grpc.CertificateServiceStub).IssueCertificate(_issue())
    assert 60 < edge.told.last[4] <= 120


@pytest.mark.parametrize("serial", ["0a1b", "A1B", "0A:1B", "00:00:0a:1b"])
def test_get_certificate_takes_serials_as_people_write_them(edge: Edge, serial: str) -> None:
    _call(edge, certificate_service_pb2.GetCertificateRequest(name=f"{_AUTHORITY}/certificates/{serial}"))
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
    answer = _call(edge, certificate_service_pb2.GetCertificateRequest(name=f"{_AUTHORITY}/certificates/0a1b"))
    assert answer.state == expected


def test_list_certificates(edge: Edge) -> None:
    answer = _call(edge, certificate_service_pb2.ListCertificatesRequest(parent="tenants/default/authorities/-"))
    assert edge.told.last[1:] == (AuthorityName("default", "-"), PageRequest(100, ""))
    issued, lost = answer.certificates
    assert not issued.HasField("revoke_time")
    assert lost.state == certificate_pb2.Certificate.LOST
    assert lost.revoke_time == _moment(NOW)
    assert not lost.HasField("certificate")
    assert not lost.HasField("description")


def test_request_managed_certificate(edge: Edge) -> None:
    names = x509_pb2.SubjectAlternativeNames(
        dns_names=["WWW.Example.internal", "*.example.internal"],
        ip_addresses=["2001:DB8::0001"],
        uris=["https://example.internal/x"],
        email_addresses=["someone@Example.internal"],
    )
    answer = _call(
        edge,
        _request(
            subject_alternative_names=names,
            profile=_PROFILE,
            key_spec=x509_pb2.RSA_2048,
            subject=_name(("cn", "www.example.internal")),
            lifetime=Duration(seconds=3600),
            export_policy=managed_certificate_pb2.ManagedCertificate.NOT_EXPORTABLE,
            labels={"a": ""},
            request_id=_REQUEST_ID,
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
        labels={"a": ""},
    )
    assert key.request_id == _REQUEST_ID.lower()
    assert validate_only is False
    assert answer.state == managed_certificate_pb2.ManagedCertificate.PENDING
    for absent in ("certificate", "description", "next_attempt_time", "lifetime"):
        assert not answer.HasField(absent)


@pytest.mark.parametrize("policy", ["EXPORT_POLICY_UNSPECIFIED", "EXPORTABLE"])
def test_exportable_is_the_default(edge: Edge, policy: str) -> None:
    _call(edge, _request(export_policy=policy))
    _, new, _, _ = edge.told.last
    assert new == NewManagedCertificate(
        name=ManagedCertificateName("default", "web"),
        authority=AuthorityName("default", "web-ca"),
        subject=distinguished_name.EMPTY,
        names=SubjectAlternativeNames(dns_names=("www.example.internal",)),
    )
    assert new.exportable is True


def test_a_managed_certificate_goes_out_whole(edge: Edge) -> None:
    answer = _call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=_MANAGED))
    assert edge.told.last[1] == ManagedCertificateName("default", "web")
    assert answer.description.sha256_fingerprint == hashlib.sha256(LEAF.der).digest()
    answer.ClearField("description")
    kind = managed_certificate_pb2.ManagedCertificate
    condition = managed_certificate_pb2.Condition
    assert answer == kind(
        name=_MANAGED,
        uid="77aa",
        type=kind.PRIVATE,
        state=kind.ACTIVE,
        authority=_AUTHORITY,
        profile=_PROFILE,
        key_spec=x509_pb2.EC_P256,
        subject=x509_pb2.DistinguishedName(),
        subject_alternative_names=x509_pb2.SubjectAlternativeNames(
            dns_names=["www.example.internal"], ip_addresses=["192.0.2.1"]
        ),
        lifetime=Duration(seconds=90 * 86400),
        export_policy=kind.EXPORTABLE,
        current_version=2,
        certificate=_encoded(LEAF),
        chain=[_encoded(TENANT_ROOT)],
        conditions=[
            condition(
                type="Issued",
                status=condition.TRUE,
                reason="ISSUED",
                message="issued",
                last_transition_time=_moment(NOW),
            ),
            condition(
                type="Renewed",
                status=condition.FALSE,
                reason="LINT_FAILED",
                message="not",
                last_transition_time=_moment(NOW),
            ),
        ],
        next_attempt_time=_moment(NOW),
        create_time=_moment(NOW),
        update_time=_moment(NOW),
        etag="77aa-5",
        warnings=[x509_pb2.Warning(field="csr.extensions", message="1.2.3 was dropped")],
    )
    edge.managed_certificates.view = replace(
        edge.managed_certificates.view, managed_certificate=replace(MANAGED, exportable=False)
    )
    answer = _call(edge, managed_certificate_service_pb2.GetManagedCertificateRequest(name=_MANAGED))
    assert answer.export_policy == kind.NOT_EXPORTABLE


def test_list_managed_certificates(edge: Edge) -> None:
    request = managed_certificate_service_pb2.ListManagedCertificatesRequest(parent="tenants/default", page_size=1000)
    answer = _call(edge, request)
    assert edge.told.last[1:] == (TenantName("default"), PageRequest(1000, ""))
    assert ([each.name for each in answer.managed_certificates], answer.next_page_token) == ([_MANAGED], "")


def test_export_under_a_passphrase(edge: Edge) -> None:
    answer = _call(edge, _export(version=2, reason="for the load balancer"))
    assert edge.told.last[1:] == (
        ManagedCertificateName("default", "web"),
        2,
        PassphraseExport(b"correct horse"),
        "for the load balancer",
    )
    pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMANlbmNyeXB0ZWQ=\n-----END ENCRYPTED PRIVATE KEY-----\n"
    assert answer == managed_certificate_service_pb2.ExportManagedCertificateResponse(
        version=2, certificate=_encoded(LEAF), chain=[_encoded(TENANT_ROOT)], encrypted_private_key_pem=pem
    )


def test_export_to_a_recipient(edge: Edge) -> None:
    recipient = managed_certificate_service_pb2.RecipientProtection(public_key=bytes(range(32)))
    answer = _call(edge, _export(recipient=recipient))
    assert edge.told.last[2:4] == (None, RecipientExport(bytes(range(32))))
    assert answer == managed_certificate_service_pb2.ExportManagedCertificateResponse(
        version=2,
        certificate=_encoded(LEAF),
        chain=[_encoded(TENANT_ROOT)],
        sealed_private_key=b"\x30\x03encrypted",
        hpke_info=b"info",
    )


def test_server_info(edge: Edge) -> None:
    answer = _call(edge, server_service_pb2.GetServerInfoRequest())
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
        start_time=_moment(NOW),
        trust_domain="certd.test",
    )
    edge.description.description = replace(edge.description.description, token=None, isolation=None)
    answer = _call(edge, server_service_pb2.GetServerInfoRequest())
    assert answer.token == server_service_pb2.TokenInfo(ready=False, problem="gone")
    assert answer.isolation == server_service_pb2.ServerInfo.ISOLATION_UNSPECIFIED


def test_trust_bundle(edge: Edge) -> None:
    answer = _call(edge, server_service_pb2.GetTrustBundleRequest())
    assert edge.told.last[1:] == (None,)
    assert answer == server_service_pb2.TrustBundle(system_roots=[_encoded(SYSTEM_ROOT)])
    answer = _call(edge, server_service_pb2.GetTrustBundleRequest(tenant="tenants/default"))
    assert edge.told.last[1] == TenantName("default")
    assert list(answer.tenant_roots) == [_encoded(TENANT_ROOT)]
    assert answer.tenant_roots[0].der == TENANT_ROOT.certificate.public_bytes(Encoding.DER)


def test_the_hash_of_a_request_is_of_all_but_its_request_id(edge: Edge) -> None:
    labels = {f"key-{number}": "value" for number in range(40)}
    backwards = dict(reversed(labels.items()))
    hashes = []
    for request in (
        _issue(labels=labels, request_id=_REQUEST_ID),
        _issue(labels=backwards, request_id=_REQUEST_ID.lower().replace("1f", "2e")),
        _issue(labels={**labels, "key-0": "other"}, request_id=_REQUEST_ID),
        _issue(labels=labels, request_id=_REQUEST_ID, lifetime=Duration(seconds=1)),
    ):
        _call(edge, request)
        hashes.append(edge.told.last[2].request_sha256)
    assert len(hashes[0]) == 32
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


# What goes wrong.

_LONG = Duration(seconds=100 * 365 * 86400 + 1)
_MANY_LABELS = {f"label-{number}": "" for number in range(51)}
_PASSPHRASE: Any = managed_certificate_service_pb2.PassphraseProtection
_RECIPIENT: Any = managed_certificate_service_pb2.RecipientProtection
_SAN = x509_pb2.SubjectAlternativeNames
_SAN_FIELD = "managed_certificate.subject_alternative_names"

_BAD: list[tuple[Message, set[str]]] = [
    (
        authority_service_pb2.CreateAuthorityRequest(),
        {"authority", "parent", "authority_id", "authority.type", "authority.subject"},
    ),
    (_create_authority(parent="tenants/Default"), {"parent"}),
    (_create_authority(parent="default"), {"parent"}),
    (_create_authority(authority_id="-a"), {"authority_id"}),
    (_create_authority(authority_id="a" * 64), {"authority_id"}),
    (_create_authority(authority_id="a\n"), {"authority_id"}),
    (_create_authority(type=0), {"authority.type"}),
    (_create_authority(type=77), {"authority.type"}),
    (_create_authority(key_spec=99), {"authority.key_spec"}),
    (_create_authority(signature_algorithm=-1), {"authority.signature_algorithm"}),
    (_create_authority(subject=_name()), {"authority.subject"}),
    (_create_authority(subject=_name(("CN", ""))), {"authority.subject"}),
    (_create_authority(subject=_name(("CN", "a\x00b"))), {"authority.subject"}),
    (_create_authority(subject=_name(("C", "DEU"))), {"authority.subject"}),
    (_create_authority(subject=_name(*(("OU", str(number)) for number in range(33)))), {"authority.subject"}),
    (
        _create_authority(subject=_name(("FOO", "x"), ("CN", "x"), ("9.9", "x"))),
        {
            "authority.subject.relative_distinguished_names[0].attributes[0].type",
            "authority.subject.relative_distinguished_names[2].attributes[0].type",
        },
    ),
    (
        _create_authority(
            subject=x509_pb2.DistinguishedName(relative_distinguished_names=[x509_pb2.RelativeDistinguishedName()])
        ),
        {"authority.subject"},
    ),
    (_create_authority(lifetime=Duration()), {"authority.lifetime"}),
    (_create_authority(lifetime=Duration(seconds=-1)), {"authority.lifetime"}),
    (_create_authority(lifetime=Duration(seconds=3600, nanos=1)), {"authority.lifetime"}),
    (_create_authority(lifetime=Duration(seconds=2**63 - 1)), {"authority.lifetime"}),
    (_create_authority(lifetime=_LONG), {"authority.lifetime"}),
    (_create_authority(issuer="web-root"), {"authority.issuer"}),
    (_create_authority(issuer="tenants/default/authorities/-"), {"authority.issuer"}),
    (_create_authority(labels=_MANY_LABELS), {"authority.labels"}),
    (_create_authority(labels={"": "x"}), {"authority.labels['']"}),
    (_create_authority(labels={"k" * 129: "x"}), {f"authority.labels['{'k' * 128}']"}),
    (
        _create_authority(labels={"a": "v" * 257, "b": "\x00", "c": "ok"}),
        {"authority.labels['a']", "authority.labels['b']"},
    ),
    (_create_authority(request_id="1"), {"request_id"}),
    (_create_authority(request_id="{1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11}"), {"request_id"}),
    (_create_authority(request_id="1f6e5b0a6f0e4d3b9f552f0c6f1f8a11"), {"request_id"}),
    (_create_authority(request_id="00000000-0000-0000-0000-000000000000"), {"request_id"}),
    (authority_service_pb2.GetAuthorityRequest(), {"name"}),
    (authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/-"), {"name"}),
    (authority_service_pb2.GetAuthorityRequest(name=_AUTHORITY + "/"), {"name"}),
    (authority_service_pb2.ListAuthoritiesRequest(parent="tenants/-"), {"parent"}),
    (
        authority_service_pb2.ListAuthoritiesRequest(page_size=-1, page_token="x" * 1025),
        {"parent", "page_size", "page_token"},
    ),
    (authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=1001), {"page_size"}),
    (certificate_service_pb2.IssueCertificateRequest(), {"parent", "csr"}),
    (_issue(parent="tenants/default/authorities/-"), {"parent"}),
    (_issue(profile="end-entity"), {"profile"}),
    (_issue(lifetime=Duration(nanos=500_000_000)), {"lifetime"}),
    (_issue(lifetime=_LONG), {"lifetime"}),
    (_issue(not_after_time=Timestamp()), {"not_after_time"}),
    (_issue(not_after_time=Timestamp(seconds=1, nanos=1)), {"not_after_time"}),
    (_issue(not_after_time=Timestamp(seconds=253402300800)), {"not_after_time"}),
    (_issue(not_after_time=Timestamp(seconds=-(2**63))), {"not_after_time"}),
    (_issue(labels=_MANY_LABELS, request_id="x"), {"labels", "request_id"}),
    (certificate_service_pb2.GetCertificateRequest(name=f"{_AUTHORITY}/certificates/xyz"), {"name"}),
    (certificate_service_pb2.GetCertificateRequest(name=f"{_AUTHORITY}/certificates/{'ab' * 21}0"), {"name"}),
    (
        certificate_service_pb2.ListCertificatesRequest(parent="tenants/-/authorities/-", page_size=1001),
        {"parent", "page_size"},
    ),
    (
        managed_certificate_service_pb2.RequestManagedCertificateRequest(),
        {"managed_certificate", "parent", "managed_certificate_id", "managed_certificate.authority", _SAN_FIELD},
    ),
    (_request(managed_certificate_id="Web"), {"managed_certificate_id"}),
    (
        _request(authority="x", profile="y", key_spec=99),
        {f"managed_certificate.{x}" for x in ("authority", "profile", "key_spec")},
    ),
    (_request(subject=_name(("CN", "x" * 65))), {"managed_certificate.subject"}),
    (_request(subject_alternative_names=_SAN()), {_SAN_FIELD}),
    (_request(lifetime=Duration()), {"managed_certificate.lifetime"}),
    (_request(export_policy=9), {"managed_certificate.export_policy"}),
    (_request(labels={"a\n": "b"}), {r"managed_certificate.labels['a\n']"}),
    (_request(request_id="z"), {"request_id"}),
    (managed_certificate_service_pb2.GetManagedCertificateRequest(name="web"), {"name"}),
    (managed_certificate_service_pb2.ListManagedCertificatesRequest(page_size=-5), {"parent", "page_size"}),
    (managed_certificate_service_pb2.ExportManagedCertificateRequest(version=-1), {"name", "version", "protection"}),
    (_export(passphrase=_PASSPHRASE(passphrase=b"seven77")), {"passphrase.passphrase"}),
    (_export(passphrase=_PASSPHRASE(passphrase=b"x" * 1025)), {"passphrase.passphrase"}),
    (_export(passphrase=_PASSPHRASE(passphrase=b"long enough", format=9)), {"passphrase.format"}),
    (_export(recipient=_RECIPIENT(public_key=bytes(31))), {"recipient.public_key"}),
    (_export(recipient=_RECIPIENT(public_key=bytes(32), suite=9)), {"recipient.suite"}),
    (_export(reason="x" * 257), {"reason"}),
    (_export(reason="line\nbreak"), {"reason"}),
    (server_service_pb2.GetTrustBundleRequest(tenant="default"), {"tenant"}),
]


@pytest.mark.parametrize(("request_", "expected"), _BAD, ids=lambda value: type(value).__name__)
def test_every_bad_field_is_named(edge: Edge, request_: Message, expected: set[str]) -> None:
    failure = _refused(edge, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert {field for field, _ in failure.violations} == expected
    assert all(description for _, description in failure.violations)


def test_every_bad_name_is_named_and_alone_has_its_own_reason(edge: Edge) -> None:
    names = _SAN(
        dns_names=["a b", "ok.example", "-x.example"], ip_addresses=["1.2.3"], uris=["x"], email_addresses=["@"]
    )
    expected = {
        f"{_SAN_FIELD}.{path}"
        for path in ("dns_names[0]", "dns_names[2]", "ip_addresses[0]", "uris[0]", "email_addresses[0]")
    }
    failure = _refused(edge, _request(subject_alternative_names=names))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NAME_NOT_ALLOWED")
    assert {field for field, _ in failure.violations} == expected
    failure = _refused(edge, _request(subject_alternative_names=names, parent="x"))
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == {*expected, "parent"}


def test_too_many_names(edge: Edge) -> None:
    names = _SAN(dns_names=[f"host-{number}.example" for number in range(101)])
    assert _refused(edge, _request(subject_alternative_names=names)).reason == "NAME_NOT_ALLOWED"


def test_a_passphrase_is_neither_in_the_answer_nor_shown(edge: Edge) -> None:
    failure = _refused(edge, _export(passphrase=_PASSPHRASE(passphrase=b"hunter2")))
    assert "hunter2" not in repr(failure)
    assert "hunter2" not in repr(PassphraseExport(b"hunter2"))


@pytest.mark.parametrize("method", ["CreateAuthority", "GetAuthority"])
def test_bytes_that_are_no_message_are_refused(edge: Edge, method: str) -> None:
    call = edge.method(f"/certd.v1.AuthorityService/{method}")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"\xff\xff\xff", timeout=20)
    failure = failure_of(raised.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert [field for field, _ in failure.violations] == ["request"]


def test_fields_that_a_newer_client_sends_are_passed_over(edge: Edge) -> None:
    call = edge.method("/certd.v1.AuthorityService/GetAuthority")
    request = authority_service_pb2.GetAuthorityRequest(name=_AUTHORITY).SerializeToString()
    assert call(request + b"\xa2\x06\x03new", timeout=20)


def test_violations_of_one_reason_keep_it_and_others_pass() -> None:
    violations = fields.Violations()

    def fail(reason: Reason, field: str) -> None:
        raise CertdError(reason, "x", violations=(Violation(field, "is bad"),) if field else ())

    violations.attempt(lambda: fail(Reason.NAME_NOT_ALLOWED, "a"))
    violations.attempt(lambda: fail(Reason.NAME_NOT_ALLOWED, "b"))
    with pytest.raises(CertdError) as raised:
        violations.check()
    assert raised.value.reason is Reason.NAME_NOT_ALLOWED
    assert raised.value.message == "2 fields are invalid: a: is bad; b: is bad"
    with pytest.raises(CertdError) as passed:
        violations.attempt(lambda: fail(Reason.STORE_UNAVAILABLE, ""))
    assert passed.value.reason is Reason.STORE_UNAVAILABLE
