"""Many certificates revoked by their names: `certctl certificate revoke` with several, or with `--from`."""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from certd.cli.certctl import files, names, output
from certd.cli.certctl.invocation import SLOW, Invocation
from certd.client.messages import enum_text, to_json
from certd.errors import Reason
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import BatchRevokeCertificatesRequest, ItemError, RevokeCertificateRequest

if TYPE_CHECKING:
    from certd.client.connection import Client

_CHUNK: Final = 100
"""Certificates that one call revokes: progress every second or sooner."""
_HEADER: Final = ("SERIAL", "AUTHORITY", "RESULT", "REVOKED", "REASON", "MESSAGE")
_REVOKED, _CHECKED, _UNCHANGED, _FAILED = "REVOKED", "CHECKED", "UNCHANGED", "FAILED"
_COMMENT: Final = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a certificate."""

    name: str
    result: str
    certificate: Certificate
    error: ItemError


def names_in(path: str) -> list[str]:
    """Returns what a file has, a name or a serial number a line; empty lines and those of comments are passed over."""
    lines = (line.strip() for line in files.read_text(path, what="list of certificates").splitlines())
    return [line for line in lines if line and not line.startswith(_COMMENT)]


def revoke_many(
    run: Invocation,
    wanted: Sequence[str],
    template: RevokeCertificateRequest,
    *,
    request_id: uuid.UUID,
) -> None:
    """Revokes certificates by their full names, and prints a line for each; the exit code is 1 when any failed.

    What is revoked already is unchanged, and no failure. Each has a request id of its own, made of `request_id` and its
    name: with the same one a repetition asks for the same.
    """
    if run.output is output.Format.PEM:
        output.print_pem("")
    counts = dict.fromkeys((_REVOKED, _CHECKED, _UNCHANGED, _FAILED), 0)
    with run.connect() as client, run.progress(f"revoking {len(wanted)} certificates"):
        headed = False
        for part in _revoked(run, client, wanted, template, request_id):
            for one in part:
                counts[one.result] += 1
                output.print_warnings(one.certificate.warnings, run.output, of=names.short(one.name))
            if run.output is output.Format.JSON:
                for one in part:
                    click.echo(_json(one))
            else:
                lines = output.format_table(_HEADER, [_row(one) for one in part])
                click.echo("\n".join(lines[headed:]))
                headed = True
    run.tell(", ".join(f"{count:,} {result.lower()}" for result, count in counts.items() if count))
    if counts[_FAILED]:
        click.get_current_context().exit(1)


def _revoked(
    run: Invocation,
    client: "Client",
    wanted: Sequence[str],
    template: RevokeCertificateRequest,
    request_id: uuid.UUID,
) -> Iterator[Sequence[_Outcome]]:
    """Yields what became of them, call by call."""
    told, done = time.monotonic(), 0
    for parent, part in _parts(wanted):
        if done and time.monotonic() - told >= SLOW:
            run.tell(f"{done:,} of {len(wanted):,} …")
            told = time.monotonic()
        done += len(part)
        call = BatchRevokeCertificatesRequest(parent=parent, validate_only=template.validate_only)
        for name in part:
            one = call.requests.add()
            one.CopyFrom(template)
            one.name, one.request_id = name, str(uuid.uuid5(request_id, name))
        answer = client.call(client.stubs.batch_revoke_certificates, call)
        yield [
            _Outcome(
                name=name,
                result=_result(result.error, failed=result.HasField("error"), checked=template.validate_only),
                certificate=result.certificate,
                error=result.error,
            )
            for name, result in zip(part, answer.results, strict=True)
        ]


def _result(error: ItemError, *, failed: bool, checked: bool) -> str:
    if failed:
        return _UNCHANGED if error.reason == Reason.ALREADY_REVOKED else _FAILED
    return _CHECKED if checked else _REVOKED


def _parts(wanted: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields parents, each with names below it, of which no call has too many."""
    by_tenant: dict[str, list[str]] = {}
    for name in dict.fromkeys(wanted):
        by_tenant.setdefault("/".join(name.split("/")[:2]), []).append(name)
    for tenant, those in by_tenant.items():
        for start in range(0, len(those), _CHUNK):
            yield f"{tenant}/authorities/-", those[start : start + _CHUNK]


def _row(one: _Outcome) -> Sequence[str]:
    return (
        names.short(one.name),
        _authority(one.name),
        one.result,
        output.time_text(one.certificate.revoke_time),
        enum_text(one.certificate, "revocation_reason") if one.certificate.revocation_reason else "",
        ": ".join(part for part in (one.error.reason, one.error.message) if part),
    )


def _authority(name: str) -> str:
    holder, _, _ = name.partition("/certificates/")
    return names.short(holder)


def _json(one: _Outcome) -> str:
    told: dict[str, object] = {"name": one.name, "result": one.result}
    if one.result in {_UNCHANGED, _FAILED}:
        told["error"] = json.loads(to_json(one.error))
    else:
        told["certificate"] = json.loads(to_json(one.certificate))
    return json.dumps(told, ensure_ascii=False)
