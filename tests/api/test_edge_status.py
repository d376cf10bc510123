"""Every reason through the wire once, with all of its details."""

import re
from pathlib import Path

import grpc
import pytest
import structlog

from certd.api import status
from certd.errors import CertdError, Reason, Violation
from certd.v1 import authority_service_pb2, authority_service_pb2_grpc, error_reason_pb2
from tests.api.edge_failure import Failure, failure_of
from tests.api.edge_server import ALICE, Edge

_NAME = "tenants/default/authorities/web-ca"
_PROTO = Path(__file__).parents[2] / "proto/certd/v1/error_reason.proto"


def _fail(edge: Edge, error: BaseException) -> Failure:
    edge.told.error = error
    stub = edge.stub(authority_service_pb2_grpc.AuthorityServiceStub)
    with pytest.raises(grpc.RpcError) as raised:
        stub.GetAuthority(authority_service_pb2.GetAuthorityRequest(name=_NAME), timeout=20)
    return failure_of(raised.value)


def test_the_reasons_are_those_of_the_proto() -> None:
    assert set(error_reason_pb2.ErrorReason.keys()) == {"ERROR_REASON_UNSPECIFIED", *Reason}


def test_the_comments_of_the_proto_promise_the_codes() -> None:
    found = re.findall(r"((?:  // .*\n)+)  ([A-Z_]+) = \d+;", _PROTO.read_text())
    promised = {name: re.findall(r"([A-Z_]{5,})\.\n", comment)[-1] for comment, name in found if name in set(Reason)}
    assert promised == {reason.value: code.name for reason, code in status.CODES.items()}


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.INTERNAL])
def test_every_reason_arrives_with_its_details(edge: Edge, reason: Reason) -> None:
    error = CertdError(
        reason,
        f"the check failed for {_NAME}; do something else",
        metadata={"state": "DISABLED"},
        violations=(Violation("parent", "must be"), Violation("name", "must not be")),
        retry_after=1.5,
        resource=_NAME,
    )
    failure = _fail(edge, error)
    assert failure.code is status.CODES[reason]
    assert failure.message == error.message
    assert (failure.reason, failure.domain, failure.metadata) == (reason, "certd", {"state": "DISABLED"})
    assert failure.violations == (("parent", "must be"), ("name", "must not be"))
    assert failure.retry_after == 1.5
    assert failure.resource == ("certd.v1.Authority", _NAME)
    exhausted = failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.quota == (((_NAME, reason),) if exhausted else None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tenants/default", "Tenant"),
        ("tenants/default/managedCertificates/web", "ManagedCertificate"),
        ("tenants/default/managedCertificates/web/versions/2", "ManagedCertificateVersion"),
        ("tenants/default/managedCertificates/web/associations/machine", "Association"),
        ("tenants/default/renewalCampaigns/leak", "RenewalCampaign"),
        ("tenants/default/importKeys/k1", "ImportKey"),
        ("tenants/default/wrappingKeys/1", "WrappingKey"),
        ("identities/edge", "Identity"),
        ("tenants/default/grants/machines", "Grant"),
    ],
)
def test_the_kind_of_a_resource_is_its_own_and_not_that_of_what_it_belongs_to(edge: Edge, name: str, kind: str) -> None:
    failure = _fail(edge, CertdError(Reason.STATE_FORBIDS, "not now", resource=name))
    assert failure.resource == (f"certd.v1.{kind}", name)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.TOKEN_UNAVAILABLE,
        Reason.STORE_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        Reason.SIGNING_QUEUE_FULL,
        Reason.RATE_LIMITED,
        Reason.REQUEST_IN_PROGRESS,
        Reason.OWNERSHIP_LOST,
    ],
)
def test_what_passes_says_when_to_come_again(edge: Edge, reason: Reason) -> None:
    failure = _fail(edge, CertdError(reason, "not now"))
    assert failure.retry_after is not None
    assert 0 < failure.retry_after <= 10


def test_a_key_that_the_token_lacks_is_not_waited_for(edge: Edge) -> None:
    error = CertdError(Reason.TOKEN_UNAVAILABLE, "gone", metadata={"ckr": "CKR_KEY_HANDLE_INVALID"})
    failure, item_error = _fail(edge, error), status.item_error(error)
    assert (failure.code, failure.retry_after) == (grpc.StatusCode.FAILED_PRECONDITION, None)
    assert (failure.reason, failure.metadata) == ("TOKEN_UNAVAILABLE", {"ckr": "CKR_KEY_HANDLE_INVALID"})
    assert item_error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert not item_error.HasField("retry_delay")


