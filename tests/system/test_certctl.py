"""The examples of the pages, as a person types them, against a daemon with a real token."""

import json
import socket
import ssl
import stat
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import RunningDaemon

NAME = "www.example.internal"


def openssl(*arguments: str | Path) -> str:
    ended = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def must(daemon: RunningDaemon, *arguments: str | Path, stdin: bytes = b"") -> str:
    ended = daemon.certctl(*arguments, stdin=stdin)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@dataclass(frozen=True, slots=True)
class Authorities:
    """A root and an issuing authority."""

    daemon: RunningDaemon
    root_pem: Path


@pytest.fixture(scope="session")
def authorities(daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    root = must(
        daemon,
        *("authority", "create", "web-root", "--type", "root", "--key", "EC_P384"),
        *("--subject", "CN=Example Root,O=Example", "--lifetime", "10y"),
    )
    assert "CN=Example Root,O=Example" in root
    assert "ENABLED" in root
    must(
        daemon,
        *("authority", "create", "web-ca", "--type", "subordinate", "--issuer", "web-root", "--key", "EC_P256"),
        *("--subject", "CN=Example Issuing CA", "--lifetime", "5y"),
    )
    root_pem = tmp_path_factory.mktemp("roots") / "root.pem"
    root_pem.write_text(must(daemon, "authority", "get", "web-root", "-o", "pem"))
    return Authorities(daemon, root_pem)


@pytest.fixture
def csr(tmp_path: Path) -> Path:
    path = tmp_path / "req.pem"
    openssl(
        *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"),
        *(
            "-keyout",
            tmp_path / "req.key",
            "-out",
            path,
            "-subj",
            f"/CN={NAME}",
            "-addext",
            f"subjectAltName=DNS:{NAME}",
        ),
    )
    return path


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "pass.txt"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    return path


def test_a_certificate_from_a_csr_verifies(authorities: Authorities, csr: Path, tmp_path: Path) -> None:
    leaf, chain = tmp_path / "leaf.pem", tmp_path / "chain.pem"
    arguments = ("certificate", "issue", "--authority", "web-ca", "--csr", csr, "--lifetime", "90d")
    shown = must(authorities.daemon, *arguments, "--out", leaf, "--chain-out", chain)
    assert "(89 days left)" in shown
    openssl(
        "verify", "-x509_strict", "-CAfile", authorities.root_pem, "-untrusted", chain, "-verify_hostname", NAME, leaf
    )
    # What was issued is found again by its serial number, however it is written.
    name = json.loads(must(authorities.daemon, *arguments, "-o", "json"))["name"]
    serial = name.rsplit("/", 1)[-1]
    with_colons = ":".join(serial[i : i + 2] for i in range(0, len(serial), 2)).upper()
    found = json.loads(
        must(authorities.daemon, "certificate", "get", with_colons, "--authority", "web-ca", "-o", "json")
    )
    assert found["name"] == name
    listed = must(authorities.daemon, "certificate", "list", "--authority", "web-ca", "-o", "json").splitlines()
    assert name in {json.loads(line)["name"] for line in listed}
    table = must(authorities.daemon, "certificate", "list", "--limit", "1").splitlines()
    assert len(table) == 2
    assert table[1].endswith("89")


def test_a_repeated_request_id_returns_the_same_certificate(authorities: Authorities, csr: Path) -> None:
    arguments = ("certificate", "issue", "--authority", "web-ca", "--csr", csr, "-o", "json")
    request_id = ("--request-id", "3f6c1a52-7b64-4dc5-9a3b-6a9c3b7f1d20")
    first, second = (json.loads(must(authorities.daemon, *arguments, *request_id)) for _ in range(2))
    assert first["name"] == second["name"]
    other = authorities.daemon.certctl(*arguments, *request_id, "--lifetime", "1d")
    assert other.returncode == 1
    assert json.loads(other.stderr)["reason"] == "REQUEST_ID_REUSED"


def test_validate_only_changes_nothing(authorities: Authorities, csr: Path) -> None:
    def names() -> list[str]:
        lines = must(authorities.daemon, "certificate", "list", "--authority", "web-ca", "-o", "json").splitlines()
        return [json.loads(line)["name"] for line in lines]

    before = names()
    ended = authorities.daemon.certctl("certificate", "issue", "--authority", "web-ca", "--csr", csr, "--validate-only")
    assert ended.returncode == 0, ended.stderr
    assert "nothing was changed" in ended.stderr
    assert names() == before


def test_a_managed_certificate_is_requested_exported_and_served(
    authorities: Authorities, tmp_path: Path, passphrase_file: Path
) -> None:
    daemon = authorities.daemon
    requested = must(
        daemon, *("managed", "request", "web", "--authority", "web-ca", "--dns", NAME, "--dns", "example.internal")
    )
    assert "ACTIVE" in requested
    out = tmp_path / "out"
    arguments = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", "pkcs8")
    must(daemon, *arguments, "--out-dir", out)
    assert sorted(path.name for path in out.iterdir()) == ["cert.pem", "chain.pem", "key.pem"]
    assert stat.S_IMODE((out / "key.pem").stat().st_mode) == 0o600
    plain = tmp_path / "web.key"
    openssl("pkcs8", "-in", out / "key.pem", "-passin", f"file:{passphrase_file}", "-out", plain)
    openssl(
        "verify", "-x509_strict", "-CAfile", authorities.root_pem, "-untrusted", out / "chain.pem", out / "cert.pem"
    )
    assert serve_once(out, plain, authorities.root_pem) == must(daemon, "managed", "get", "web", "-o", "pem")
    # The server can encrypt too, when it is let see the passphrase; the key is the same.
    must(daemon, *arguments, "--out-dir", tmp_path / "server-side", "--server-side")
    again = tmp_path / "again.key"
    openssl(
        *("pkcs8", "-in", tmp_path / "server-side" / "key.pem", "-passin", f"file:{passphrase_file}", "-out", again)
    )
    assert again.read_bytes() == plain.read_bytes()
    assert "web" in {line.split()[0] for line in must(daemon, "managed", "list").splitlines()[1:]}


def serve_once(out: Path, key: Path, root: Path) -> str:
    """Serves the exported files in a TLS handshake, and returns the PEM that a client verified against the root."""
    together = out / "fullchain.pem"
    together.write_bytes((out / "cert.pem").read_bytes() + (out / "chain.pem").read_bytes())
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(together, key)
    client_side = ssl.create_default_context(cafile=str(root))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            connection, _ = listener.accept()
            with server_side.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        with (
            socket.create_connection(listener.getsockname(), 20) as connection,
            client_side.wrap_socket(connection, server_hostname=NAME) as secured,
        ):
            secured.sendall(b"x")
            der = secured.getpeercert(binary_form=True)
        server.join(20)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)


