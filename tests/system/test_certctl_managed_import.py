"""Certificates that were made elsewhere, as a person imports them, against a daemon with a real token."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon
from tests.system.test_certctl import must, openssl

_LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
_AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An authority of openssl, below a root of its own."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    @property
    def chain(self) -> Path:
        return self.folder / "issuer.pem"

    def make(self, name: str, *dns_names: str, issuer: str | None, extensions: str, key: str = "P-256") -> Path:
        """Makes a certificate and its key, `{name}.pem` and `{name}.key`; signed by its own key without an issuer."""
        made, key_file, csr = (self.folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{key}", "-out", key_file)
        openssl("req", "-new", "-key", key_file, "-subj", f"/CN={name}", "-out", csr)
        names = "".join(f",DNS:{each}" for each in dns_names)[1:]
        config = self.folder / f"{name}.cnf"
        config.write_text(extensions + (f"subjectAltName={names}\n" if names else ""))
        by = ("-key", key_file) if issuer is None else self._by(issuer)
        openssl("x509", "-req", "-in", csr, "-days", "90", "-extfile", config, "-out", made, *by)
        return made

    def _by(self, issuer: str) -> tuple[str | Path, ...]:
        return ("-CA", self.folder / f"{issuer}.pem", "-CAkey", self.folder / f"{issuer}.key", "-CAcreateserial")

    def leaf(self, name: str, *dns_names: str, key: str = "P-256") -> tuple[str | Path, ...]:
        """Makes a certificate for servers; returns how it is imported."""
        made = self.make(name, *dns_names, issuer="issuer", extensions=_LEAF, key=key)
        return ("--certificate", made, "--private-key", made.with_suffix(".key"), "--chain", self.chain)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    made = Elsewhere(tmp_path_factory.mktemp("elsewhere"))
    made.make("root", issuer=None, extensions=_AUTHORITY)
    made.make("issuer", issuer="root", extensions=_AUTHORITY)
    return made


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "pass.txt"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


def exported_key(daemon: RunningDaemon, name: str, passphrase_file: Path, folder: Path) -> str:
    """Returns the public key of what is exported."""
    must(daemon, "managed", "export", name, "--passphrase-file", passphrase_file, "--out-dir", folder)
    return openssl("pkey", "-in", folder / "key.pem", "-passin", f"file:{passphrase_file}", "-pubout")


def public_key(certificate: str | Path) -> str:
    return openssl("x509", "-in", certificate, "-noout", "-pubkey")


def test_import_replace_and_return(
    daemon: RunningDaemon, elsewhere: Elsewhere, passphrase_file: Path, tmp_path: Path
) -> None:
    first = elsewhere.leaf("shop-1", "shop.example.internal", "www.shop.example.internal")
    checked = must(daemon, "managed", "import", "shop", *first, "--exportable", "--validate-only")
    assert "Would be" in checked
    assert daemon.certctl("managed", "get", "shop").returncode == 1

    out = must(daemon, "managed", "import", "shop", *first, "--exportable", "--label", "team=shop")
    for told in ("CN=issuer", "serverAuth", "version 1", "www.shop.example.internal", "team=shop"):
        assert told in out
    shown = json.loads(must(daemon, "managed", "get", "shop", "-o", "json"))
    assert (shown["type"], shown["state"], shown["currentVersion"]) == ("IMPORTED", "ACTIVE", "1")
    assert shown["importTime"]
    openssl("verify", "-CAfile", elsewhere.root, "-untrusted", elsewhere.chain, first[1])
    assert exported_key(daemon, "shop", passphrase_file, tmp_path / "1") == public_key(first[1])

    again = daemon.certctl("managed", "import", "shop", *first)
    assert again.returncode == 1
    assert "MANAGED_CERTIFICATE_EXISTS" in again.stderr

    second = elsewhere.leaf("shop-2", "shop.example.internal", "new.example.internal")
    out = must(daemon, "managed", "import", "shop", *second, "--replace")
    for told in ("version 1", "+ new.example.internal", "- www.shop.example.internal", "version 2"):
        assert told in out
    assert exported_key(daemon, "shop", passphrase_file, tmp_path / "2") == public_key(second[1])

    assert "version 1" in must(daemon, "managed", "import", "shop", "--rollback")
    assert exported_key(daemon, "shop", passphrase_file, tmp_path / "3") == public_key(first[1])
    must(daemon, "managed", "import", "shop", "--rollback", "--version", "2")
    pem = must(daemon, "managed", "get", "shop", "-o", "pem")
    (tmp_path / "current.pem").write_text(pem)
    assert public_key(tmp_path / "current.pem") == public_key(second[1])


def test_what_was_imported_as_not_exportable_stays_so(
    daemon: RunningDaemon, elsewhere: Elsewhere, passphrase_file: Path, tmp_path: Path
) -> None:
    """Each key is sealed by certctl for its policy, and the token process opens it for no other."""
    first, second = (elsewhere.leaf(f"safe-{number}", "safe.example.internal") for number in (1, 2))
    must(daemon, "managed", "import", "safe", *first)
    ended = daemon.certctl("managed", "import", "safe", *second, "--replace", "--exportable")
    assert ended.returncode == 1
    assert ended.stderr.startswith("certctl: FIELD_INVALID: export_policy")
    assert "NOT_EXPORTABLE" in must(daemon, "managed", "import", "safe", *second, "--replace")
    exporting = ("managed", "export", "safe", "--passphrase-file", passphrase_file, "--out-dir", tmp_path / "out")
    ended = daemon.certctl(*exporting)
    assert ended.returncode == 1
    assert ended.stderr.startswith("certctl: NOT_EXPORTABLE: ")


def test_what_consumers_would_lose_is_refused(daemon: RunningDaemon, elsewhere: Elsewhere) -> None:
    must(daemon, "managed", "import", "till", *elsewhere.leaf("till-1", "till.example.internal"))
    larger = elsewhere.leaf("till-2", "till.example.internal", key="P-384")
    ended = daemon.certctl("managed", "import", "till", *larger, "--replace")
    assert ended.returncode == 1
    assert ended.stderr.startswith("certctl: IMPORT_NOT_COMPATIBLE: ")
    shown = json.loads(must(daemon, "managed", "get", "till", "-o", "json"))
    assert shown["currentVersion"] == "1"


def test_a_repeated_import_makes_one(daemon: RunningDaemon, elsewhere: Elsewhere) -> None:
    arguments = ("managed", "import", "once", *elsewhere.leaf("once", "once.example.internal"), "-o", "json")
    request_id = ("--request-id", "7f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a22")
    first, second = (json.loads(must(daemon, *arguments, *request_id)) for _ in range(2))
    assert first["uid"] == second["uid"]
    assert second["currentVersion"] == "1"


def test_an_old_pkcs12_file_comes_in(
    daemon: RunningDaemon, elsewhere: Elsewhere, passphrase_file: Path, tmp_path: Path
) -> None:
    made = elsewhere.make("java", "java.example.internal", issuer="issuer", extensions=_LEAF)
    bundle = tmp_path / "java.p12"
    openssl(
        *("pkcs12", "-export", "-legacy", "-in", made, "-inkey", made.with_suffix(".key")),
        *("-certfile", elsewhere.chain, "-out", bundle, "-passout", f"file:{passphrase_file}"),
    )
    must(daemon, "managed", "import", "java", "--pkcs12", bundle, "--passphrase-file", passphrase_file, "--exportable")
    assert exported_key(daemon, "java", passphrase_file, tmp_path / "out") == public_key(made)


def test_neither_the_daemon_nor_its_database_saw_the_key(daemon: RunningDaemon, elsewhere: Elsewhere) -> None:
    """What certctl sends is sealed; what lies in the files of the daemon is too."""
    arguments = elsewhere.leaf("seen", "seen.example.internal")
    must(daemon, "managed", "import", "seen", *arguments)
    text = openssl("pkey", "-in", arguments[3], "-noout", "-text")
    number = bytes.fromhex("".join(text.split("priv:")[1].split("pub:")[0].split()).replace(":", ""))[-32:]
    for file in daemon.installation.data.rglob("*"):
        if file.is_file():
            assert number not in file.read_bytes(), file
