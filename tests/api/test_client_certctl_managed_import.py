"""certctl managed import against a server of our own: what it reads, shows, seals, and refuses before it sends."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.client.messages import timestamp
from certd.pki.import_key import import_key_statement, open_private_key
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ImportKey
from certd.v1.x509_pb2 import ECDSA_WITH_SHA256, EncodedCertificate
from certd.v1.x509_pb2 import Warning as WarningMessage
from tests.certctl import Certctl, described
from tests.fakes_server import Failing, FakeServer, Issued, make_root
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
        """Returns the private key that came sealed."""
        (request,) = self._fake.requests("ImportManagedCertificate")
        assert request.sealed_private_key.import_key == IMPORT_KEY
        assert request.WhichOneof("private_key") == "sealed_private_key"
        return bytes(
            open_private_key(
                request.sealed_private_key.ciphertext,
                import_key=self._private_key.private_bytes_raw(),
                statement=self.key().statement,
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


def test_it_seals_the_key_and_shows_what_comes_and_what_came(
    fake: FakeServer, certctl: Certctl, importing: Importing, shop: Pair, files: Files
) -> None:
    importing.answered.warnings.append(WarningMessage(field="certificate_chain", message="was put in order"))
    ended = certctl("managed", "import", "shop", *files.of(shop), "--label", "team=web", "--exportable")
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    assert (request.parent, request.managed_certificate_id) == ("tenants/default", "shop")
    assert request.certificate == shop.der
    assert request.certificate_chain == shop.chain_pem
    assert request.export_policy == ManagedCertificate.EXPORTABLE
    assert (dict(request.labels), request.replace, request.validate_only) == ({"team": "web"}, False, False)
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()
    assert isinstance(shop.key, ec.EllipticCurvePrivateKey)
    number = shop.key.private_numbers().private_value.to_bytes(32)
    assert not any(number in message.SerializeToString() for _, message in fake.calls)
    before, _, after = ended.out.partition("\n\n")
    for told in (
        "shop.example.internal\n",
        "www.shop.example.internal",
        "CN=Outside Issuer",
        "CN=Outside Root",
        "89 days left",
        "EC_P256",
        "ECDSA_WITH_SHA256",
        "serverAuth, digitalSignature",
    ):
        assert told in before
    assert "version 1" in after
    assert ended.err == "certctl: warning: certificate_chain: was put in order\n"


@pytest.mark.usefixtures("importing")
def test_nothing_is_said_of_export_unless_asked(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    assert certctl("managed", "import", "shop", *files.of(shop), "--validate-only").code == 0
    (request,) = fake.requests("ImportManagedCertificate")
    assert request.export_policy == ManagedCertificate.EXPORT_POLICY_UNSPECIFIED
    assert request.validate_only


@pytest.mark.usefixtures("importing")
def test_json_is_the_resource_alone(certctl: Certctl, shop: Pair, files: Files) -> None:
    ended = certctl("managed", "import", "shop", *files.of(shop), "-o", "json")
    assert json.loads(ended.out)["currentVersion"] == "1"
    assert ended.err == ""


Tampered = Callable[[Importing, Issued], ImportKey]


def with_another_key(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(public_key=X25519PrivateKey.generate().public_key().public_bytes_raw())


def with_another_statement(importing: Importing, _root: Issued) -> ImportKey:
    thief = import_key_statement(
        tenant="opaque",
        import_key_id="k0123456789abcdef",
        public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        expire_time=NOW + timedelta(days=30),
    )
    return importing.key(statement=thief)


def with_a_foreign_signature(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(signer=make_root("Thief"))


def under_a_foreign_root(importing: Importing, _root: Issued) -> ImportKey:
    thief = make_root("Test Root")
    return importing.key(signer=thief, certificate=thief)


def that_has_ended(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(expire_time=NOW - timedelta(seconds=1))


def that_ends_later_than_is_vouched_for(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(told_expire_time=NOW + timedelta(days=3000))


def of_another_tenant(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(name="tenants/other/importKeys/k0123456789abcdef")


def with_another_id(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(stated_id="k00000000000000ff")


def of_an_unknown_algorithm(importing: Importing, _root: Issued) -> ImportKey:
    return importing.key(signature_algorithm=0)


@pytest.mark.parametrize(
    "tampered",
    [
        with_another_key,
        with_another_statement,
        with_a_foreign_signature,
        under_a_foreign_root,
        that_has_ended,
        that_ends_later_than_is_vouched_for,
        of_another_tenant,
        with_another_id,
        of_an_unknown_algorithm,
    ],
    ids=lambda tampered: tampered.__name__,
)
def test_an_import_key_that_the_roots_do_not_vouch_for_is_sealed_to_by_nobody(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    root: Issued,
    shop: Pair,
    files: Files,
    tampered: Tampered,
) -> None:
    fake.answer("GetImportKey", tampered(importing, root))
    ended = certctl("managed", "import", "shop", *files.of(shop))
    assert ended.code == 1
    assert ended.err.startswith("certctl: ANSWER_INCONSISTENT: the import key of tenants/default ")
    assert "Nothing was sent" in ended.err
    assert not fake.requests("ImportManagedCertificate")


@pytest.mark.usefixtures("importing")
def test_replace_shows_what_changes(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    coming = pair(
        ROOT,
        "shop.example.internal",
        "new.example.internal",
        now=NOW,
        ends=timedelta(days=200),
        extended=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    )
    found = ManagedCertificate(name=SHOP, current_version=3, certificate=EncodedCertificate(der=shop.der))
    fake.answer("GetManagedCertificate", found)
    ended = certctl("managed", "import", "shop", *files.of(coming), "--replace")
    assert ended.code == 0, ended.err
    assert fake.requests("ImportManagedCertificate")[0].replace
    lines = [line.split(maxsplit=2) for line in ended.out.splitlines()]
    flat = "\n".join(" ".join(words) for words in lines)
    for told in (
        "Replaces version 3",
        "Names change + new.example.internal",
        "- www.shop.example.internal",
        "Days change 89 days left → 199 days left",
        "Key changes to another key, EC_P256 too",
        "Issuer changes CN=Outside Issuer → CN=Outside Root",
        "Usages change + clientAuth",
    ):
        assert told in flat, flat


@pytest.mark.usefixtures("importing")
def test_replace_says_what_stays(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    found = ManagedCertificate(name=SHOP, current_version=3, certificate=EncodedCertificate(der=shop.der))
    fake.answer("GetManagedCertificate", found)
    out = certctl("managed", "import", "shop", *files.of(shop), "--replace").out
    flat = "\n".join(" ".join(line.split()) for line in out.splitlines())
    for told in ("Names change no", "Key changes no, it is the same key", "Issuer changes no", "Usages change no"):
        assert told in flat


def test_roll_back(fake: FakeServer, certctl: Certctl) -> None:
    answer = ManagedCertificate(name=SHOP, state=ManagedCertificate.ACTIVE, current_version=2)
    fake.answer("RollBackManagedCertificate", answer)
    ended = certctl("managed", "import", "shop", "--rollback")
    assert ended.code == 0
    assert f"{SHOP}, version 2" in ended.out
    certctl("managed", "import", "shop", "--rollback", "--version", "1")
    requests = fake.requests("RollBackManagedCertificate")
    assert [(request.name, request.version) for request in requests] == [(SHOP, 0), (SHOP, 1)]
    assert all(request.request_id for request in requests)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--certificate and --private-key"),
        (("--certificate", "c.pem"), "--certificate and --private-key"),
        (("--certificate", "c.pem", "--private-key", "k.pem", "--version", "2"), "--rollback"),
        (
            ("--certificate", "c.pem", "--private-key", "k.pem", "--passphrase-file", "p"),
            "--private-key-passphrase-file",
        ),
        (("--pkcs12", "x.p12", "--chain", "ch.pem"), "--pkcs12"),
        (("--certificate", "-", "--private-key", "-"), "standard input"),
        (("--rollback", "--replace"), "--rollback"),
        (("--rollback", "--validate-only"), "--validate-only"),
        (("--rollback", "--certificate", "c.pem"), "--rollback"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_read(
    fake: FakeServer, certctl: Certctl, arguments: tuple[str, ...], told: str
) -> None:
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 2
    assert told in ended.err
    assert not fake.calls


@pytest.mark.usefixtures("importing")
def test_a_full_chain_file_needs_no_other(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    fullchain = files("fullchain.pem", shop.pem + shop.chain_pem)
    key = files("k.pem", shop.key_pem)
    ended = certctl("managed", "import", "shop", "--certificate", fullchain, "--private-key", key)
    assert ended.code == 0
    assert "those after it (2) are its chain" in ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    assert (request.certificate, request.certificate_chain) == (shop.der, shop.chain_pem)
    chain = files("ch.pem", shop.chain_pem)
    refused = certctl("managed", "import", "shop", "--certificate", fullchain, "--private-key", key, "--chain", chain)
    assert refused.code == 1
    assert str(fullchain) in refused.err


def test_der_files_are_read_too(certctl: Certctl, importing: Importing, files: Files) -> None:
    shop = pair(ROOT, "shop.example.internal", now=NOW)
    ended = certctl(
        *("managed", "import", "shop", "--certificate", files("c.der", shop.der)),
        *("--private-key", files("k.der", shop.key_der), "--chain", files("ch.der", ROOT.der)),
    )
    assert ended.code == 0, ended.err
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


@pytest.mark.usefixtures("importing")
def test_files_that_do_not_fit_are_named_with_the_remedy(
    fake: FakeServer, certctl: Certctl, shop: Pair, files: Files
) -> None:
    other = pair(ISSUER, "other.example.internal", now=NOW)
    cert, key, chain = files("c.pem", shop.pem), files("k.pem", shop.key_pem), files("ch.pem", shop.chain_pem)
    foreign = files("o.pem", other.key_pem)
    both = files("both.pem", shop.key_pem + shop.pem)
    empty = files("empty.pem", b"")
    missing = files.folder / "missing.pem"
    big = files("big.pem", b" " * (17 << 10))
    for certificate, private_key, expected in (
        (cert, foreign, (f"IMPORT_KEY_MISMATCH: the private key in {foreign}", str(cert))),
        (both, key, (f"FIELD_INVALID: {both} holds a private key", "--private-key")),
        (empty, key, ("IMPORT_NOT_PEM", str(empty))),
        (key, key, (str(key), "--private-key")),
        (cert, cert, (str(cert),)),
        (cert, empty, (str(empty),)),
        (missing, key, (f"the certificate file {missing} cannot be read",)),
        (cert, missing, (f"the private key file {missing} cannot be read",)),
        (cert, big, (str(big), "16384")),
    ):
        ended = certctl(
            "managed", "import", "shop", "--certificate", certificate, "--private-key", private_key, "--chain", chain
        )
        assert ended.code == 1, (certificate, private_key)
        for told in expected:
            assert told in ended.err, ended.err
    assert not fake.calls


@pytest.mark.usefixtures("importing")
def test_a_key_that_others_can_read_is_told(certctl: Certctl, shop: Pair, files: Files) -> None:
    arguments = files.of(shop)
    (files.folder / "k.pem").chmod(0o644)
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 0
    assert f"chmod 600 {files.folder / 'k.pem'}" in ended.err


@pytest.mark.parametrize(
    "encrypt",
    [
        ("pkcs8", "-topk8"),
        ("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-provider", "legacy", "-provider", "default"),
        ("pkcs8", "-topk8", "-outform", "DER"),
        ("ec", "-aes256"),
    ],
    ids=["pkcs8", "pbes1", "der", "traditional"],
)
def test_an_encrypted_key_is_opened_here(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    shop: Pair,
    files: Files,
    encrypt: tuple[str, ...],
) -> None:
    arguments = files.of(shop)
    plain, encrypted = files("plain.pem", shop.key_pem), files.folder / "k.pem"
    tool("openssl", *encrypt, "-in", plain, "-out", encrypted, "-passout", f"pass:{PASSPHRASE}")
    missing = certctl("managed", "import", "shop", *arguments)
    assert missing.code == 1
    assert f"{encrypted} is encrypted" in missing.err
    assert "--private-key-passphrase-file" in missing.err
    wrong = files("wrong.txt", "another\n")
    refused = certctl("managed", "import", "shop", *arguments, "--private-key-passphrase-file", wrong)
    assert refused.code == 1
    assert f"{encrypted} does not open" in refused.err
    assert not fake.requests("ImportManagedCertificate")
    right = files("right.txt", f"{PASSPHRASE}\n")
    ended = certctl("managed", "import", "shop", *arguments, "--private-key-passphrase-file", right)
    assert ended.code == 0, ended.err
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()
    assert not any(PASSPHRASE.encode() in message.SerializeToString() for _, message in fake.calls)


@pytest.mark.usefixtures("importing")
def test_a_passphrase_that_is_not_needed_is_told(certctl: Certctl, shop: Pair, files: Files) -> None:
    arguments = (*files.of(shop), "--private-key-passphrase-file", files("p.txt", "x\n"))
    ended = certctl("managed", "import", "shop", *arguments)
    assert ended.code == 0
    assert "k.pem is not encrypted" in ended.err


def self_signed(files: Files, key_file: Path) -> Path:
    certificate = files.folder / "self.pem"
    subject = ("-subj", "/CN=shop.example.internal", "-addext", "subjectAltName=DNS:shop.example.internal")
    tool("openssl", "req", "-x509", "-new", "-key", key_file, "-days", "30", *subject, "-out", certificate)
    return certificate


def test_a_key_of_ssh_keygen(fake: FakeServer, certctl: Certctl, importing: Importing, files: Files) -> None:
    ours = files.folder / "id_ecdsa"
    tool("ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", ours)
    assert ours.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    copy = files("copy", ours.read_bytes())
    tool("ssh-keygen", "-q", "-p", "-m", "PKCS8", "-N", "", "-P", "", "-f", copy)
    certificate = self_signed(files, copy)
    ended = certctl("managed", "import", "shop", "--certificate", certificate, "--private-key", ours)
    assert ended.code == 0, ended.err
    spki = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    assert sealed_key(importing).public_key() == spki
    tool("ssh-keygen", "-q", "-p", "-N", "five5", "-P", "", "-f", ours)
    fake.calls.clear()
    passphrase = files("p.txt", "five5\n")
    ended = certctl(
        *("managed", "import", "shop", "--certificate", certificate, "--private-key", ours),
        *("--private-key-passphrase-file", passphrase),
    )
    # The library that opens them is not among ours; the way around it is told.
    assert ended.code == 1
    assert "ssh-keygen -p -m PKCS8" in ended.err
    assert not fake.calls


def pkcs12_by_openssl(files: Files, shop: Pair, target: Path) -> None:
    key, cert, chain = files("k.pem", shop.key_pem), files("c.pem", shop.pem), files("ch.pem", shop.chain_pem)
    tool(
        *("openssl", "pkcs12", "-export", "-inkey", key, "-in", cert, "-certfile", chain, "-out", target),
        *("-passout", f"pass:{PASSPHRASE}"),
    )


def pkcs12_of_old_by_openssl(files: Files, shop: Pair, target: Path) -> None:
    key, cert, chain = files("k.pem", shop.key_pem), files("c.pem", shop.pem), files("ch.pem", shop.chain_pem)
    tool(
        *("openssl", "pkcs12", "-export", "-legacy", "-inkey", key, "-in", cert, "-certfile", chain, "-out", target),
        *("-passout", f"pass:{PASSPHRASE}"),
    )


def pkcs12_by_certtool(files: Files, shop: Pair, target: Path) -> None:
    key, cert = files("k.pem", shop.key_pem), files("c.pem", shop.pem + shop.chain_pem)
    tool(
        *("certtool", "--to-p12", "--load-privkey", key, "--load-certificate", cert, "--outder", "--outfile", target),
        *("--p12-name", "shop", "--password", PASSPHRASE),
    )


def pkcs12_by_keytool(files: Files, shop: Pair, target: Path) -> None:
    source = files.folder / "source.p12"
    pkcs12_by_openssl(files, shop, source)
    tool(
        *("keytool", "-importkeystore", "-noprompt", "-srckeystore", source, "-srcstoretype", "PKCS12"),
        *("-srcstorepass", PASSPHRASE, "-destkeystore", target, "-deststoretype", "PKCS12"),
        *("-deststorepass", PASSPHRASE),
    )


@pytest.mark.parametrize(
    "make",
    [pkcs12_by_openssl, pkcs12_of_old_by_openssl, pkcs12_by_certtool, pkcs12_by_keytool],
    ids=lambda make: make.__name__,
)
def test_a_pkcs12_file_has_all_three(
    fake: FakeServer,
    certctl: Certctl,
    importing: Importing,
    shop: Pair,
    files: Files,
    make: Callable[[Files, Pair, Path], None],
) -> None:
    bundle = files.folder / "shop.p12"
    make(files, shop, bundle)
    passphrase = files("p.txt", f"{PASSPHRASE}\n")
    ended = certctl("managed", "import", "shop", "--pkcs12", bundle, "--passphrase-file", passphrase)
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    # In order, whatever the order in the file.
    assert (request.certificate, request.certificate_chain) == (shop.der, shop.chain_pem)
    assert sealed_key(importing).private_numbers() == shop.key.private_numbers()


def test_a_pkcs12_file_of_two_entries_gives_one_and_says_what_it_leaves(
    fake: FakeServer, certctl: Certctl, importing: Importing, files: Files
) -> None:
    store = files.folder / "two.p12"
    for alias in ("one", "two"):
        tool(
            *("keytool", "-genkeypair", "-alias", alias, "-keyalg", "EC", "-groupname", "secp256r1"),
            *("-dname", f"CN={alias}.example.internal", "-validity", "30"),
            *("-storetype", "PKCS12", "-keystore", store, "-storepass", "changeit"),
        )
    passphrase = files("p.txt", "changeit\n")
    ended = certctl("managed", "import", "shop", "--pkcs12", store, "--passphrase-file", passphrase)
    assert ended.code == 0, ended.err
    (request,) = fake.requests("ImportManagedCertificate")
    imported = x509.load_der_x509_certificate(request.certificate)
    assert sealed_key(importing).public_key() == imported.public_key()
    assert not request.certificate_chain
    (note,) = ended.err.splitlines()
    left = {"CN=one.example.internal", "CN=two.example.internal"} - {imported.subject.rfc4514_string()}
    assert left.pop() in note


@pytest.mark.usefixtures("importing")
def test_a_pkcs12_file_that_does_not_open_says_why(
    fake: FakeServer, certctl: Certctl, shop: Pair, files: Files
) -> None:
    bundle = files.folder / "shop.p12"
    pkcs12_by_openssl(files, shop, bundle)
    wrong = files("w.txt", "another\n")
    keyless = files.folder / "keyless.p12"
    tool(
        *("openssl", "pkcs12", "-export", "-nokeys", "-in", files("c.pem", shop.pem), "-out", keyless),
        *("-passout", "pass:another"),
    )
    pem = files("k.pem", shop.key_pem)
    for file, passphrase, told in (
        (bundle, wrong, "does not open with the passphrase"),
        (bundle, None, "--passphrase-file"),
        (pem, wrong, "is no PKCS#12 file"),
        (keyless, wrong, "holds no private key"),
    ):
        more = () if passphrase is None else ("--passphrase-file", passphrase)
        ended = certctl("managed", "import", "shop", "--pkcs12", file, *more)
        assert ended.code == 1
        assert str(file) in ended.err
        assert told in ended.err
    assert not fake.calls


@pytest.mark.usefixtures("importing")
def test_what_the_server_refuses_is_told(fake: FakeServer, certctl: Certctl, shop: Pair, files: Files) -> None:
    fake.answer(
        "ImportManagedCertificate",
        Failing(
            code=grpc.StatusCode.ALREADY_EXISTS,
            reason="MANAGED_CERTIFICATE_EXISTS",
            message="it exists already: say `replace` to import a new version of it",
        ),
    )
    ended = certctl("managed", "import", "shop", *files.of(shop))
    assert ended.code == 1
    assert ended.err.startswith("certctl: MANAGED_CERTIFICATE_EXISTS: ")
