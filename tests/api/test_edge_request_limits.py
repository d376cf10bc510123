"""A server that is configured to take less refuses more, by the number that it is configured with."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from certd.api.server import Limits
from certd.model.request_limits import RequestLimits
from certd.v1 import (
    authority_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    certificate_service_pb2_grpc,
    managed_certificate_service_pb2,
    profile_service_pb2,
    x509_pb2,
)
from tests.api.edge_failure import failure_of
from tests.api.edge_messages import (
    AUTHORITY_NAME,
    PROFILE_NAME,
    call,
    create_authority,
    export,
    issue,
    refused,
    request_managed,
)
from tests.api.edge_server import Edge, running_edge

_TENANT = "tenants/default"
_REQUESTS = RequestLimits(csr_bytes=1024, names=2, labels=1, batch_items=2, page_size=7, passphrase_bytes=20)
_LABELS = {"a": "1", "b": "2"}
_FEWER_LABELS = {"a": "1"}
_LABELS_RULE = "has 2 labels; at most 1 are allowed"
_NAMES_RULE = "has 3 names; a certificate has at most 2, divide them"
_PAGE_RULE = "must be from 1 to 7, or 0 for 7"


@pytest.fixture(scope="module")
def strict() -> Iterator[Edge]:
    with running_edge(limits=Limits(requests=_REQUESTS, message_bytes=64 << 10)) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_told(strict: Edge) -> None:
    strict.told.calls.clear()


def _names(count: int) -> x509_pb2.SubjectAlternativeNames:
    dns_names = [f"host-{number}.example.internal" for number in range(count - 1)]
    return x509_pb2.SubjectAlternativeNames(dns_names=dns_names, ip_addresses=["192.0.2.1"])


def _batch(*items: certificate_service_pb2.IssueCertificateRequest) -> Message:
    return certificate_service_pb2.BatchIssueCertificatesRequest(parent=AUTHORITY_NAME, requests=items)


def _passphrase(length: int, form: Any = "PKCS8") -> Message:
    protection = managed_certificate_service_pb2.PassphraseProtection(passphrase=b"x" * length, format=form)
    return export(passphrase=protection)


def _update(labels: dict[str, str]) -> Message:
    authority = authority_pb2.Authority(name=AUTHORITY_NAME, labels=labels)
    return authority_service_pb2.UpdateAuthorityRequest(authority=authority)


def _check(names: int) -> Message:
    return profile_service_pb2.CheckProfileRequest(
        name=PROFILE_NAME, csr=b"csr", subject_alternative_names=_names(names)
    )


def _lists(size: int) -> list[Message]:
    certificates: Any = certificate_service_pb2
    return [
        authority_service_pb2.ListAuthoritiesRequest(parent=_TENANT, page_size=size),
        certificates.ListCertificatesRequest(parent=AUTHORITY_NAME, page_size=size),
        certificates.SearchCertificatesRequest(parent=AUTHORITY_NAME, page_size=size),
        managed_certificate_service_pb2.ListManagedCertificatesRequest(parent=_TENANT, page_size=size),
        profile_service_pb2.ListProfilesRequest(parent=_TENANT, page_size=size),
    ]


_PAST: list[tuple[Message, str, str, str]] = [
    (issue(csr=bytes(1025)), "CSR_MALFORMED", "csr", "is longer than 1024 bytes"),
    (issue(subject_alternative_names=_names(3)), "NAME_NOT_ALLOWED", "subject_alternative_names", _NAMES_RULE),
    (
        request_managed(subject_alternative_names=_names(3)),
        "NAME_NOT_ALLOWED",
        "managed_certificate.subject_alternative_names",
        _NAMES_RULE,
    ),
    (_check(3), "NAME_NOT_ALLOWED", "subject_alternative_names", _NAMES_RULE),
    (issue(labels=_LABELS), "FIELD_INVALID", "labels", _LABELS_RULE),
    (create_authority(labels=_LABELS), "FIELD_INVALID", "authority.labels", _LABELS_RULE),
    (_update(_LABELS), "FIELD_INVALID", "authority.labels", _LABELS_RULE),
    (request_managed(labels=_LABELS), "FIELD_INVALID", "managed_certificate.labels", _LABELS_RULE),
    (_batch(*[issue()] * 3), "FIELD_INVALID", "requests", "must be 1 to 2, and are 3; divide them"),
    *((request, "FIELD_INVALID", "page_size", _PAGE_RULE) for request in _lists(8)),
    (_passphrase(21), "FIELD_INVALID", "passphrase.passphrase", "must be 8 to 20 bytes long, and has 21"),
    (_passphrase(7), "FIELD_INVALID", "passphrase.passphrase", "must be 8 to 20 bytes long, and has 7"),
    *(
        (
            _passphrase(21, form),
            "FIELD_INVALID",
            "passphrase.passphrase",
            f"must be {shortest} to 20 bytes long, and has 21",
        )
        for form, shortest in (("PKCS12_MODERN", 8), ("PKCS12_LEGACY", 8), ("ACM_COMPATIBLE", 4))
    ),
]
_AT: list[Message] = [
    issue(csr=bytes(1024), labels=_FEWER_LABELS, subject_alternative_names=_names(2)),
    request_managed(labels=_FEWER_LABELS, subject_alternative_names=_names(2)),
    _check(2),
    create_authority(labels=_FEWER_LABELS),
    _update(_FEWER_LABELS),
    _batch(*[issue(csr=bytes(1024))] * 2),
    *_lists(7),
    _passphrase(20),
    _passphrase(8),
    _passphrase(20, "PKCS12_MODERN"),
    _passphrase(4, "ACM_COMPATIBLE"),
]


@pytest.mark.parametrize(("request_", "reason", "field", "rule"), _PAST, ids=lambda value: type(value).__name__)
def test_past_a_limit_the_field_and_the_number_are_told(
    strict: Edge, request_: Message, reason: str, field: str, rule: str
) -> None:
    failure = refused(strict, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert list(failure.violations) == [(field, rule)]


@pytest.mark.parametrize("request_", _AT, ids=lambda value: type(value).__name__)
def test_as_much_as_a_limit_passes(strict: Edge, request_: Message) -> None:
    call(strict, request_)
    assert len(strict.told.calls) == 1


@pytest.mark.parametrize("request_", _lists(0), ids=lambda value: type(value).__name__)
def test_a_page_of_no_given_size_is_no_larger_than_one_may_be(strict: Edge, request_: Message) -> None:
    call(strict, request_)
    assert strict.told.last[-1].size == 7


def test_an_item_past_a_limit_fails_alone(strict: Edge) -> None:
    answer = call(strict, _batch(issue(csr=bytes(1025)), issue()))
    first, second = answer.results
    assert first.error.reason == "CSR_MALFORMED"
    assert [(one.field, one.description) for one in first.error.violations] == [("csr", "is longer than 1024 bytes")]
    assert second.certificate.name
    assert len(strict.told.last[2]) == 1


@pytest.mark.parametrize("above", [0, 1])
def test_a_message_may_be_as_long_as_is_configured(strict: Edge, above: int) -> None:
    longest = 64 << 10
    around = issue(csr=bytes(longest // 2)).ByteSize() - longest // 2
    request = issue(csr=bytes(longest - around + above))
    assert request.ByteSize() == longest + above
    stub = strict.stub(certificate_service_pb2_grpc.CertificateServiceStub)
    with pytest.raises(grpc.RpcError) as raised:
        stub.IssueCertificate(request, timeout=20)
    if above:
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    else:
        assert failure_of(raised.value).reason == "CSR_MALFORMED"
    assert strict.told.calls == []
