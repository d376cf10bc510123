"""certctl, run in the process of a test, with a home of its own that leads it to a server of ours."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certd.cli.certctl import run
from certd.client.messages import timestamp
from certd.v1.x509_pb2 import CertificateDescription, EncodedCertificate, SubjectAlternativeNames
from tests.fakes_server import FakeServer, Issued, make_leaf, write_credentials

CA = "tenants/default/authorities/web-ca"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of certctl ended."""

    code: int
    out: str
    err: str


class Certctl:
    """Runs certctl in this process."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *arguments: str | Path) -> Ended:
        code = run([str(argument) for argument in arguments])
        out, err = self._captured.readouterr()
        return Ended(code, out, err)


def settle(home: Path, fake: FakeServer, root: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a home whose settings lead to the server, and forgets what the environment says."""
    folder = home / ".config" / "certd"
    write_credentials(folder, make_leaf(root, "client.internal"), root)
    (folder / "certctl.toml").write_text(
        f'address = "{fake.address}"\n'
        'certificate = "client.pem"\nprivate_key = "client.key"\ntrust_bundle = "root.pem"\n'
    )
    for name in ("ADDRESS", "CERTIFICATE", "PRIVATE_KEY", "TRUST_BUNDLE", "TENANT", "CONFIG"):
        monkeypatch.delenv(f"CERTCTL_{name}", raising=False)
    monkeypatch.setenv("HOME", str(home))


def encoded(issued: Issued) -> EncodedCertificate:
    certificate = issued.certificate
    return EncodedCertificate(
        der=certificate.public_bytes(Encoding.DER), pem=certificate.public_bytes(Encoding.PEM).decode()
    )


def described(days: int = 89) -> CertificateDescription:
    return CertificateDescription(
        subject_text="CN=www.example.internal",
        serial_number="0a1b",
        not_after_time=timestamp(datetime.now(UTC) + timedelta(days=days, hours=1)),
        subject_alternative_names=SubjectAlternativeNames(dns_names=["a.example", "b.example", "c.example"]),
    )
