"""`certctl enrollment` and `certctl enroll`: a code is made, and used by the machine or person that it is for."""

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from google.protobuf.duration_pb2 import Duration

from certd.cli.certctl import files, names, output
from certd.cli.certctl.invocation import Invocation, example_text, invocation, shared_options, verb
from certd.cli.certctl.parameters import DURATION
from certd.client.addresses import check_address
from certd.client.messages import duration
from certd.credential_files import CredentialFiles, install, stage_key, write
from certd.errors import CertdError, Reason
from certd.pki.credential_request import CredentialRequest, credential_request_of, new_credential_request
from certd.pki.encoding import certificate_pem, parse_certificates
from certd.pki.enrollment_code import LONGEST, EnrollmentCode, key_sha256, parse_code
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest
from certd.v1.identity_pb2 import IdentityCredential

_DIRECTORY: Final = "~/.config/certd"


@click.group()
def enrollment() -> None:
    """Codes by which machines and persons get their first certificate."""


@verb(
    enrollment,
    "create-code",
    examples="""
    certctl enrollment create-code web-1 --code-file web-1.code
    certctl enrollment create-code web-1 --lifetime 10m --source-network 192.0.2.0/24 -o json | jq -r .code
    certctl enrollment create-code identities/second-admin --public-key second-admin.pub
    """,
)
@click.argument("identity")
@click.option("--lifetime", type=DURATION, help="How long the code lives, a minute to 7 days.  [default: 1h]")
@click.option(
    "--public-key",
    "public_key_file",
    metavar="FILE",
    help="PEM of the public key, or of a CSR with it, that alone may enroll.  [default: any key]",
)
@click.option(
    "--source-network",
    "source_networks",
    multiple=True,
    metavar="CIDR",
    help="Network that the call must come from; may be repeated.  [default: any]",
)
@click.option(
    "--code-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the code, mode 0600; it is then not shown.",
)
def create_code(
    run: Invocation,
    *,
    identity: str,
    lifetime: timedelta | None,
    public_key_file: str | None,
    source_networks: Sequence[str],
    code_file: Path | None,
) -> None:
    """Make a code with which an identity enrolls once; the identity need not exist.

    The code is a secret: who has it first is the identity. It also tells the client which server to trust.
    """
    if code_file is not None:
        files.check_writable([code_file])
    request = CreateEnrollmentCodeRequest(
        identity=names.identity_name(identity, run.tenant),
        lifetime=_duration(lifetime),
        public_key_sha256=b"" if public_key_file is None else _key_sha256(public_key_file),
        source_networks=source_networks,
    )
    with run.connect() as client, run.progress("making the code"):
        made = client.call(client.stubs.create_enrollment_code, request)
    if code_file is not None:
        content = f"{made.code}\n".encode()
        files.write([files.Output(path=code_file, content=content, mode=files.SECRET_MODE)])
        made.code = ""
        run.tell(f"the code is in {code_file}")
    card = [
        ("Code", made.code),
        ("Identity", made.identity),
        ("SPIFFE id", made.spiffe_id),
        ("Expires", output.time_text(made.expire_time)),
        ("Root key SHA-256", made.system_root_public_key_sha256.hex()),
    ]
    output.print_resource(made, run.output, card=card)


@click.command(
    "enroll",
    epilog=example_text(
        """
        certctl enroll --address ca.example.internal:8444 --code-file web-1.code
        certctl enroll --address ca.example.internal:8444 --code-file web-1.code --api-address ca.example.internal:8443
        certctl enroll --address [::1]:8444 --code-file - --credentials-dir /etc/web-1/certd
        """
    ),
)
@click.option("--address", required=True, metavar="HOST:PORT", help="Address of the enrollment port.")
@click.option(
    "--code-file",
    default=files.STANDARD_STREAM,
    metavar="FILE",
    help="File with the code.  [default: -, standard input]",
)
@click.option(
    "--credentials-dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=_DIRECTORY,
    show_default=True,
    help="Gets identity.pem, identity.key, root.pem and, where there is none, certctl.toml.",
)
@click.option(
    "--private-key",
    "private_key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM of the EC private key to enroll with.  [default: a new one, P-256]",
)
@click.option("--api-address", metavar="HOST:PORT", help="Address of the gRPC API, for certctl.toml.")
@shared_options
def enroll(
    *, address: str, code_file: str, directory: Path, private_key_file: Path | None, api_address: str | None
) -> None:
    """Get the first certificate of an identity, by a code.

    The server is held against the code before the code is sent. Repeated with the same code it gets the same
    certificate, so that an interrupted run can be ended.
    """
    # Late, as in `Invocation.connect`.
    from certd.client.enrollment import enroll as call_enroll

    run = invocation()
    check_address(address)
    if api_address is not None:
        check_address(api_address)
    code = _read_code(code_file, run)
    place = _Place(directory.expanduser().absolute())
    place.make(code)
    request = place.request(private_key_file)
    seconds = None if run.timeout is None else run.timeout.total_seconds()
    with run.progress("enrolling"):
        enrolled = call_enroll(address, code, request.csr, timeout=seconds, on_wait=run.tell_waiting)
    place.install(enrolled.credential, enrolled.trust_bundle)
    place.write_settings(api_address, identity=enrolled.credential.identity.name)
    _print(run, enrolled.credential, place)


