"""What comes in broken is refused with every field that is."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from certd.api import fields
from certd.errors import CertdError, Reason, Violation
from certd.services.managed_export import PassphraseExport
from certd.v1 import (
    authority_service_pb2,
    certificate_service_pb2,
    managed_certificate_service_pb2,
    server_service_pb2,
    x509_pb2,
)
from tests.api.edge_failure import failure_of
from tests.api.edge_messages import (
    AUTHORITY_NAME,
    create_authority,
    distinguished_name_of,
    export,
    issue,
    refused,
    request_managed,
)
from tests.api.edge_server import Edge

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
    (create_authority(parent="tenants/Default"), {"parent"}),
    (create_authority(parent="default"), {"parent"}),
    (create_authority(authority_id="-a"), {"authority_id"}),
    (create_authority(authority_id="a" * 64), {"authority_id"}),
    (create_authority(authority_id="a\n"), {"authority_id"}),
    (create_authority(type=0), {"authority.type"}),
    (create_authority(type=77), {"authority.type"}),
    (create_authority(key_spec=99), {"authority.key_spec"}),
    (create_authority(signature_algorithm=-1), {"authority.signature_algorithm"}),
    (create_authority(subject=distinguished_name_of()), {"authority.subject"}),
    (create_authority(subject=distinguished_name_of(("CN", ""))), {"authority.subject"}),
    (create_authority(subject=distinguished_name_of(("CN", "a\x00b"))), {"authority.subject"}),
    (create_authority(subject=distinguished_name_of(("C", "DEU"))), {"authority.subject"}),
    (
        create_authority(subject=distinguished_name_of(*(("OU", str(number)) for number in range(33)))),
        {"authority.subject"},
    ),
    (
        create_authority(subject=distinguished_name_of(("FOO", "x"), ("CN", "x"), ("9.9", "x"))),
        {
            "authority.subject.relative_distinguished_names[0].attributes[0].type",
            "authority.subject.relative_distinguished_names[2].attributes[0].type",
        },
    ),
    (
        create_authority(
            subject=x509_pb2.DistinguishedName(relative_distinguished_names=[x509_pb2.RelativeDistinguishedName()])
        ),
        {"authority.subject"},
    ),
    (create_authority(lifetime=Duration()), {"authority.lifetime"}),
    (create_authority(lifetime=Duration(seconds=-1)), {"authority.lifetime"}),
    (create_authority(lifetime=Duration(seconds=3600, nanos=1)), {"authority.lifetime"}),
    (create_authority(lifetime=Duration(seconds=2**63 - 1)), {"authority.lifetime"}),
    (create_authority(lifetime=_LONG), {"authority.lifetime"}),
    (create_authority(issuer="web-root"), {"authority.issuer"}),
    (create_authority(issuer="tenants/default/authorities/-"), {"authority.issuer"}),
    (create_authority(labels=_MANY_LABELS), {"authority.labels"}),
    (create_authority(labels={"": "x"}), {"authority.labels['']"}),
    (create_authority(labels={"k" * 129: "x"}), {f"authority.labels['{'k' * 128}']"}),
    (
        create_authority(labels={"a": "v" * 257, "b": "\x00", "c": "ok"}),
        {"authority.labels['a']", "authority.labels['b']"},
    ),
    (create_authority(request_id="1"), {"request_id"}),
    (create_authority(request_id="{1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11}"), {"request_id"}),
    (create_authority(request_id="1f6e5b0a6f0e4d3b9f552f0c6f1f8a11"), {"request_id"}),
    (create_authority(request_id="00000000-0000-0000-0000-000000000000"), {"request_id"}),
    (authority_service_pb2.GetAuthorityRequest(), {"name"}),
    (authority_service_pb2.GetAuthorityRequest(name="tenants/default/authorities/-"), {"name"}),
    (authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME + "/"), {"name"}),
    (authority_service_pb2.ListAuthoritiesRequest(parent="tenants/-"), {"parent"}),
    (
        authority_service_pb2.ListAuthoritiesRequest(page_size=-1, page_token="x" * 1025),
        {"parent", "page_size", "page_token"},
    ),
    (authority_service_pb2.ListAuthoritiesRequest(parent="tenants/default", page_size=1001), {"page_size"}),
    (certificate_service_pb2.IssueCertificateRequest(), {"parent", "csr"}),
    (issue(parent="tenants/default/authorities/-"), {"parent"}),
    (issue(profile="end-entity"), {"profile"}),
    (issue(lifetime=Duration(nanos=500_000_000)), {"lifetime"}),
    (issue(lifetime=_LONG), {"lifetime"}),
    (issue(not_after_time=Timestamp()), {"not_after_time"}),
    (issue(not_after_time=Timestamp(seconds=1, nanos=1)), {"not_after_time"}),
    (issue(not_after_time=Timestamp(seconds=253402300800)), {"not_after_time"}),
    (issue(not_after_time=Timestamp(seconds=-(2**63))), {"not_after_time"}),
    (issue(labels=_MANY_LABELS, request_id="x"), {"labels", "request_id"}),
    (certificate_service_pb2.GetCertificateRequest(name=f"{AUTHORITY_NAME}/certificates/xyz"), {"name"}),
    (certificate_service_pb2.GetCertificateRequest(name=f"{AUTHORITY_NAME}/certificates/{'ab' * 21}0"), {"name"}),
    (
        certificate_service_pb2.ListCertificatesRequest(parent="tenants/-/authorities/-", page_size=1001),
        {"parent", "page_size"},
    ),
    (
        managed_certificate_service_pb2.RequestManagedCertificateRequest(),
        {"managed_certificate", "parent", "managed_certificate_id", "managed_certificate.authority", _SAN_FIELD},
    ),
    (request_managed(managed_certificate_id="Web"), {"managed_certificate_id"}),
    (
        request_managed(authority="x", profile="y", key_spec=99),
        {f"managed_certificate.{x}" for x in ("authority", "profile", "key_spec")},
    ),
    (request_managed(subject=distinguished_name_of(("CN", "x" * 65))), {"managed_certificate.subject"}),
    (request_managed(subject_alternative_names=_SAN()), {_SAN_FIELD}),
    (request_managed(lifetime=Duration()), {"managed_certificate.lifetime"}),
    (request_managed(export_policy=9), {"managed_certificate.export_policy"}),
    (request_managed(labels={"a\n": "b"}), {r"managed_certificate.labels['a\n']"}),
    (request_managed(request_id="z"), {"request_id"}),
    (managed_certificate_service_pb2.GetManagedCertificateRequest(name="web"), {"name"}),
    (managed_certificate_service_pb2.ListManagedCertificatesRequest(page_size=-5), {"parent", "page_size"}),
    (managed_certificate_service_pb2.ExportManagedCertificateRequest(version=-1), {"name", "version", "protection"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"seven77")), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"x" * 1025)), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"long enough", format=9)), {"passphrase.format"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"seven77", format="PKCS12_LEGACY")), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"\xff" * 8, format="PKCS12_MODERN")), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"abc", format="ACM_COMPATIBLE")), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"x" * 129, format="ACM_COMPATIBLE")), {"passphrase.passphrase"}),
    (export(passphrase=_PASSPHRASE(passphrase=b"with#hash", format="ACM_COMPATIBLE")), {"passphrase.passphrase"}),
    (export(recipient=_RECIPIENT(public_key=bytes(31))), {"recipient.public_key"}),
    (export(recipient=_RECIPIENT(public_key=bytes(32), suite=9)), {"recipient.suite"}),
    (export(reason="x" * 257), {"reason"}),
    (export(reason="line\nbreak"), {"reason"}),
    (server_service_pb2.GetTrustBundleRequest(tenant="default"), {"tenant"}),
]


@pytest.mark.parametrize(("request_", "expected"), _BAD, ids=lambda value: type(value).__name__)
def test_every_bad_field_is_named(edge: Edge, request_: Message, expected: set[str]) -> None:
    failure = refused(edge, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert {field for field, _ in failure.violations} == expected
    assert all(description for _, description in failure.violations)


def test_a_lifetime_past_any_bound_is_told_the_bounds_that_apply(edge: Edge) -> None:
    (violation,) = refused(edge, create_authority(lifetime=_LONG)).violations
    assert violation == ("authority.lifetime", "must be from one hour to 40 years of 365 days")
    (violation,) = refused(edge, issue(lifetime=_LONG)).violations
    assert violation == ("lifetime", "must be from 1 second to 36500 days")


def test_every_bad_name_is_named_and_alone_has_its_own_reason(edge: Edge) -> None:
    names = _SAN(
        dns_names=["a b", "ok.example", "-x.example"], ip_addresses=["1.2.3"], uris=["x"], email_addresses=["@"]
    )
    expected = {
        f"{_SAN_FIELD}.{path}"
        for path in ("dns_names[0]", "dns_names[2]", "ip_addresses[0]", "uris[0]", "email_addresses[0]")
    }
    failure = refused(edge, request_managed(subject_alternative_names=names))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NAME_NOT_ALLOWED")
    assert {field for field, _ in failure.violations} == expected
    failure = refused(edge, request_managed(subject_alternative_names=names, parent="x"))
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == {*expected, "parent"}


def test_too_many_names(edge: Edge) -> None:
    names = _SAN(dns_names=[f"host-{number}.example" for number in range(101)])
    assert refused(edge, request_managed(subject_alternative_names=names)).reason == "NAME_NOT_ALLOWED"


def test_a_passphrase_is_neither_in_the_answer_nor_shown(edge: Edge) -> None:
    failure = refused(edge, export(passphrase=_PASSPHRASE(passphrase=b"hunter2")))
    assert "hunter2" not in repr(failure)
    assert "hunter2" not in repr(PassphraseExport(b"hunter2"))
    acm = _PASSPHRASE(passphrase=b"hunter#2", format="ACM_COMPATIBLE")
    failure = refused(edge, export(passphrase=acm))
    assert failure.violations == (
        ("passphrase.passphrase", "must be ASCII without #, $ and %, as AWS Certificate Manager has it"),
    )
    assert "hunter" not in repr(failure)


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
    request = authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME).SerializeToString()
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
