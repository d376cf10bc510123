"""`certctl authority adopt` and `import-issued`: what another CA leaves behind."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.authority import print_authority
from certd.cli.certctl.authority_keys import authority
from certd.cli.certctl.invocation import SLOW, Invocation, mutation_options, verb
from certd.cli.certctl.issued_files import Issued, Records, Revoked, exported, openssl_index, read_crl
from certd.cli.certctl.parameters import LABEL
from certd.cli.certctl.revocation_options import revocation_options, settings_of
from certd.client.messages import timestamp, to_json
from certd.errors import CertdError, Reason
from certd.pki.description import describe
from certd.pki.issued_certificate import issued_certificate
from certd.pki.key_spec import load_public_key_der
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    AdoptAuthorityRequest,
    GetAuthorityRequest,
    ImportIssuedCertificatesRequest,
    ImportIssuedCertificatesResponse,
    IssuedCertificate,
)
from certd.v1.certificate_pb2 import RevocationReason

if TYPE_CHECKING:
    from certd.client.connection import Client

__all__ = ["authority"]

_CERTIFICATE_BYTES: Final = 32 << 10
_CHAIN_BYTES: Final = 2 << 20
_CALL_RECORDS: Final = 1000
_CALL_BYTES: Final = 2_000_000
"""Of the records of one call; the server takes no more than 2,500,000."""
_WARNINGS_TOLD: Final = 20
_HIGHEST_CRL_NUMBER: Final = (1 << 63) - 2
_FORMATS: Final = ("openssl-index", "step-ca", "vault", "crl")


@verb(
    authority,
    "adopt",
    examples="""
    certctl authority adopt old-root --key-id a1b2c3 --certificate old-root.pem
    certctl authority adopt old-ca --key-id 02 --certificate old-ca.pem --chain old-root.pem --validate-only
    """,
)
@click.argument("name", metavar="ID")
@click.option("--key-id", required=True, metavar="HEX", help="CKA_ID of its private key in the token, in hexadecimal.")
@click.option("--certificate", required=True, metavar="FILE", help="Its certificate, PEM or DER.")
@click.option(
    "--chain", metavar="FILE", help="Certificates from its issuer up to the root, PEM, or DER of one; none for a root."
)
@revocation_options
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label; may be repeated.")
@mutation_options(validate_only=True)
def adopt(
    run: Invocation,
    *,
    name: str,
    key_id: str,
    certificate: str,
    chain: str | None,
    labels: Sequence[tuple[str, str]],
    request_id: UUID,
    validate_only: bool,
    **options: Any,  # noqa: ANN401  # Those of `revocation_options`.
) -> None:
    """Make an authority of a key that is in the token already, with the certificate that it has.

    The key must be sensitive, not extractable and able to sign, and has a public key with the same CKA_ID beside it.
    It is given the policy of an authority key for ever. One in a file goes into the token before, in PKCS#8, by the
    token's own tool: softhsm2-util --import key.pem --token certd --label old-ca --id a1b2c3, where SOFTHSM2_CONF is
    the softhsm2.conf that certd.toml names.
    """
    parent, authority_id = names.parent_and_id(names.authority_name(name, run.tenant))
    revocation, settings = settings_of(options)
    request = AdoptAuthorityRequest(
        parent=parent,
        authority_id=authority_id,
        key_id=key_id,
        certificate=files.read_certificates(certificate, longest=_CERTIFICATE_BYTES, what="certificate"),
        chain=b"" if chain is None else files.read_certificates(chain, longest=_CHAIN_BYTES, what="chain"),
        labels=dict(labels),
        revocation=revocation if settings else None,
        request_id=str(request_id),
        validate_only=validate_only,
    )
    with run.connect() as client, run.progress(f"adopting the authority {authority_id}"):
        made = client.call(client.stubs.adopt_authority, request)
    output.print_warnings(made.warnings, run.output)
    if validate_only:
        run.tell("every check passed; nothing was changed")
    print_authority(made, run, exists=not validate_only)
    if not validate_only:
        run.tell(
            "take over what it has issued, so that it can be revoked:"
            f" certctl authority import-issued {authority_id} --format … FILE"
        )


@verb(
    authority,
    "import-issued",
    examples="""
    certctl authority import-issued old-ca --format openssl-index demoCA/index.txt --certificates demoCA/newcerts
    certctl authority import-issued old-ca --format step-ca certificates.pem revoked.json
    certctl authority import-issued old-ca --format vault exported/ --crl last.crl
    certctl authority import-issued old-ca --format crl last.crl --validate-only
    """,
)
@click.argument("name", metavar="AUTHORITY", shell_complete=completion.authorities)
@click.argument("paths", metavar="FILE", nargs=-1, required=True)
@click.option(
    "--format",
    "source",
    type=click.Choice(_FORMATS),
    required=True,
    help="openssl-index: index.txt of openssl ca; step-ca, vault: exported PEM and JSON, also of OpenBao; crl: CRLs.",
)
@click.option(
    "--certificates",
    type=click.Path(file_okay=False, path_type=Path),
    help="With openssl-index: directory of the certificates, named by their serial numbers.",
)
@click.option("--crl", "crls", multiple=True, metavar="FILE", help="A CRL of the old CA besides; may be repeated.")
@click.option("--key-number", type=click.IntRange(1), help="Key that signed them.  [default: the one that signs now]")
@click.option(
    "--next-crl-number",
    type=click.IntRange(1),
    help="Lowest number of the next CRL.  [default: that after the CRLs that were read]",
)
@click.option("--validate-only", is_flag=True, help="Run every check, change nothing.")
def import_issued(
    run: Invocation,
    *,
    name: str,
    paths: Sequence[str],
    source: str,
    certificates: Path | None,
    crls: Sequence[str],
    key_number: int | None,
    next_crl_number: int | None,
    validate_only: bool,
) -> None:
    """Take over what another CA issued under the key of an authority, so that CRLs and OCSP answers go on being right.

    It may be run again: what is there already stays as it is, but for a revocation that was missing. A database of
    step-ca in badger is read by no other program; export it first. What is revoked and whose end nobody knows stays on
    CRLs until the authority ends.
    """
    if certificates is not None and not certificates.is_dir():
        raise _invalid(f"{certificates} is no directory; name that of the certificates, newcerts")
    records = Records()
    with run.connect() as client, run.progress("importing certificates"):
        found = client.call(
            client.stubs.get_authority, GetAuthorityRequest(name=names.authority_name(name, run.tenant))
        )
        key = _key_of(found, key_number)
        for path in (*crls, *(paths if source == "crl" else ())):
            crl = read_crl(path, records)
            if not crl.is_signature_valid(load_public_key_der(key.public_key)):  # type: ignore[arg-type]  # Of CAs.
                raise _invalid(f"the CRL {path} was not signed with key {key.number} of {found.name}")
        issued: Iterator[Issued] = iter(())
        if source == "openssl-index":
            issued = (one for path in paths for one in openssl_index(path, certificates))
        elif source != "crl":
            issued = exported(paths, records)
        if records.crl_number > _HIGHEST_CRL_NUMBER:
            raise _invalid(f"the number {records.crl_number} of a CRL is higher than certd counts; leave out --crl")
        request = ImportIssuedCertificatesRequest(parent=found.name, key_number=key.number, validate_only=validate_only)
        transfer = _Transfer(run, client, request)
        transfer.send(_joined(issued, records, key, transfer))
        transfer.finish(next_crl_number or (records.crl_number + 1 if records.crl_number else 0))
    transfer.show()


class _Transfer:
    """Sends records in calls that are not too large, and adds up what became of them."""

    def __init__(self, run: Invocation, client: "Client", request: ImportIssuedCertificatesRequest) -> None:
        self._run = run
        self._client = client
        self._request = request
        self._size = 0
        self._total = ImportIssuedCertificatesResponse()
        self._sent = 0
        self._told = time.monotonic()
        self.passed_over = 0

    def send(self, records: Iterator[IssuedCertificate]) -> None:
        """Sends all, but for what is left for `finish`."""
        for record in records:
            size = record.ByteSize()
            full = len(self._request.certificates) == _CALL_RECORDS or self._size + size > _CALL_BYTES
            if self._request.certificates and full:
                self._call()
            self._request.certificates.append(record)
            self._size += size

    def finish(self, next_crl_number: int) -> None:
        """Sends the rest, with the number of the next CRL: who has all of them has the CRL too."""
        if not self._request.certificates:
            if not self._sent:
                raise _invalid("there is nothing in the files that this key has signed")
            return
        self._request.next_crl_number = next_crl_number
        self._call()

    def _call(self) -> None:
        answer = self._client.call(self._client.stubs.import_issued_certificates, self._request)
        for part in ("imported_count", "revoked_count", "unchanged_count"):
            setattr(self._total, part, getattr(self._total, part) + getattr(answer, part))
        room = _WARNINGS_TOLD - len(self._total.warnings)
        self._total.warnings.extend(list(answer.warnings)[: max(0, room)])
        self._sent += len(self._request.certificates)
        self._request.ClearField("certificates")
        self._size = 0
        if time.monotonic() - self._told >= SLOW:
            self._run.tell(f"{self._sent:,} certificates …")
            self._told = time.monotonic()

    def show(self) -> None:
        """Prints what became of all."""
        output.print_warnings(self._total.warnings, self._run.output)
        if self.passed_over:
            self._run.tell(f"{self.passed_over:,} certificates that this key did not sign were passed over")
        if self._request.validate_only:
            self._run.tell("every check passed; nothing was changed")
        if self._run.output is output.Format.JSON:
            click.echo(to_json(self._total, indent=2))
            return
        rows = (
            ("Imported", f"{self._total.imported_count:,}"),
            ("Known, now revoked", f"{self._total.revoked_count:,}"),
            ("Known, unchanged", f"{self._total.unchanged_count:,}"),
        )
        click.echo(output.format_card(rows))


def _joined(
    issued: Iterator[Issued], records: Records, key: Authority.Key, transfer: _Transfer
) -> Iterator[IssuedCertificate]:
    """Yields every certificate once, with its revocation, then the revocations of those that nobody has."""
    subject = describe(key.certificate.der).subject
    end = key.not_after_time.ToDatetime()
    seen: set[int] = set()
    for one in issued:
        if one.serial in seen:
            continue
        seen.add(one.serial)
        if one.certificate and not _is_own(one.certificate, subject, key.public_key):
            transfer.passed_over += 1
            continue
        yield _message(one, one.revoked or records.revocations.get(one.serial), end)
    for serial, revoked in records.revocations.items():
        if serial not in seen:
            yield _message(Issued(serial=serial, not_after=revoked.not_after), revoked, end)


def _is_own(certificate: bytes, issuer: bytes, public_key: bytes) -> bool:
    try:
        issued_certificate(certificate, field="certificate", issuer=issuer, public_key=public_key)
    except CertdError:
        return False
    return True


def _message(one: Issued, revoked: Revoked | None, end: datetime) -> IssuedCertificate:
    message = IssuedCertificate(certificate=one.certificate)
    if not one.certificate:
        message.serial_number = f"{one.serial:x}"
        message.subject = one.subject
        message.not_after_time.FromDatetime(one.not_after or end)
    if revoked is not None:
        message.revoke_time.CopyFrom(timestamp(revoked.time))
        message.revocation_reason = RevocationReason.Value(revoked.reason)
        if revoked.invalidity_time is not None:
            message.invalidity_time.CopyFrom(timestamp(revoked.invalidity_time))
    return message


def _key_of(found: Authority, number: int | None) -> Authority.Key:
    wanted = number or found.key.number
    for key in found.keys:
        if key.number == wanted and key.certificate.der:
            return key
    raise _invalid(f"{found.name} has no key {wanted} with a certificate; see certctl authority get")


def _invalid(problem: str) -> CertdError:
    return CertdError(Reason.FIELD_INVALID, problem)
