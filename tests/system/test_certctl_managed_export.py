"""Exports in every format, as a person makes them, against a daemon with a real token."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import RunningDaemon
from tests.system.books import database_of, rows
from tests.system.test_certctl import must, openssl

NAME = "files.example.internal"
MANAGED = "tenants/default/managedCertificates/exported-files"


@pytest.fixture(scope="session")
def server(daemon: RunningDaemon) -> RunningDaemon:
    """The daemon, with a managed certificate that is issued."""
    root = ("--type", "root", "--key", "EC_P256", "--subject", "CN=Files Root")
    must(daemon, "authority", "create", "files-root", *root, "--lifetime", "10y")
    issuing = ("--type", "subordinate", "--issuer", "files-root", "--key", "EC_P256", "--subject", "CN=Files CA")
    must(daemon, "authority", "create", "files-ca", *issuing, "--lifetime", "5y")
    must(daemon, "managed", "request", "exported-files", "--authority", "files-ca", "--dns", NAME)
    return daemon


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "pass.txt"
    path.touch(mode=0o600)
    path.write_text("correct horse battery\n")
    return path


def exports(server: RunningDaemon) -> list[Mapping[str, Any]]:
    """Returns the details of every event of an export of it."""
    statement = (
        "SELECT details FROM events WHERE type = 'managed-certificate.exported' AND resource LIKE ? ORDER BY seq"
    )
    return [json.loads(row[0]) for row in rows(database_of(server.installation), statement, (f"{MANAGED}/%",))]


def managed(server: RunningDaemon) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(must(server, "managed", "get", "exported-files", "-o", "json"))
    return shown


def opened(out: Path, format_: str, passphrase: str) -> str:
    """Returns the private key that openssl finds in the files, as PEM."""
    match format_:
        case "pkcs12-modern" | "pkcs12-legacy":
            return openssl(
                *("pkcs12", "-in", out / "bundle.p12", "-noenc", "-nocerts", "-passin", passphrase),
                *("-out", out / "plain.pem"),
            ) + openssl("pkey", "-in", out / "plain.pem")
        case "der":
            return openssl("pkey", "-inform", "DER", "-in", out / "key.der", "-passin", passphrase)
    return openssl("pkey", "-in", out / "key.pem", "-passin", passphrase)


@pytest.mark.parametrize("way", [(), ("--server-side",)], ids=["here", "server-side"])
def test_every_format_holds_the_same_key_and_leaves_its_event(
    server: RunningDaemon, tmp_path: Path, passphrase_file: Path, way: tuple[str, ...]
) -> None:
    certificate = must(server, "managed", "get", "exported-files", "-o", "pem")
    (tmp_path / "cert.pem").write_text(certificate)
    public_key = openssl("x509", "-in", tmp_path / "cert.pem", "-noout", "-pubkey")
    before, keys = exports(server), set()
    forms = {
        "pkcs8": "PKCS8",
        "pkcs12-modern": "PKCS12_MODERN",
        "pkcs12-legacy": "PKCS12_LEGACY",
        "acm-compatible": "ACM_COMPATIBLE",
        "der": "PKCS8",
    }
    for format_ in forms:
        out = tmp_path / format_
        arguments = ("managed", "export", "exported-files", "--passphrase-file", passphrase_file, "--format", format_)
        must(server, *arguments, "--reason", format_, "--out-dir", out, *way)
        keys.add(opened(out, format_, f"file:{passphrase_file}"))
    (key,) = keys
    (tmp_path / "plain.pem").write_text(key)
    assert openssl("pkey", "-in", tmp_path / "plain.pem", "-pubout") == public_key
    told = exports(server)[len(before) :]
    assert [each["reason"] for each in told] == list(forms)
    assert [each.get("form") for each in told] == (list(forms.values()) if way else [None] * len(forms))
    assert {(each["protection"], each["version"]) for each in told} == {("passphrase" if way else "recipient", "1")}
    shown = managed(server)
    assert shown["exportTime"]
    assert shown["used"] is True


def test_certificates_alone_leave_no_event(server: RunningDaemon, tmp_path: Path, passphrase_file: Path) -> None:
    before, etag = exports(server), managed(server)["etag"]
    out = tmp_path / "out"
    must(server, "managed", "export", "exported-files", "--format", "pkcs7", "--out-dir", out)
    arguments = ("--format", "truststore", "--passphrase-file", passphrase_file, "--out-dir", out)
    must(server, "managed", "export", "exported-files", *arguments)
    assert sorted(path.name for path in out.iterdir()) == ["chain.p7b", "truststore.p12"]
    listed = openssl("pkcs7", "-inform", "DER", "-in", out / "chain.p7b", "-print_certs", "-noout")
    assert listed.count("subject=") == 3
    trusted = openssl("pkcs12", "-in", out / "truststore.p12", "-nokeys", "-passin", f"file:{passphrase_file}")
    (tmp_path / "trusted.pem").write_text(trusted)
    (tmp_path / "cert.pem").write_text(must(server, "managed", "get", "exported-files", "-o", "pem"))
    openssl("verify", "-CAfile", tmp_path / "trusted.pem", tmp_path / "cert.pem")
    assert (exports(server), managed(server)["etag"]) == (before, etag)


def test_the_passphrase_of_acm_has_their_bounds_on_the_server_too(server: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "pass.txt"
    path.touch(mode=0o600)
    arguments = (
        "managed",
        "export",
        "exported-files",
        "--passphrase-file",
        path,
        "--server-side",
        "--out-dir",
        tmp_path,
    )
    path.write_text("four")
    must(server, *arguments, "--format", "acm-compatible")
    assert openssl("pkey", "-in", tmp_path / "key.pem", "-passin", "pass:four", "-noout") == ""
    refused = server.certctl(*arguments, "--format", "pkcs12-modern")
    assert refused.returncode == 1
    assert "must be 8 to 1024 bytes long, and has 4" in refused.stderr
