"""BatchIssueCertificates at the edge: what fails the call, what fails an item, and what an answer holds."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from certd.api import issuance, status
from certd.errors import CertdError, Reason, Violation
from certd.model.names import AuthorityName, ProfileName
from certd.pki.names import SubjectAlternativeNames
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    BatchIssueCertificatesResponse,
    IssueCertificateRequest,
    ItemError,
)
from certd.v1.x509_pb2 import SubjectAlternativeNames as NamesMessage
from tests.api.edge_messages import AUTHORITY_NAME, PROFILE_NAME, REQUEST_ID, call, encoded, issue, refused
from tests.api.edge_server import ALICE, LEAF, TENANT_ROOT, Edge

_OTHER_ID = "0b0f1c1e-3c6a-4a53-8a1b-6f2d3e4c5b6a"


def batch(*items: IssueCertificateRequest, **changes: Any) -> BatchIssueCertificatesRequest:
    return BatchIssueCertificatesRequest(**({"parent": AUTHORITY_NAME, "requests": items} | changes))


def made(edge: Edge, *items: IssueCertificateRequest, **changes: Any) -> BatchIssueCertificatesResponse:
    answer: BatchIssueCertificatesResponse = call(edge, batch(*items, **changes))
    assert len(answer.results) == len(items)
    return answer


def errors(answer: BatchIssueCertificatesResponse) -> list[ItemError | None]:
    return [one.error if one.HasField("error") else None for one in answer.results]


def test_what_is_asked_reaches_the_service(edge: Edge) -> None:
    items = (
        issue(parent="", csr=b"one"),
        issue(
            csr=b"two",
            profile=PROFILE_NAME,
            lifetime=Duration(seconds=3600),
            labels={"a": "b"},
            subject_alternative_names=NamesMessage(dns_names=["WWW.example.internal"]),
        ),
    )
    made(edge, *items)
    caller, authority, asked, validate_only, timeout, descriptions = edge.told.last
    assert (caller.principal, authority, validate_only, descriptions) == (
        ALICE,
        AuthorityName("default", "web-ca"),
        False,
        True,
    )
    assert 0 < timeout <= 20
    one, two = asked
    assert (one.new.csr, one.new.profile, one.new.lifetime, one.new.names, one.key) == (b"one", None, None, None, None)
    assert (two.new.csr, two.new.profile) == (b"two", ProfileName("default", "end-entity"))
    assert two.new.lifetime.total_seconds() == 3600
    assert two.new.labels == {"a": "b"}
    assert two.new.names == SubjectAlternativeNames(dns_names=("www.example.internal",))


def test_an_answer_holds_each_certificate_and_the_chain_once(edge: Edge) -> None:
    answer = made(edge, issue(csr=b"one"), issue(csr=b"two"))
    assert list(answer.chain) == [encoded(TENANT_ROOT)]
    for result in answer.results:
        assert result.certificate.certificate == encoded(LEAF)
        assert list(result.certificate.chain) == []
        assert result.certificate.profile_version == 4
        assert result.certificate.description.serial_number
        assert [warning.field for warning in result.certificate.warnings] == ["csr.extensions"]


def test_certificates_only_leaves_the_descriptions_out(edge: Edge) -> None:
    answer = made(edge, issue(), certificates_only=True)
    assert edge.told.last[-1] is False
    (result,) = answer.results
    assert result.certificate.certificate == encoded(LEAF)
    assert not result.certificate.HasField("description")
    assert list(answer.chain) == [encoded(TENANT_ROOT)]


def test_validate_only_is_that_of_the_batch(edge: Edge) -> None:
    made(edge, issue(), issue(validate_only=True), validate_only=True)
    assert edge.told.last[3] is True
    told = errors(made(edge, issue(csr=b"one"), issue(csr=b"two", validate_only=True)))
    assert told[0] is None
    assert told[1] is not None
    assert (told[1].reason, told[1].violations[0].field) == (Reason.FIELD_INVALID, "validate_only")


@pytest.mark.parametrize("count", [0, 1001])
def test_too_few_and_too_many_are_refused(edge: Edge, count: int) -> None:
    failure = refused(edge, batch(*(issue() for _ in range(count))))
    assert (failure.reason, [field for field, _ in failure.violations]) == (Reason.FIELD_INVALID, ["requests"])
    assert f"are {count}" in failure.violations[0][1]


@pytest.mark.parametrize("count", [1, 1000])
def test_the_limits_themselves_are_served(edge: Edge, count: int) -> None:
    assert errors(made(edge, *(issue(csr=b"%d" % number) for number in range(count)))) == [None] * count
    assert [item.new.csr for item in edge.told.last[2]] == [b"%d" % number for number in range(count)]


def test_what_could_not_be_answered_in_one_message_is_not_begun(edge: Edge) -> None:
    failure = refused(edge, batch(*(issue(csr=bytes(30_000)) for _ in range(100))))
    assert [field for field, _ in failure.violations] == ["requests"]
    assert f"{issuance.MOST_BYTES} bytes" in failure.violations[0][1]
    made(edge, *(issue(csr=bytes(24_000)) for _ in range(100)))


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"parent": ""}, {"parent"}),
        ({"parent": "tenants/default/authorities/-"}, {"parent"}),
        ({"parent": "tenants/default"}, {"parent"}),
        ({"request_id": "1"}, {"request_id"}),
        ({"request_id": "x", "parent": "x", "requests": []}, {"request_id", "parent", "requests"}),
    ],
)
def test_what_is_wrong_with_the_batch_fails_the_call(edge: Edge, changes: dict[str, Any], fields: set[str]) -> None:
    failure = refused(edge, batch(issue(), **changes))
    assert failure.reason == Reason.FIELD_INVALID
    assert {field for field, _ in failure.violations} == fields


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        (issue(parent="tenants/default/authorities/other"), ["parent"]),
        (issue(csr=b""), ["csr"]),
        (issue(profile="server"), ["profile"]),
        (issue(request_id="1"), ["request_id"]),
        (issue(lifetime=Duration(seconds=-1)), ["lifetime"]),
        (issue(csr=b"", profile="server", labels={"": ""}), ["csr", "profile", "labels['']"]),
    ],
)
def test_what_is_wrong_with_an_item_fails_that_item(
    edge: Edge, item: IssueCertificateRequest, fields: list[str]
) -> None:
    answer = made(edge, issue(csr=b"one"), item, issue(csr=b"two"))
    before, failed, after = errors(answer)
    assert (before, after) == (None, None)
    assert failed is not None
    assert (failed.code, failed.reason) == (3, Reason.FIELD_INVALID)
    assert sorted(violation.field for violation in failed.violations) == sorted(fields)
    assert all(violation.description for violation in failed.violations)
    assert not failed.HasField("retry_delay")
    # The others alone reached the service, and theirs are their places.
    assert [one.new.csr for one in edge.told.last[2]] == [b"one", b"two"]


def test_a_batch_of_nothing_but_broken_items_is_answered(edge: Edge) -> None:
    answer = made(edge, issue(csr=b""), issue(parent="x"))
    assert all(errors(answer))
    assert list(answer.chain) == []


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.INTERNAL])
def test_an_item_tells_what_a_call_of_its_own_would(edge: Edge, reason: Reason) -> None:
    violations = (Violation("csr.public_key", "is too weak"), Violation("lifetime", "is too long"))
    edge.certificates.failures[b"bad"] = CertdError(
        reason, "the check failed; do something else", metadata={"state": "DISABLED"}, violations=violations
    )
    good, told = errors(made(edge, issue(csr=b"good"), issue(csr=b"bad")))
    assert good is None
    assert told is not None
    assert (told.code, told.reason, told.message) == (
        status.CODES[reason].value[0],
        reason,
        "the check failed; do something else",
    )
    assert dict(told.metadata) == {"state": "DISABLED"}
    assert [(one.field, one.description) for one in told.violations] == [
        ("csr.public_key", "is too weak"),
        ("lifetime", "is too long"),
    ]
    may_help = status.CODES[reason].name in {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED"}
    # A watcher goes on from its cursor, which is another call.
    may_help &= reason not in {Reason.ETAG_MISMATCH, Reason.QUOTA_EXCEEDED, Reason.WATCHER_TOO_SLOW}
    assert told.HasField("retry_delay") == may_help


def test_an_item_is_told_when_to_come_again(edge: Edge) -> None:
    edge.certificates.failures[b"bad"] = CertdError(Reason.TOKEN_UNAVAILABLE, "away", retry_after=2.5)
    (told,) = errors(made(edge, issue(csr=b"bad")))
    assert told is not None
    assert told.retry_delay.ToTimedelta().total_seconds() == 2.5


def test_a_thousand_long_errors_fit_into_an_answer(edge: Edge) -> None:
    """Whatever they say is cut, as it is in the trailers of a call of its own."""
    long = "ä" * 100_000
    violations = tuple(Violation(f"field{number}", long) for number in range(100))
    edge.certificates.failures[b"bad"] = CertdError(
        Reason.NAME_NOT_ALLOWED, long, metadata={"name": long}, violations=violations
    )
    answer = made(edge, *(issue(csr=b"bad") for _ in range(1000)))
    assert answer.ByteSize() < 4 << 20
    assert all(errors(answer))


def test_the_whole_call_fails_for_who_may_issue_nothing(edge: Edge) -> None:
    edge.told.error = CertdError(Reason.PERMISSION_MISSING, "alice lacks certificate.issue")
    with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
        call(edge, batch(issue()))


def keys(edge: Edge, *items: IssueCertificateRequest, **changes: Any) -> list[tuple[str, bytes] | None]:
    made(edge, *items, **changes)
    return [None if one.key is None else (one.key.request_id, one.key.request_sha256) for one in edge.told.last[2]]


def test_an_item_has_its_own_request_id_or_a_place_in_that_of_the_batch(edge: Edge) -> None:
    first, own, third = keys(
        edge, issue(csr=b"a"), issue(csr=b"b", request_id=_OTHER_ID.upper()), issue(csr=b"c"), request_id=REQUEST_ID
    )
    assert first is not None
    assert own is not None
    assert third is not None
    assert [first[0], own[0], third[0]] == [f"{REQUEST_ID.lower()}/0", _OTHER_ID, f"{REQUEST_ID.lower()}/2"]
    assert len({first[1], own[1], third[1]}) == 3


def test_a_broken_item_leaves_the_places_of_the_others(edge: Edge) -> None:
    (key,) = keys(edge, issue(csr=b""), issue(csr=b"b"), request_id=REQUEST_ID)
    assert key is not None
    assert key[0] == f"{REQUEST_ID.lower()}/1"


def test_an_item_is_the_same_request_as_a_call_of_its_own(edge: Edge) -> None:
    alone = issue(csr=b"a", request_id=_OTHER_ID, labels={"a": "b"})
    call(edge, alone)
    key = edge.told.last[2]
    (with_parent,) = keys(edge, alone)
    (without,) = keys(edge, issue(parent="", csr=b"a", request_id=_OTHER_ID, labels={"a": "b"}))
    assert with_parent == without == (key.request_id, key.request_sha256)
    (other,) = keys(edge, issue(csr=b"a", request_id=_OTHER_ID, labels={"a": "c"}))
    assert other is not None
    assert other[1] != key.request_sha256


def test_of_a_defect_an_item_tells_an_id_alone(capsys: pytest.CaptureFixture[str]) -> None:
    defect = CertdError(Reason.INTERNAL, "words that are for the log", metadata={"inner": "words"})
    error = issuance._result(defect, with_description=True).error
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL.value[0], "INTERNAL")
    assert list(error.metadata) == ["error_id"]
    assert "words" not in error.message
    assert error.metadata["error_id"] in error.message
    assert error.metadata["error_id"] in "".join(capsys.readouterr())