def test_what_never_passes_does_not_say_when_to_come_again(edge: Edge) -> None:
    failure = _fail(edge, CertdError(Reason.STATE_FORBIDS, "never"))
    assert failure.retry_after is None
    assert failure.violations == ()
    assert failure.resource is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tenants/t", "certd.v1.Tenant"),
        ("tenants/t/authorities/a/certificates/0a", "certd.v1.Certificate"),
        ("tenants/t/managedCertificates/m", "certd.v1.ManagedCertificate"),
        ("tenants/t/managedCertificates/m/versions/3", "certd.v1.ManagedCertificateVersion"),
        ("tenants/authorities/profiles/certificates", "certd.v1.Profile"),
        ("server", ""),
    ],
)
def test_a_resource_has_its_type(edge: Edge, name: str, kind: str) -> None:
    assert _fail(edge, CertdError(Reason.PERMISSION_MISSING, "no", resource=name)).resource == (kind, name)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the passphrase correct-horse is wrong"),
        KeyError("correct-horse"),
        CertdError(Reason.INTERNAL, "correct-horse"),
        SystemError("correct-horse"),
    ],
)
def test_a_defect_shows_an_id_and_its_place_is_in_the_log(edge: Edge, error: Exception) -> None:
    error.__cause__ = RuntimeError("correct-horse")
    with structlog.testing.capture_logs() as logs:
        failure = _fail(edge, error)
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "INTERNAL"
    assert set(failure.metadata) == {"error_id"}
    error_id = failure.metadata["error_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", error_id)
    assert failure.message == f"a defect of the server; its log tells more under the error id {error_id}"
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert (line["error_id"], line["principal"]) == (error_id, ALICE)
    assert "edge_server.py" in line["traceback"]
    assert type(error).__name__ in line["traceback"]
    assert "RuntimeError" in line["traceback"]
    assert "correct-horse" not in repr(logs)


def test_the_error_that_another_one_hides_is_in_the_log(edge: Edge) -> None:
    outer = LookupError("outer")
    outer.__context__ = RuntimeError("inner")
    with structlog.testing.capture_logs() as logs:
        _fail(edge, outer)
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["traceback"].index("LookupError") < line["traceback"].index("RuntimeError")


def test_a_refusal_is_logged_by_reason_and_fields_alone(edge: Edge) -> None:
    with structlog.testing.capture_logs() as logs:
        _fail(
            edge,
            CertdError(
                Reason.FIELD_INVALID,
                "csr: has the value correct-horse",
                violations=(Violation("csr", "correct-horse"),),
            ),
        )
    (line,) = [line for line in logs if line["event"] == "call refused"]
    assert (line["reason"], line["fields"], line["principal"]) == ("FIELD_INVALID", ["csr"], ALICE)
    assert line["method"] == "/certd.v1.AuthorityService/GetAuthority"
    assert "correct-horse" not in repr(logs)


def test_a_long_error_is_cut_to_what_trailers_carry_and_says_so(edge: Edge) -> None:
    violations = tuple(Violation(f"subject_alternative_names.dns_names[{number}]", "ü" * 400) for number in range(100))
    error = CertdError(
        Reason.NAME_NOT_ALLOWED,
        "ü" * 5000,
        violations=violations,
        metadata={f"key-{number}": "ü" * 5000 for number in range(4)},
        resource="tenants/" + "x" * 5000,
    )
    failure = _fail(edge, error)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NAME_NOT_ALLOWED")
    assert failure.message.endswith("ü …")
    assert failure.violations[0][0] == "subject_alternative_names.dns_names[0]"
    told = len(failure.violations) - 1
    assert 1 <= told < 100
    assert failure.violations[-1] == ("", f"and {100 - told} more")


def test_one_violation_is_told_however_long(edge: Edge) -> None:
    failure = _fail(edge, CertdError(Reason.FIELD_INVALID, "x", violations=(Violation("y" * 9000, "z" * 9000),)))
    assert len(failure.violations) == 1
    assert failure.violations[0][1].startswith("zzz")


def test_a_text_that_is_no_unicode_does_not_make_a_defect(edge: Edge) -> None:
    assert _fail(edge, CertdError(Reason.FIELD_INVALID, "a lone surrogate \ud800")).reason == "FIELD_INVALID"