class _Place:
    """The folder that gets the credentials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files = CredentialFiles(certificate=folder / "identity.pem", private_key=folder / "identity.key")
        self.trust_bundle = folder / "root.pem"
        self.settings = folder / "certctl.toml"

    def make(self, code: EnrollmentCode) -> None:
        """Makes the folder, for its owner alone, where it does not exist.

        FIELD_INVALID when it cannot be written, or trusts another server, whose credentials it may hold.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            trusted = self.trust_bundle.read_bytes() if self.trust_bundle.exists() else None
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        if trusted is not None and code.root_sha256 not in {key_sha256(root) for root in parse_certificates(trusted)}:
            raise CertdError(
                Reason.FIELD_INVALID, f"{self.trust_bundle} is of another server; name another --credentials-dir"
            )
        files.check_writable([self.files.certificate, self.files.private_key, self.trust_bundle])

    def request(self, private_key: Path | None) -> CredentialRequest:
        """Returns the key and its CSR: the given one, that of an interrupted run, or a new one; it is on disk."""
        try:
            if private_key is not None:
                made = credential_request_of(private_key.expanduser().read_bytes())
            elif self.files.staged_key.exists():
                # With the same code, the same key gets the certificate that was made for it.
                return credential_request_of(self.files.staged_key.read_bytes())
            else:
                made = new_credential_request()
            stage_key(self.files, made.private_key)
        except OSError as error:
            raise _unwritable(Path(error.filename or self._folder), error) from error
        return made

    def install(self, credential: IdentityCredential, trust_bundle: bytes) -> None:
        """Writes what was got."""
        from certd.client.renewal import learn_roots

        try:
            if not self.trust_bundle.exists():
                write(self.trust_bundle, trust_bundle, mode=0o644)
            # The server, known by now, may have another root from which it will issue next.
            learn_roots(self.trust_bundle, [root.pem for root in credential.system_roots])
            install(self.files, certificate_pem(credential.certificate.der).encode())
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def write_settings(self, address: str | None, *, identity: str) -> None:
        """Writes certctl.toml where there is none."""
        if self.settings.exists():
            return
        entries = {
            "address": address,
            "certificate": self.files.certificate.name,
            "private_key": self.files.private_key.name,
            "trust_bundle": self.trust_bundle.name,
            # Who belongs to a tenant means its resources by short names.
            "tenant": identity.split("/")[1] if identity.startswith("tenants/") else None,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in entries.items() if value is not None]
        text = "\n".join(
            ["# Where certctl finds the server and its credentials, written by certctl enroll.", *lines, ""]
        )
        try:
            write(self.settings, text.encode(), mode=0o600)
        except OSError as error:
            raise _unwritable(self.settings, error) from error


def _print(run: Invocation, credential: IdentityCredential, place: _Place) -> None:
    (newest, *_rest) = credential.identity.certificates
    card = [
        ("Identity", credential.identity.name),
        ("SPIFFE id", credential.identity.spiffe_id),
        ("Serial", newest.serial_number),
        ("Not after", output.time_text(newest.not_after_time)),
        ("Renew at", output.time_text(credential.renew_time)),
        ("Certificate", str(place.files.certificate)),
        ("Private key", str(place.files.private_key)),
        ("Trust bundle", str(place.trust_bundle)),
        ("Settings", str(place.settings)),
    ]
    output.print_resource(credential, run.output, card=card, pem=credential.certificate.pem)


def _read_code(path: str, run: Invocation) -> EnrollmentCode:
    text, warning = files.read_secret_line(path, longest=LONGEST, what="enrollment code")
    if warning is not None:
        run.tell(f"warning: {warning}")
    return parse_code(text)


def _key_sha256(path: str) -> bytes:
    data = files.read_csr(path)
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        if b"CERTIFICATE REQUEST-----" in data:
            key = x509.load_pem_x509_csr(data).public_key().public_bytes(*encoding)
        else:
            key = load_pem_public_key(data).public_bytes(*encoding)
    except ValueError as error:
        raise CertdError(Reason.FIELD_INVALID, f"{path} holds neither a public key nor a CSR as PEM") from error
    return hashlib.sha256(key).digest()


def _duration(value: timedelta | None) -> Duration | None:
    return None if value is None else duration(value)


def _unwritable(path: Path, error: OSError) -> CertdError:
    return CertdError(
        Reason.FIELD_INVALID, f"{path} cannot be read or written: {(error.strerror or str(error)).lower()}"
    )