def test_a_key_that_may_not_leave_does_not(authorities: Authorities, tmp_path: Path, passphrase_file: Path) -> None:
    daemon = authorities.daemon
    must(daemon, *("managed", "request", "sealed", "--authority", "web-ca", "--dns", NAME, "--not-exportable"))
    out = tmp_path / "out"
    for more in ((), ("--server-side",)):
        ended = daemon.certctl(
            *("managed", "export", "sealed", "--passphrase-file", passphrase_file, "--out-dir", out, *more)
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("certctl: NOT_EXPORTABLE: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("authority", "get", "no-such"), "AUTHORITY_NOT_FOUND"),
        (("certificate", "get", "0a1b", "--authority", "web-ca"), "CERTIFICATE_NOT_FOUND"),
        (("managed", "get", "no-such"), "MANAGED_CERTIFICATE_NOT_FOUND"),
        (("authority", "create", "web-root", "--type", "root", "--subject", "CN=Again"), "AUTHORITY_EXISTS"),
        (("authority", "create", "Not_An_Id", "--type", "root", "--subject", "CN=a"), "FIELD_INVALID"),
        (("managed", "request", "bad", "--authority", "web-ca", "--dns", "not a name"), "NAME_NOT_ALLOWED"),
        (
            ("managed", "request", "long", "--authority", "web-ca", "--dns", NAME, "--lifetime", "20y"),
            "PROFILE_FORBIDS",
        ),
    ],
)
def test_a_refusal_has_its_reason(authorities: Authorities, arguments: tuple[str, ...], reason: str) -> None:
    ended = authorities.daemon.certctl(*arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"certctl: {reason}: ")
    assert len(ended.stderr.splitlines()) == 1
    failure = json.loads(authorities.daemon.certctl(*arguments, "-o", "json").stderr)
    assert failure["reason"] == reason


def test_a_broken_csr_is_refused(authorities: Authorities, csr: Path) -> None:
    pem = csr.read_bytes()
    for broken in (pem[: len(pem) // 2], b"no request"):
        ended = authorities.daemon.certctl(
            *("certificate", "issue", "--authority", "web-ca", "--csr", "-"), stdin=broken
        )
        assert ended.returncode == 1, broken
        assert ended.stderr.startswith("certctl: CSR_MALFORMED: ")


def test_the_server_tells_what_it_is(authorities: Authorities) -> None:
    info = json.loads(must(authorities.daemon, "server", "info", "-o", "json"))
    assert info["token"]["ready"] is True
    assert info["isolation"] == "SAME_USER"
    assert info["databaseEngine"] == "sqlite"
    assert "SAME_USER" in must(authorities.daemon, "server", "info")


def test_the_trust_bundle_has_the_roots_of_tenant_and_system(authorities: Authorities) -> None:
    daemon = authorities.daemon
    assert authorities.root_pem.read_text() in must(daemon, "server", "trust-bundle", "-o", "pem")
    system = must(daemon, "server", "trust-bundle", "-o", "pem", "--roots", "system")
    assert system == daemon.installation.trust_bundle.read_text()


def test_without_a_credential_of_this_server_nobody_is_served(authorities: Authorities, tmp_path: Path) -> None:
    key, certificate = tmp_path / "stranger.key", tmp_path / "stranger.pem"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-subj", "/CN=admin"),
        *("-keyout", key, "-out", certificate),
    )
    flags = ("--certificate", certificate, "--private-key", key)
    ended = authorities.daemon.certctl(*flags, "server", "info", "--timeout", "1s")
    assert ended.returncode == 1
    assert "client certificate" in ended.stderr
