"""A device gets a certificate by the line that certctl shows, and by an identity that it enrolled itself."""

import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.daemon import RunningDaemon, run_program
from tests.system.calls import must

PASSPHRASE = "correct horse"
WEB = "tenants/default/managedCertificates/device-web"


def _check(bundle: Path) -> None:
    key = load_pem_private_key(bundle.read_bytes(), PASSPHRASE.encode())
    leaf, *chain = x509.load_pem_x509_certificates(bundle.read_bytes())
    assert leaf.public_key() == key.public_key()
    leaf.verify_directly_issued_by(chain[0])


def test_a_device_fetches_what_it_may(daemon: RunningDaemon, tmp_path: Path) -> None:
    must(daemon, "authority", "create", "device-root", "--type", "root", "--subject", "CN=Device Root")
    must(daemon, "managed", "request", "device-web", "--authority", "device-root", "--dns", "device.example.internal")
    (tmp_path / "PASSPHRASE-FILE").write_text(f"{PASSPHRASE}\n")
    (tmp_path / "root.pem").write_bytes(daemon.installation.trust_bundle.read_bytes())

    def shell(script: str) -> None:
        subprocess.run(["sh", "-euc", script], cwd=tmp_path, check=True, timeout=120)

    # Without an identity: once, by a code.
    card = must(
        daemon, "managed", "create-download-code", "device-web", "--code-file", str(tmp_path / "web.code"),
        "--devices-address", daemon.devices, "--reason", "a new device",
    )  # fmt: skip
    shell("\n".join(line.removeprefix("Download").strip() for line in card.splitlines()[-2:]))
    _check(tmp_path / "bundle.pem")
    # With one: whenever it is another than before.
    must(daemon, "enrollment", "create-code", "device-1", "--code-file", str(tmp_path / "device.code"))
    must(daemon, "grant", "create", "tenants/default/identities/device-1", "exporter", "--scope", WEB)
    enrolled = run_program(
        "certctl", "enroll", "--address", daemon.enrollment, "--code-file", tmp_path / "device.code",
        "--credentials-dir", tmp_path,
    )  # fmt: skip
    assert enrolled.returncode == 0, enrolled.stderr
    fetch = Path(__file__).parents[2] / "clients" / "device" / "certd-fetch"
    line = (
        f"'{fetch}' -u 'https://{daemon.devices}/v1/{WEB}?format=pkcs8' -o fetched.pem -a root.pem"
        " -c identity.pem -k identity.key -p PASSPHRASE-FILE sh -c 'echo changed >>changes'"
    )
    shell(line)
    shell(line)
    _check(tmp_path / "fetched.pem")
    assert (tmp_path / "changes").read_text() == "changed\n"
    log = daemon.installation.log.read_text()
    assert PASSPHRASE not in log
    assert (tmp_path / "web.code").read_text().strip() not in log
