"""Audit reports: everything that an authority signed, once each, in few bytes of memory at a time."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import pytest

from certd.clock import rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller
from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, CertificateName
from certd.services import audit_reports
from certd.services.audit_reports import COLUMNS, AuditReports, ReportFormat, ReportQuery
from certd.services.certificates import CertificateView
from certd.services.revocation import NewRevocation
from tests.services.conftest import ADMINISTRATOR, STRANGER, World

CA = AuthorityName("default", "ca")


@dataclass
class Stream:
    """A call that stays open until it has asked so often who calls."""

    error_after: int = 1_000_000
    asked: int = field(default=0, init=False)
    opened: bool = True

    def authenticate(self) -> None:
        self.asked += 1
        if self.asked > self.error_after:
            raise CertdError(Reason.CREDENTIAL_REVOKED, "revoked meanwhile")

    def is_open(self) -> bool:
        return self.opened


def reports(world: World) -> AuditReports:
    return AuditReports(store=world.core.store, clock=world.clock, access=world.core.access)


def report(world: World, *, caller: Caller = ADMINISTRATOR, stream: Stream | None = None, **changes: object) -> bytes:
    query = ReportQuery(**({"authority": CA} | changes))  # type: ignore[arg-type]  # Of the fields' types.
    parts = list(reports(world).create(caller, query, stream or Stream()))
    assert [one.record_count for one in parts] == sorted(one.record_count for one in parts)
    return b"".join(one.content for one in parts)


def rows(content: bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in content.splitlines()]


def issued(world: World, count: int) -> Sequence[CertificateView]:
    found = []
    for number in range(count):
        found.append(world.issue(f"h{number}.example.internal"))
        world.clock.advance(timedelta(seconds=1))
    return found


def serials(content: bytes) -> list[str]:
    return [row["serial"] for row in rows(content)]


def test_a_record_has_all_that_is_known(ca: World) -> None:
    (one,) = issued(ca, 1)
    (row,) = rows(report(ca))
    certificate = one.certificate
    # It has no subject, and a record has no empty members.
    assert row == {
        "tenant": "default",
        "requester": ADMINISTRATOR.principal,
        "certificate": str(CertificateName("default", "ca", certificate.serial)),
        "serial": certificate.serial,
        "not_before": rfc3339(certificate.not_before),
        "not_after": rfc3339(certificate.not_after),
        "issue_time": rfc3339(certificate.create_time),
        "profile": certificate.profile,
        "state": "ISSUED",
    }


def test_a_revocation_is_told(ca: World) -> None:
    first, second = issued(ca, 2)
    new = NewRevocation(
        name=CertificateName("default", "ca", second.certificate.serial), reason=RevocationReason.SUPERSEDED
    )
    ca.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)
    found = {row["serial"]: row for row in rows(report(ca))}
    assert "revoke_time" not in found[first.certificate.serial]
    assert found[second.certificate.serial]["reason"] == "superseded"
    assert found[second.certificate.serial]["revoke_time"] == rfc3339(ca.clock.now())


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_have_each_certificate_once_in_its_order(ca: World, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(audit_reports, "_PAGE", page)
    monkeypatch.setattr(audit_reports, "_EVENTS_PAGE", 2)
    found = [one.certificate for one in issued(ca, 3)]
    # Several of one moment as well.
    found += [ca.issue(f"s{number}.example.internal").certificate for number in range(4)]
    told = rows(report(ca))
    assert sorted(row["serial"] for row in told) == sorted(one.serial for one in found)
    assert all(before["issue_time"] <= after["issue_time"] for before, after in pairwise(told))
    assert {row["requester"] for row in told} == {ADMINISTRATOR.principal}


def test_an_authority_tells_of_its_own_alone(ca: World) -> None:
    issued(ca, 1)
    root = rows(report(ca, authority=AuthorityName("default", "root")))
    # Its own certificate, and that of the authority below it.
    assert len(root) == 2
    assert not {row["serial"] for row in root} & set(serials(report(ca)))


def test_only_what_was_issued_in_a_time_is_told(ca: World) -> None:
    found = [one.certificate for one in issued(ca, 3)]
    middle = found[1]
    assert serials(report(ca, start_time=middle.create_time)) == [one.serial for one in found[1:]]
    assert serials(report(ca, end_time=middle.create_time)) == [found[0].serial]
    both = report(ca, start_time=middle.create_time, end_time=found[2].create_time)
    assert serials(both) == [middle.serial]


def test_what_is_issued_meanwhile_is_not_told(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_reports, "_PAGE", 1)
    before = [one.certificate.serial for one in issued(ca, 2)]
    parts = reports(ca).create(ADMINISTRATOR, ReportQuery(authority=CA), Stream())
    told = serials(next(parts).content)
    ca.clock.advance(timedelta(seconds=1))
    issued(ca, 1)
    told += [serial for part in parts for serial in serials(part.content)]
    assert told == before


def test_csv_has_a_header_and_is_read_by_whoever_reads_csv(ca: World) -> None:
    (one,) = issued(ca, 1)
    content = report(ca, format=ReportFormat.CSV)
    assert content.endswith(b"\r\n")
    (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert tuple(row) == COLUMNS
    assert row["serial"] == one.certificate.serial
    assert row["revoke_time"] == ""


def test_no_cell_is_a_formula() -> None:
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "fine", 'a "quoted", one\nof two lines', ""]
    lines = audit_reports._csv_of(
        [dict.fromkeys(COLUMNS, cell) for cell in cells]
    )  # No subject can begin with each of these.
    read = [row["subject"] for row in csv.DictReader(io.StringIO(lines.decode(), newline=""), fieldnames=COLUMNS)]
    assert read == [f"'{cell}" for cell in cells[:6]] + cells[6:]


def test_nothing_was_ever_signed(ca: World) -> None:
    assert report(ca) == b""
    assert report(ca, format=ReportFormat.CSV).count(b"\r\n") == 1


def test_a_stranger_gets_none_and_an_authority_must_be_there(ca: World) -> None:
    with pytest.raises(CertdError) as caught:
        report(ca, caller=STRANGER)
    assert caught.value.reason is Reason.PERMISSION_MISSING
    with pytest.raises(CertdError) as caught:
        report(ca, authority=AuthorityName("default", "none"))
    assert caught.value.reason is Reason.AUTHORITY_NOT_FOUND


def test_a_report_ends_when_its_caller_is_revoked_or_gone(ca: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_reports, "_PAGE", 1)
    issued(ca, 3)
    with pytest.raises(CertdError) as caught:
        report(ca, stream=Stream(error_after=1))
    assert caught.value.reason is Reason.CREDENTIAL_REVOKED
    stream = Stream()
    parts = reports(ca).create(ADMINISTRATOR, ReportQuery(authority=CA), stream)
    next(parts)
    stream.opened = False
    assert list(parts) == []
