"""`certctl certificate issue-batch`: a certificate for every CSR of a directory; again, for those that are missing."""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import SLOW, Invocation, verb
from certd.cli.certctl.parameters import DURATION, LABEL, TIME
from certd.cli.certctl.revocation import certificate
from certd.client.messages import duration, timestamp, to_json
from certd.errors import CertdError, Reason
from certd.pki.csr import parse_csr
from certd.pki.description import describe
from certd.pki.encoding import certificate_pem, parse_certificates
from certd.v1.certificate_pb2 import Certificate
from certd.v1.certificate_service_pb2 import BatchIssueCertificatesRequest, IssueCertificateRequest, ItemError
from certd.v1.x509_pb2 import CertificateDescription, EncodedCertificate

if TYPE_CHECKING:
    from certd.client.connection import Client

__all__ = ["certificate"]

REQUEST_ID_FILE: Final = ".request-id"
_CHUNK: Final = 100
"""Certificates that one call issues: an answer of some 300 KB, and progress about every tenth of a second."""
_CHUNK_BYTES: Final = 2_000_000
"""Of the requests of one call; the server takes no more than 2,500,000."""
_HEADER: Final = ("FILE", "RESULT", "SERIAL", "NOT AFTER", "MESSAGE")
_CERTIFICATE_BYTES: Final = 64 << 10
_ISSUED, _KEPT, _CHECKED, _FAILED = "ISSUED", "KEPT", "CHECKED", "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A certificate to issue."""

    csr: Path
    out: Path
    request: IssueCertificateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of a file."""

    file: str
    result: str
    certificate: Certificate = field(default_factory=Certificate)
    error: ItemError = field(default_factory=ItemError)
    remark: str = ""


@verb(
    certificate,
    "issue-batch",
    examples="""
    certctl certificate issue-batch --authority web-ca --csr-dir requests --out-dir certificates --lifetime 30d
    certctl certificate issue-batch --authority web-ca --csr-dir requests --out-dir certificates --validate-only
    certctl certificate issue-batch --authority web-ca --csr-dir requests --pattern '*.pem' --out-dir certificates
    """,
)
@click.option("--authority", shell_complete=completion.authorities, required=True, help="Authority that signs.")
@click.option(
    "--csr-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the PKCS#10 requests, PEM or DER, a file each.",
)
@click.option("--pattern", default="*.csr", show_default=True, help="Which files of it are requests.")
@click.option(
    "--out-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the certificates (PEM): that for web.csr is web.pem.",
)
@click.option(
    "--chain-out", type=click.Path(path_type=Path), help="File for the chain from the issuer to the root (PEM)."
)
@click.option(
    "--profile", shell_complete=completion.profiles, help="Profile under which they are issued.  [default: end-entity]"
)
@click.option("--lifetime", type=DURATION, help="Lifetime from now, for example 90d.  [default: that of the profile]")
@click.option("--not-after", type=TIME, help="Exact end instead, RFC 3339.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label of all; may be repeated.")
@click.option(
    "--request-id",
    type=click.UUID,
    show_default=f"that in {REQUEST_ID_FILE} of the out-dir, or a new one",
    help="UUID of this batch, from which each file has one of its own.",
)
@click.option("--validate-only", is_flag=True, help="Run every check on every file, change nothing.")
def issue_batch(
    run: Invocation,
    *,
    authority: str,
    csr_dir: Path,
    pattern: str,
    out_dir: Path,
    chain_out: Path | None,
    profile: str | None,
    lifetime: timedelta | None,
    not_after: datetime | None,
    labels: Sequence[tuple[str, str]],
    request_id: uuid.UUID | None,
    validate_only: bool,
) -> None:
    """Issue a certificate for every CSR of a directory; the exit code is 1 when any failed.

    Run again, it issues only what is missing: a certificate that is there for the key of its CSR is kept. The out-dir
    keeps the batch's request id (in .request-id), so that what was issued while the answer got lost is fetched, for 24
    hours, and not issued twice; a CSR or an option that changed is another request.
    """
    if lifetime is not None and not_after is not None:
        message = "--lifetime and --not-after both say when they end; give one"
        raise click.UsageError(message)
    if csr_dir.resolve() == out_dir.resolve():
        message = "--csr-dir and --out-dir are the same; certificates would be taken for requests"
        raise click.UsageError(message)
    places = _places(csr_dir, pattern, out_dir)
    files.check_directory(out_dir)
    files.check_writable([] if chain_out is None else [chain_out])
    template = IssueCertificateRequest(
        profile="" if profile is None else names.profile_name(profile, run.tenant),
        lifetime=None if lifetime is None else duration(lifetime),
        not_after_time=None if not_after is None else timestamp(not_after),
        labels=dict(labels),
    )
    batch_id = _batch_id(out_dir, request_id, kept=not validate_only)
    planned = [_plan(csr, out, template, batch_id) for csr, out in places]
    settled = [one for one in planned if isinstance(one, _Outcome)]
    wanted = [one for one in planned if isinstance(one, _Wanted)]
    counts = dict.fromkeys((_ISSUED, _CHECKED, _KEPT, _FAILED), 0)
    with run.connect() as client, run.progress(f"issuing {len(wanted)} certificates"):
        shown = _shown(settled, counts)
        issued = _issued(
            run,
            client,
            wanted,
            BatchIssueCertificatesRequest(
                parent=names.authority_name(authority, run.tenant), validate_only=validate_only
            ),
            chain_out,
        )
        _print(run, shown, (_shown(part, counts) for part in issued))
    told = ", ".join(f"{count} {result.lower()}" for result, count in counts.items() if count)
    again = "; run it again for those that failed" if counts[_FAILED] and not validate_only else ""
    run.tell(f"{told}{again}")
    if counts[_FAILED]:
        click.get_current_context().exit(1)


def _shown(part: Sequence[_Outcome], counts: dict[str, int]) -> Sequence[_Outcome]:
    for one in part:
        counts[one.result] += 1
    return part


def _places(csr_dir: Path, pattern: str, out_dir: Path) -> list[tuple[Path, Path]]:
    """Returns the files of requests in order, each with the place of its certificate."""
    found = sorted(path for path in csr_dir.glob(pattern) if path.is_file())
    if not found:
        raise CertdError(
            Reason.FIELD_INVALID, f"no file of {csr_dir} fits {pattern}; name the requests with --pattern GLOB"
        )
    by_place: dict[Path, Path] = {}
    for csr in found:
        place = out_dir / f"{csr.stem}.pem"
        if place in by_place:
            raise CertdError(
                Reason.FIELD_INVALID, f"{by_place[place]} and {csr} would both become {place}; rename one of them"
            )
        by_place[place] = csr
    return [(csr, place) for place, csr in by_place.items()]


def _batch_id(out_dir: Path, given: uuid.UUID | None, *, kept: bool) -> uuid.UUID:
    """Returns the request id of the batch, and leaves it in the out-dir before anything is asked for with it."""
    file = out_dir / REQUEST_ID_FILE
    if given is None and file.exists():
        try:
            return uuid.UUID(files.read_text(str(file), what="request id").strip())
        except ValueError as error:
            raise CertdError(
                Reason.FIELD_INVALID, f"{file} holds no UUID; delete it, or give one with --request-id"
            ) from error
    chosen = given or uuid.uuid4()
    if kept:
        files.make_directory(out_dir)
        files.write([files.Output(path=file, content=f"{chosen}\n".encode())])
    return chosen


def _plan(csr: Path, out: Path, template: IssueCertificateRequest, batch_id: uuid.UUID) -> _Wanted | _Outcome:
    """Returns what is to be issued for a file, or what became of it where nothing is."""
    try:
        request = IssueCertificateRequest(csr=files.read_csr(str(csr)))
        request.MergeFrom(template)
        if out.exists():
            return _kept(csr, out, request.csr)
    except CertdError as error:
        return _Outcome(file=csr.name, result=_FAILED, error=ItemError(reason=str(error.reason), message=error.message))
    content = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    request.request_id = str(uuid.uuid5(batch_id, f"{csr.name} {content}"))
    return _Wanted(csr=csr, out=out, request=request)


def _kept(csr: Path, out: Path, request: bytes) -> _Outcome:
    """Returns the certificate that is there; raises FIELD_INVALID when it is for another key, or none."""
    der = parse_certificates(files.read_certificates(str(out), longest=_CERTIFICATE_BYTES, what="certificate"))[0]
    said = describe(der)
    if said.public_key != parse_csr(request).public_key:
        raise CertdError(
            Reason.FIELD_INVALID, f"{out} is for another key than {csr}; move it away, or name another --out-dir"
        )
    expired = said.not_after_time < datetime.now(UTC)
    return _Outcome(
        file=csr.name,
        result=_KEPT,
        certificate=Certificate(
            certificate=EncodedCertificate(der=der, pem=certificate_pem(der)),
            description=CertificateDescription(
                serial_number=said.serial_number, not_after_time=timestamp(said.not_after_time)
            ),
        ),
        remark=f"expired; delete {out} to have another issued" if expired else "",
    )


def _issued(
    run: Invocation,
    client: "Client",
    wanted: Sequence[_Wanted],
    call: BatchIssueCertificatesRequest,
    chain_out: Path | None,
) -> Iterator[Sequence[_Outcome]]:
    """Yields what became of the certificates, call by call, when their files are written."""
    told = time.monotonic()
    begin = 0
    for part in _parts(wanted):
        if begin and time.monotonic() - told >= SLOW:
            run.tell(f"{begin} of {len(wanted)} …")
            told = time.monotonic()
        begin += len(part)
        call.ClearField("requests")
        call.requests.extend(one.request for one in part)
        answer = client.call(client.stubs.batch_issue_certificates, call)
        outcomes = [
            _Outcome(file=one.csr.name, result=_FAILED, error=result.error)
            if result.HasField("error")
            else _Outcome(
                file=one.csr.name,
                result=_CHECKED if call.validate_only else _ISSUED,
                certificate=result.certificate,
            )
            for one, result in zip(part, answer.results, strict=True)
        ]
        if not call.validate_only:
            _write(part, outcomes, output.chain_pem(answer.chain), chain_out)
        yield outcomes


def _parts(wanted: Sequence[_Wanted]) -> Iterator[Sequence[_Wanted]]:
    """Divides what is wanted among calls of which none is too large."""
    part: list[_Wanted] = []
    size = 0
    for one in wanted:
        length = one.request.ByteSize()
        if part and (len(part) == _CHUNK or size + length > _CHUNK_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += length
    if part:
        yield part


def _write(part: Sequence[_Wanted], outcomes: Sequence[_Outcome], chain_text: str, chain_out: Path | None) -> None:
    outputs = [
        files.Output(path=one.out, content=outcome.certificate.certificate.pem.encode())
        for one, outcome in zip(part, outcomes, strict=True)
        if outcome.result == _ISSUED
    ]
    if chain_out is not None and chain_text:
        # First: whatever certificate is there, its chain is too.
        outputs.insert(0, files.Output(path=chain_out, content=chain_text.encode()))
    files.write(outputs)


def _print(run: Invocation, first: Sequence[_Outcome], more: Iterator[Sequence[_Outcome]]) -> None:
    headed = False
    for part in chain([first], more):
        for one in part:
            output.print_warnings(one.certificate.warnings, run.output, of=one.file)
        match run.output:
            case output.Format.JSON:
                for one in part:
                    click.echo(_json(one))
            case output.Format.PEM:
                for one in part:
                    if one.result != _CHECKED:
                        click.echo(one.certificate.certificate.pem, nl=False)
            case output.Format.TABLE if part:
                lines = output.format_table(_HEADER, [_row(one) for one in part])
                click.echo("\n".join(lines[headed:]))
                headed = True


def _row(one: _Outcome) -> Sequence[str]:
    description = one.certificate.description
    return (
        one.file,
        one.result,
        # What was only checked has no certificate, and a serial number that nobody would find.
        "" if one.result == _CHECKED else description.serial_number,
        output.time_text(description.not_after_time),
        ": ".join(part for part in (one.error.reason, one.error.message) if part) or one.remark,
    )


def _json(one: _Outcome) -> str:
    told: dict[str, object] = {"file": one.file, "result": one.result}
    if one.result == _FAILED:
        told["error"] = json.loads(to_json(one.error))
    else:
        told["certificate"] = json.loads(to_json(one.certificate))
    return json.dumps(told, ensure_ascii=False)
