"""What was exported serves in real handshakes, which clients of three TLS libraries verify against the root."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from certd.pki.key_spec import KeySpec
from tests.interop.hierarchy import HOST, WILDCARD_HOST, Hierarchy, run
from tests.interop.server import serving

GNUTLS_CLIENT = shutil.which("gnutls-cli")


@pytest.fixture(scope="module")
def port(hierarchy: Hierarchy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(hierarchy.exported, tmp_path_factory.mktemp("tls")) as listening:
        yield listening


def openssl(hierarchy: Hierarchy, port: int, *, host: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    ended = run(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", host, "-verify_hostname", host),
        *("-CAfile", hierarchy.root, "-verify_return_error", "-x509_strict", "-no-CApath"),
        *options,
    )
    return ended.returncode, ended.stdout


def test_openssl_verifies_the_server(hierarchy: Hierarchy, port: int) -> None:
    for version in ("-tls1_3", "-tls1_2"):
        code, output = openssl(hierarchy, port, host=HOST, options=(version,))
        assert code == 0, output
        assert "Verify return code: 0 (ok)" in output
    code, output = openssl(hierarchy, port, host="example.internal")
    assert code != 0
    assert "hostname mismatch" in output.lower()


def python(root: Path, port: int, *, host: str) -> bytes:
    context = ssl.create_default_context(cafile=str(root))
    # The default from Python 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = secured.recv(16)
        certificate = secured.getpeercert(binary_form=True)
    assert answer.startswith(b"HTTP/1.0 200")
    assert certificate is not None
    return certificate


def test_python_verifies_the_server_and_its_name(hierarchy: Hierarchy, port: int) -> None:
    expected = ssl.PEM_cert_to_DER_cert(hierarchy.exported.certificate.read_text())
    assert python(hierarchy.root, port, host=HOST) == expected
    assert python(hierarchy.root, port, host=WILDCARD_HOST) == expected
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        python(hierarchy.root, port, host="example.internal")


def test_python_refuses_the_server_without_its_root(hierarchy: Hierarchy, port: int) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        python(hierarchy.leaves[KeySpec.EC_P256], port, host=HOST)


@pytest.mark.skipif(GNUTLS_CLIENT is None, reason="there is no gnutls-cli on this machine")
def test_gnutls_verifies_the_server(hierarchy: Hierarchy, port: int) -> None:
    for host, code in ((HOST, 0), ("example.internal", 1)):
        ended = run(
            *(str(GNUTLS_CLIENT), "--logfile=/dev/null", f"--port={port}", f"--x509cafile={hierarchy.root}"),
            *(f"--sni-hostname={host}", f"--verify-hostname={host}", "127.0.0.1"),
        )
        assert ended.returncode == code, ended.stdout
