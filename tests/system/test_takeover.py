"""An authority of `openssl ca` taken over: its key imported into the token, its index and its CRL into the books."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509

from tests.daemon import Installation, RunningDaemon, running
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("softhsm2-util") is None, reason="imports a key with SoftHSM's own tool")

_CONFIGURATION = """
[ca]
default_ca = ours
[ours]
dir = .
database = index.txt
new_certs_dir = newcerts
serial = serial
crlnumber = crlnumber
certificate = root.pem
private_key = root.key
default_md = sha256
default_days = 90
default_crl_days = 7
policy = any
unique_subject = no
crl_extensions = crl_ext
[any]
commonName = supplied
[crl_ext]
authorityKeyIdentifier = keyid
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture(name="old", scope="module")
def old_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three certificates, of which the second is revoked, the last without its file, and a CRL."""
    folder = tmp_path_factory.mktemp("openssl-ca")
    (folder / "newcerts").mkdir()
    (folder / "openssl.cnf").write_text(_CONFIGURATION)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("1000\n")
    (folder / "crlnumber").write_text("41\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(folder, "req", "-x509", *key, "-keyout", "root.key", "-out", "root.pem", "-days", "3650",
             "-subj", "/CN=Old Root", "-config", "openssl.cnf", "-extensions", "root")  # fmt: skip
    for name in ("good", "bad", "gone"):
        _openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        _openssl(folder, "ca", "-config", "openssl.cnf", "-batch", "-in", f"{name}.csr", "-out", f"{name}.pem")
    for name, reason in (("bad", "superseded"), ("gone", "keyCompromise")):
        _openssl(folder, "ca", "-config", "openssl.cnf", "-revoke", f"{name}.pem", "-crl_reason", reason)
    _openssl(folder, "ca", "-config", "openssl.cnf", "-gencrl", "-out", "last.crl")
    (folder / "newcerts" / "1002.pem").unlink()
    return folder


@pytest.fixture(name="daemon")
def served(installation: Installation, old: Path) -> Iterator[RunningDaemon]:
    data = installation.data
    pin = (data / "token-pin").read_text().strip()
    subprocess.run(
        ["softhsm2-util", "--import", old / "root.key", "--token", "certd", "--label", "old", "--id", "a1b2",
         "--pin", pin],
        env={"SOFTHSM2_CONF": str(data / "token" / "softhsm2.conf"), "PATH": "/usr/bin:/bin"},
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with running(installation) as daemon:
        yield daemon


def _certctl(daemon: RunningDaemon, *words: str | Path) -> str:
    ended = daemon.certctl(*words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _crl(daemon: RunningDaemon, uid: str, length: int) -> x509.CertificateRevocationList | None:
    """Returns the CRL that is published if it has so many entries."""
    try:
        with urllib.request.urlopen(f"http://{daemon.http}/crl/{uid}/1.crl", timeout=20) as answer:
            crl = x509.load_der_x509_crl(answer.read())
    except urllib.error.HTTPError as error:
        # The first one is signed a moment after the adoption.
        if error.code != HTTPStatus.NOT_FOUND:
            raise
        return None
    return crl if len(crl) == length else None


def test_it_goes_on_here_where_it_ended_there(daemon: RunningDaemon, old: Path) -> None:
    adoption = ("authority", "adopt", "old", "--key-id", "a1b2", "--certificate", old / "root.pem")
    uid = json.loads(_certctl(daemon, *adoption, "-o", "json"))["uid"]
    index = ("authority", "import-issued", "old", "--format", "openssl-index", old / "index.txt")
    taken = (*index, "--certificates", old / "newcerts", "--crl", old / "last.crl", "-o", "json")
    assert json.loads(_certctl(daemon, *taken, "--validate-only"))["importedCount"] == 3
    assert json.loads(_certctl(daemon, *taken)) == {"importedCount": 3}
    assert json.loads(_certctl(daemon, *taken)) == {"unchangedCount": 3}
    before = x509.load_pem_x509_crl((old / "last.crl").read_bytes())
    crl = eventually(lambda: _crl(daemon, uid, len(before)), within=60)
    assert {(one.serial_number, one.revocation_date_utc) for one in crl} == {
        (one.serial_number, one.revocation_date_utc) for one in before
    }
    assert crl.issuer == before.issuer
    assert _number(crl) > _number(before)
    # What the old CA issued is revoked here, and openssl finds it on the new CRL.
    _certctl(daemon, "certificate", "revoke", "1000", "--authority", "old", "--reason", "superseded", "--yes")
    revoked = eventually(lambda: _crl(daemon, uid, 3), within=60)
    assert revoked.get_revoked_certificate_by_serial_number(0x1000) is not None


def _number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
