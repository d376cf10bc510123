"""`certctl managed export`: certificate, chain and private key in the form that a program reads."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from certd.cli.certctl import completion, files, names, output
from certd.cli.certctl.invocation import Invocation, verb
from certd.cli.certctl.managed import managed
from certd.errors import CertdError, Reason
from certd.pki import pkcs7, pkcs8, pkcs12
from certd.pki.export_form import ExportForm, protect
from certd.v1.managed_certificate_service_pb2 import ExportManagedCertificateResponse, GetManagedCertificateRequest

if TYPE_CHECKING:
    from certd.client.connection import Client
    from certd.v1.managed_certificate_pb2 import ManagedCertificate
    from certd.v1.x509_pb2 import EncodedCertificate

__all__ = ["managed"]

_DER: Final = "der"
_PKCS7: Final = "pkcs7"
_TRUSTSTORE: Final = "truststore"
_WITH_KEY: Final[Mapping[str, ExportForm]] = {
    "pkcs8": ExportForm.PKCS8,
    "pkcs12-modern": ExportForm.PKCS12_MODERN,
    "pkcs12-legacy": ExportForm.PKCS12_LEGACY,
    "acm-compatible": ExportForm.ACM_COMPATIBLE,
    _DER: ExportForm.PKCS8,
}
"""The form of the key in each format that has one."""
_FORMATS: Final = (*_WITH_KEY, _PKCS7, _TRUSTSTORE)
_PRINTED: Final[Mapping[str, frozenset[output.Format]]] = {
    "pkcs8": frozenset({output.Format.PEM, output.Format.JSON}),
    "acm-compatible": frozenset({output.Format.PEM, output.Format.JSON}),
    "pkcs12-modern": frozenset({output.Format.JSON}),
    "pkcs12-legacy": frozenset({output.Format.JSON}),
}
"""How the formats are printed that need no directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be exported, and how."""

    name: str
    format: str
    passphrase_file: str | None
    out_dir: Path | None
    version: int | None
    reason: str
    server_side: bool

    def check(self, printed: output.Format) -> None:
        """Raises click.UsageError for what does not go together, before anything is asked of the server."""
        if self.format not in _WITH_KEY and (self.version is not None or self.reason or self.server_side):
            message = (
                f"{self.format} holds the certificates of the current version and no key, so nothing is recorded; "
                "leave out --version, --reason and --server-side"
            )
            raise click.UsageError(message)
        if self.format == _PKCS7 and self.passphrase_file is not None:
            message = "pkcs7 holds no key, and nothing in it is encrypted; leave out --passphrase-file"
            raise click.UsageError(message)
        if self.format != _PKCS7 and self.passphrase_file is None:
            message = f"{self.format} is encrypted; say with --passphrase-file under what"
            raise click.UsageError(message)
        ways = _PRINTED.get(self.format, frozenset())
        if self.out_dir is None and printed not in ways:
            otherwise = " or ".join(f"-o {way}" for way in sorted(ways))
            message = "say with --out-dir where the files go" + (f", or print them with {otherwise}" if ways else "")
            raise click.UsageError(message)
        if printed is output.Format.PEM and printed not in ways and self.format != _DER:
            message = f"{self.format} is not printed as PEM; leave out -o pem"
            raise click.UsageError(message)


@verb(
    managed,
    "export",
    examples="""
    certctl managed export web --passphrase-file pass.txt --out-dir ./out
    certctl managed export web --passphrase-file pass.txt --format pkcs12-modern --reason "new gateway" --out-dir ./out
    certctl managed export web --passphrase-file pass.txt --version 3 -o pem > everything.pem
    certctl managed export web --passphrase-file pass.txt --format truststore --out-dir ./out
    certctl managed export web --format pkcs7 --out-dir ./out
    """,
)
@click.argument("name", metavar="MANAGED", shell_complete=completion.managed_certificates)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    help="File with the passphrase, 8 to 1,024 bytes, of ACM 4 to 128; one trailing newline is dropped. - reads "
    "standard input. Needed but for pkcs7.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(_FORMATS),
    default="pkcs8",
    show_default=True,
    help="In what form, as told above.",
)
@click.option("--out-dir", type=click.Path(path_type=Path), help="Directory for the files.")
@click.option("--version", type=click.IntRange(min=1), help="Number of the version.  [default: the current one]")
@click.option("--reason", default="", help="Why, for the record of the export.")
@click.option(
    "--server-side",
    is_flag=True,
    help="Let the server encrypt, which shows it the passphrase. Otherwise it encrypts to a key that exists for this "
    "call alone, and the passphrase stays here.",
)
def export(
    run: Invocation,
    *,
    name: str,
    passphrase_file: str | None,
    format_: str,
    out_dir: Path | None,
    version: int | None,
    reason: str,
    server_side: bool,
) -> None:
    """Export certificate, chain and private key, the key encrypted under a passphrase.

    \b
    pkcs8           cert.pem, chain.pem, key.pem: PBES2, PBKDF2-HMAC-SHA256 with 600,000 rounds, AES-256-CBC
    pkcs12-modern   bundle.p12, all in one: PBES2 and a MAC with 250,000 rounds of SHA-256 each, AES-256-CBC
    pkcs12-legacy   bundle.p12 for old readers: 3DES and SHA-1. Weak
    acm-compatible  as pkcs8, the key as AWS Certificate Manager has it: HMAC-SHA1 with 2,048 rounds. Weak
    der             cert.der, chain/1.der and so on from the issuer up to the root, key.der encrypted as in pkcs8
    pkcs7           chain.p7b: certificate and chain, no key
    truststore      truststore.p12: the chain alone, which Java takes as trusted; no key

    The two weak ones are for programs that read nothing else. Without a key nothing is recorded.
    """  # noqa: D301  # The character itself keeps click from wrapping the lines.
    asked = _Asked(
        name=names.managed_certificate_name(name, run.tenant),
        format=format_,
        passphrase_file=passphrase_file,
        out_dir=out_dir,
        version=version,
        reason=reason,
        server_side=server_side,
    )
    asked.check(run.output)
    passphrase = _passphrase(run, asked)
    if out_dir is not None:
        # Before, for an export stays in the record even when nobody got to keep the key.
        files.check_directory(out_dir)
    with run.connect() as client, run.progress("exporting"):
        if format_ in _WITH_KEY:
            response = _export(client, asked, passphrase)
        else:
            found = client.call(client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=asked.name))
            _show_certificates(run, asked, found, passphrase)
            return
    card = [("Exported", f"{asked.name}, version {response.version}"), ("Private key", f"{format_}, encrypted")]
    written = _write(out_dir, _files_with_key(response, asked))
    pem = response.certificate.pem + output.chain_pem(response.chain) + response.encrypted_private_key_pem
    output.print_resource(response, run.output, card=[*card, ("Files", written)], pem=pem)


def _passphrase(run: Invocation, asked: _Asked) -> bytes:
    """Returns the passphrase by the rules of its form, and says to people what is to be said of it."""
    form = _WITH_KEY.get(asked.format, ExportForm.PKCS12_MODERN)
    if form.is_weak:
        run.tell(
            f"warning: {asked.format} is weak: who has the file tries passphrases quickly. Choose a long one, and the "
            "format only for what reads nothing else"
        )
    if asked.passphrase_file is None:
        return b""
    passphrase, warning = files.read_passphrase(asked.passphrase_file, form)
    if warning is not None:
        run.tell(f"warning: {warning}")
    if form.is_pkcs12 and not (passphrase.isascii() and passphrase.decode().isprintable()):
        run.tell("warning: Java opens PKCS#12 only with passphrases of printable ASCII, which this is not")
    return passphrase


def _export(client: "Client", asked: _Asked, passphrase: bytes) -> ExportManagedCertificateResponse:
    """Returns the answer as it would be if the server had encrypted, wherever that was done."""
    # Late, as the connection itself: see Invocation.connect.
    from certd.client.export import export_to_one_time_key, export_under_passphrase

    form, version = _WITH_KEY[asked.format], asked.version or 0
    if asked.server_side:
        return export_under_passphrase(
            client, asked.name, passphrase=passphrase, form=form, version=version, reason=asked.reason
        )
    exported = export_to_one_time_key(client, asked.name, version=version, reason=asked.reason)
    answer = exported.response
    response = ExportManagedCertificateResponse(
        version=answer.version, certificate=answer.certificate, chain=answer.chain
    )
    encrypted = protect(
        form,
        exported.private_key_info,
        passphrase,
        certificates=[answer.certificate.der, *(each.der for each in answer.chain)],
        friendly_name=names.parent_and_id(asked.name)[1],
    )
    if form.is_pkcs12:
        response.pkcs12 = encrypted
    else:
        response.encrypted_private_key_pem = pkcs8.to_pem(encrypted).decode()
    return response


def _files_with_key(response: ExportManagedCertificateResponse, asked: _Asked) -> Mapping[str, bytes]:
    """Returns the content of each file; those whose name begins with `key` or `bundle` are secret."""
    if _WITH_KEY[asked.format].is_pkcs12:
        return {"bundle.p12": response.pkcs12}
    key = response.encrypted_private_key_pem
    if asked.format != _DER:
        return {
            "cert.pem": response.certificate.pem.encode(),
            "chain.pem": output.chain_pem(response.chain).encode(),
            "key.pem": key.encode(),
        }
    return {
        "cert.der": response.certificate.der,
        **{f"chain/{number}.der": each.der for number, each in enumerate(response.chain, start=1)},
        "key.der": base64.b64decode("".join(line for line in key.splitlines() if not line.startswith("-"))),
    }


def _show_certificates(run: Invocation, asked: _Asked, found: "ManagedCertificate", passphrase: bytes) -> None:
    if not found.certificate.der:
        message = f"{asked.name} has no certificate yet; wait until it is ACTIVE"
        raise CertdError(Reason.STATE_FORBIDS, message, resource=asked.name)
    if asked.format == _PKCS7:
        content = {"chain.p7b": pkcs7.certificates_only(_ders([found.certificate, *found.chain]))}
    else:
        # A certificate without a chain is its own root.
        trusted = _ders(found.chain or [found.certificate])
        content = {"truststore.p12": pkcs12.truststore(trusted, passphrase)}
    written = _write(asked.out_dir, content)
    card = [("Certificates", f"{asked.name}, version {found.current_version}"), ("Files", written)]
    output.print_resource(found, run.output, card=card)


def _ders(certificates: "Sequence[EncodedCertificate]") -> list[bytes]:
    return [each.der for each in certificates]


def _write(out_dir: Path | None, content: Mapping[str, bytes]) -> str:
    """Writes the files, where there is a place for them; returns their paths, a line each."""
    if out_dir is None:
        return ""
    outputs = [
        files.Output(
            path=out_dir / name,
            content=data,
            mode=files.SECRET_MODE if name.startswith(("key", "bundle")) else files.PUBLIC_MODE,
        )
        for name, data in content.items()
    ]
    for directory in dict.fromkeys(each.path.parent for each in outputs):
        files.make_directory(directory)
    files.write(outputs)
    # A chain that was longer before would be read as part of this one.
    for former in out_dir.glob("chain/*.der") if "cert.der" in content else ():
        if former.stem.isdecimal() and former.relative_to(out_dir).as_posix() not in content:
            former.unlink()
    return "\n".join(str(each.path) for each in outputs)
