"""A server to which clients seal what they import, and the files that they import from."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from certd.client.messages import timestamp
from certd.pki.encoding import parse_certificates
from certd.pki.import_key import import_info, import_key_statement, open_private_key
from certd.pki.key_spec import public_key_der
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ImportKey
from certd.v1.x509_pb2 import ECDSA_WITH_SHA256, EncodedCertificate
from tests.certctl import described
from tests.fakes_server import FakeServer, Issued
from tests.imports import Pair, pair
from tests.outside_parent import outside_authority

SHOP = "tenants/default/managedCertificates/shop"
IMPORT_KEY = "tenants/default/importKeys/k0123456789abcdef"
NOW = datetime.now(UTC).replace(microsecond=0)
ROOT = outside_authority("Outside Root", now=NOW)
ISSUER = outside_authority("Outside Issuer", ROOT, now=NOW)
PASSPHRASE = "any word"


class Importing:
    """A server that has an import key of its own."""

    def __init__(self, fake: FakeServer, root: Issued) -> None:
        self._private_key = X25519PrivateKey.generate()
        self._root = root
        self._fake = fake
        self.answered = ManagedCertificate(
            name=SHOP, state=ManagedCertificate.ACTIVE, current_version=1, description=described()
        )
        fake.answer("GetImportKey", self.key())
        fake.answer("ImportManagedCertificate", lambda _request, _context: self.answered)

    def key(
        self,
        *,
        signer: Issued | None = None,
        certificate: Issued | None = None,
        expire_time: datetime = NOW + timedelta(days=30),
        told_expire_time: datetime | None = None,
        stated_id: str = "k0123456789abcdef",
        **changes: Any,
    ) -> ImportKey:
        public_key = self._private_key.public_key().public_bytes_raw()
        statement = import_key_statement(
            tenant="opaque", import_key_id=stated_id, public_key=public_key, expire_time=expire_time
        )
        signature = (signer or self._root).key.sign(statement, ec.ECDSA(hashes.SHA256()))
        told = (certificate or self._root).certificate
        fields: dict[str, Any] = {
            "name": IMPORT_KEY,
            "public_key": public_key,
            "statement": statement,
            "signature": signature,
            "signature_algorithm": ECDSA_WITH_SHA256,
            "authority_certificate": EncodedCertificate(der=told.public_bytes(Encoding.DER)),
            "expire_time": timestamp(told_expire_time or expire_time),
        }
        return ImportKey(**(fields | changes))

    def opened(self) -> bytes:
        """Returns the private key that came sealed, for the certificate and the policy that came with it."""
        (request,) = self._fake.requests("ImportManagedCertificate")
        assert request.sealed_private_key.import_key == IMPORT_KEY
        assert request.WhichOneof("private_key") == "sealed_private_key"
        assert request.export_policy != ManagedCertificate.EXPORT_POLICY_UNSPECIFIED
        (certificate,) = parse_certificates(request.certificate)
        info = import_info(
            self.key().statement,
            public_key=public_key_der(x509.load_der_x509_certificate(certificate).public_key()),
            exportable=request.export_policy == ManagedCertificate.EXPORTABLE,
        )
        return bytes(
            open_private_key(
                request.sealed_private_key.ciphertext, import_key=self._private_key.private_bytes_raw(), info=info
            )
        )


@pytest.fixture
def importing(fake: FakeServer, root: Issued) -> Importing:
    return Importing(fake, root)


@pytest.fixture
def shop() -> Pair:
    return pair(ISSUER, "shop.example.internal", "www.shop.example.internal", now=NOW)


class Files:
    """Writes what is imported into a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, content: bytes | str, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def of(self, shop: Pair) -> tuple[str | Path, ...]:
        return (
            *("--certificate", self("c.pem", shop.pem)),
            *("--private-key", self("k.pem", shop.key_pem)),
            *("--chain", self("ch.pem", shop.chain_pem)),
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def tool(*arguments: str | Path, stdin: bytes = b"") -> None:
    ended = subprocess.run([*map(str, arguments)], input=stdin, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()


def sealed_key(importing: Importing) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(importing.opened(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
