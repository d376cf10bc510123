"""The HTTPS edge against those who mean no good, or speak something else: limits, odd requests, other protocols."""

import http.client
import random
import re
import socket
import ssl
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.errors import CertdError, Reason
from certd.pki.credential_request import new_credential_request
from certd.pki.description import describe
from certd.pki.encoding import certificate_pem
from certd.web import device_server, server
from certd.web.device_server import serve_devices, tls_context
from certd.web.devices import device_application
from tests.devices.site import PASSPHRASE, WEB, Site
from tests.outside_parent import outside_authority

_PATH = f"/v1/{WEB}?format=pem"
_GET = f"GET {_PATH} HTTP/1.1\r\nHost: certd\r\n\r\n".encode()


@contextmanager
def tls(site: Site, who: str | None = "device") -> Iterator[ssl.SSLSocket]:
    context = site.context()
    if who is not None:
        context.load_cert_chain(site.folder / f"{who}.pem", site.folder / f"{who}.key")
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        yield connection


def to_the_end(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except (ConnectionResetError, ssl.SSLError):
        # The server did not read all that it was sent.
        pass
    return received


def asked(site: Site, raw: bytes, who: str | None = "device") -> bytes:
    """Sends bytes and returns what comes, until the server closes."""
    with tls(site, who) as connection:
        # Of what is too long the server does not wait for the end.
        with suppress(ConnectionError, ssl.SSLError):
            connection.sendall(raw)
        return to_the_end(connection)


def statuses(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


def _get(site: Site, method: str = "GET", path: str = _PATH, **headers: str) -> http.client.HTTPResponse:
    connection = site.connection("device")
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_other_methods_are_not_allowed(site: Site, method: str) -> None:
    response = _get(site, method)
    assert response.status == 405
    assert set((response.getheader("Allow") or "").split(", ")) == {"GET", "HEAD"}
    assert response.getheader("Content-Type") == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/healthz",
        "/v1",
        "/metrics",
        f"/v1/{WEB}/",
        f"/v1/{WEB}/versions/1",
        f"//v1/{WEB}",
        f"/v2/{WEB}",
        "/v1/tenants/default/managedCertificates/a%2fb",
        "/v1/tenants/../tenants/default/managedCertificates/web",
    ],
)
def test_what_is_not_there_is_not_found(site: Site, path: str) -> None:
    assert _get(site, path=path).status == 404


@pytest.mark.parametrize("part", ["%00", "WEB", "web%0d%0aX:y", "-", "%ff", "w" * 64])
def test_a_name_that_is_none_is_not_repeated(site: Site, part: str) -> None:
    assert _get(site, path=f"/v1/tenants/default/managedCertificates/{part}").status == 400


def test_a_long_path_is_refused(site: Site) -> None:
    assert _get(site, path=f"/v1/{'a' * 3000}").status == 404
    assert _get(site, path=f"/v1/tenants/{'a' * 3000}/managedCertificates/web").status == 414


def test_large_and_many_headers_are_refused(site: Site) -> None:
    large = "".join(f"X-{number}: {'y' * 200}\r\n" for number in range(90))
    many = "".join(f"X-{number}: y\r\n" for number in range(101))
    for headers in (large, many):
        raw = _GET.replace(b"\r\n\r\n", f"\r\nConnection: close\r\n{headers}\r\n".encode())
        assert statuses(asked(site, raw)) == [431]
    endless = b"GET / HTTP/1.1\r\nX: " + b"y" * (server.HEAD_BYTES + 70_000)
    assert statuses(asked(site, endless)) in ([400], [])
    assert statuses(asked(site, b"GET /" + b"a" * (server.HEAD_BYTES + 70_000))) in ([400], [])


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : z\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\r\n\r\n",
        b"\x00" * 64 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(site: Site, raw: bytes) -> None:
    received = asked(site, raw)
    assert statuses(received) in ([400], [505])
    assert b"Traceback" not in received


def test_http_1_0_is_not_served(site: Site) -> None:
    received = asked(site, f"GET {_PATH} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
    assert statuses(received) == [505]
    assert b"only HTTP/1.1" in received


@pytest.mark.parametrize(
    "body",
    [
        f"Content-Length: {len(_GET)}\r\n\r\n".encode() + _GET,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(_GET) + _GET + b"\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _GET,
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _GET,
        b"Content-Length: 00000\r\n\r\n",
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_request_hides_in_the_body_of_another(site: Site, method: str, body: bytes) -> None:
    received = asked(site, f"{method} {_PATH} HTTP/1.1\r\nHost: a\r\n".encode() + body)
    assert statuses(received) == [400]
    assert b"connection: close" in received.lower()


def test_requests_one_behind_the_other_are_answered_in_their_order(site: Site) -> None:
    last = _GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    raw = _GET + _GET.replace(b"/v1/", b"/v2/") + last
    assert statuses(asked(site, raw)) == [200, 404, 200]


def test_a_connection_serves_many_requests_with_its_identity(site: Site) -> None:
    connection = site.connection("device")
    for _ in range(3):
        connection.request("GET", _PATH)
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    connection.close()
    # The next connection has none, whoever came before it.
    assert statuses(asked(site, _GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), who=None)) == [401]


def test_upgrades_are_not_made(site: Site) -> None:
    for protocol in ("websocket", "h2c"):
        response = _get(site, Connection="Upgrade", Upgrade=protocol, Sec_WebSocket_Key="dGVzdA==")
        assert response.status == 200


def test_no_header_of_the_client_is_repeated(site: Site) -> None:
    answer = site.curl("nonsense-x", headers={"Host": "evil.example", "X-Forwarded-For": "192.0.2.9"})
    assert answer.status == 400
    assert b"evil" not in answer.body + repr(answer.headers).encode()


def test_a_forwarded_address_is_not_believed(site: Site) -> None:
    code = site.code(source_networks=("192.0.2.0/24",))
    answer = site.curl(
        "pem", who=None, code=code, headers={"X-Forwarded-For": "192.0.2.9", "Forwarded": "for=192.0.2.9"}
    )
    assert answer.status == 401


def test_a_defect_shows_an_id_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("correct-horse")

    monkeypatch.setattr(site.installed.core.downloads, "offer", fail)
    with structlog.testing.capture_logs() as logs:
        answer = site.curl("pkcs8")
    assert answer.outcome == (500, "INTERNAL")
    assert b"correct-horse" not in answer.body
    (line,) = [line for line in logs if line["event"] == "defect"]
    assert answer.json["error_id"] == line["error_id"]
    assert PASSPHRASE not in repr(logs)


def test_no_secret_is_logged(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    code = site.code()
    assert site.curl("pkcs8", who=None, code=code, passphrase="Geheimnis-7").status == 200
    assert site.curl("pkcs8", who=None, code=code, passphrase="Geheimnis-7").status == 401
    assert site.curl("pkcs8", passphrase="Geheimnis-7\x01").status == 400
    told = capfd.readouterr()
    assert "download refused" in told.out + told.err
    for secret in ("Geheimnis-7", code, code.partition("-")[2]):
        assert secret not in told.out + told.err


def test_plain_http_gets_no_answer(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain:
        plain.sendall(_GET)
        assert b"HTTP/" not in to_the_end(plain)
    assert _get(site).status == 200


def test_old_tls_gets_no_handshake(site: Site) -> None:
    context = site.context()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_know_the_client(site: Site, version: ssl.TLSVersion) -> None:
    context = site.context()
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(site.folder / "device.pem", site.folder / "device.key")
    connection = http.client.HTTPSConnection("127.0.0.1", site.port, timeout=20, context=context)
    connection.request("GET", _PATH)
    assert connection.getresponse().status == 200
    assert isinstance(connection.sock, ssl.SSLSocket)
    # No session that could be taken up again without looking at the certificate.
    assert connection.sock.session is None or not connection.sock.session.has_ticket
    connection.close()


def test_a_certificate_of_another_issuer_gets_no_answer(site: Site, tmp_path: Path) -> None:
    other = outside_authority("Other Root", now=site.installed.core.clock.now())
    (tmp_path / "c.pem").write_text(certificate_pem(other.der))
    key = other.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "k.pem").write_bytes(key)
    context = site.context()
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    connection = http.client.HTTPSConnection("127.0.0.1", site.port, timeout=20, context=context)
    # By TLS 1.3 the client learns of it when it waits for an answer.
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):  # noqa: PT012
        connection.request("GET", _PATH)
        connection.getresponse()
    connection.close()


def test_who_says_nothing_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_server, "_HANDSHAKE_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain:
        assert to_the_end(plain) == b""
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as plain:
        plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert b"HTTP" not in to_the_end(plain)


@pytest.mark.parametrize("beginning", [b"", b"GET /v1", _GET[:-2]])
def test_who_says_half_of_it_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.2)
    assert asked(site, beginning) == b""


def test_who_drips_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.3)
    ended = threading.Event()
    with tls(site) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")

        def drip() -> None:
            while not ended.wait(0.02):
                try:
                    connection.sendall(b"X: y\r\n")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert to_the_end(connection) == b""
        finally:
            ended.set()
            dripping.join(20)


def test_no_connection_lasts_for_ever(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy it is: each request would begin the time of an idle one anew."""
    monkeypatch.setattr(device_server, "_CONNECTION_SECONDS", 0.5)
    connection = site.connection("device")
    connection.auto_open = 0
    connection.connect()
    with pytest.raises((OSError, http.client.HTTPException)):  # noqa: PT012  # Whichever call it is.
        while True:
            connection.request("GET", _PATH)
            connection.getresponse().read()
    connection.close()


def test_the_server_certificate_is_replaced_without_a_restart(site: Site) -> None:
    files = site.installed.core.config.tls

    def shown() -> bytes:
        with tls(site, None) as connection:
            return connection.getpeercert(binary_form=True) or b""

    first, made = shown(), new_credential_request()
    issued = site.installed.identities.ensure_server(describe(first).subject_alternative_names, made.csr).certificate
    files.certificate.write_text(certificate_pem(issued))
    with pytest.raises(CertdError) as refused:
        site.installed.reload()
    assert refused.value.reason is Reason.FIELD_INVALID
    assert shown() == first
    files.private_key.write_bytes(made.private_key)
    site.installed.reload()
    assert shown() == issued != first


@pytest.mark.parametrize("which", ["certificate", "private_key"])
def test_files_that_cannot_work_are_named(site: Site, tmp_path: Path, which: str) -> None:
    files = site.installed.core.config.tls
    (tmp_path / "nonsense.pem").write_text("nonsense")
    wanted = {"certificate": files.certificate, "private_key": files.private_key} | {which: tmp_path / "nonsense.pem"}
    with pytest.raises(CertdError, match="belong to one another") as refused:
        tls_context(**wanted, client_roots=site.installed.system_root)
    assert refused.value.reason is Reason.FIELD_INVALID


def test_a_port_that_is_taken_is_named(site: Site) -> None:
    host, port = "127.0.0.1", site.port
    with pytest.raises(CertdError) as taken:
        serve_devices(
            device_application(site.installed.core.downloads),
            host=host,
            port=port,
            context=tls_context(
                site.installed.core.config.tls.certificate,
                site.installed.core.config.tls.private_key,
                client_roots=site.installed.system_root,
            ),
        )
    assert [violation.field for violation in taken.value.violations] == ["listen.devices"]


_PIECES = (
    b"GET", b"HEAD", b" ", b"/v1/", str(WEB).encode(), b"?format=", b"pem", b"pkcs8", b"&", b"%", b"%00", b" HTTP/1.1",
    b"\r\n", b"\n", b"\r", b"Host: a", b"Authorization: Bearer ", b"certddl1-", b"Certd-Passphrase: ", b"Accept: ",
    b"If-None-Match: ", b'W/"', b'"', b",", b";q=", b"Content-Length: ", b"Transfer-Encoding: chunked", b"0", b"\x00",
    b"\xff\xfe", b": ", b"\t", b"Connection: close", b"Certd-Reason: ", b"\xc3\xa4",
)  # fmt: skip


def _bent(draw: random.Random) -> bytes:
    """A request of somebody who may, with something wrong in it."""
    text = string.printable.encode()
    headers = [
        b"Host: a",
        b"Connection: close",
        b"Accept: " + bytes(draw.choices(text, k=draw.randrange(40))).replace(b"\r", b"").replace(b"\n", b""),
        b"If-None-Match: " + b"".join(draw.choices((b'W/"a"', b'"', b",", b"*", b"x"), k=draw.randrange(8))),
        b"Certd-Reason: " + bytes(draw.choices(range(32, 256), k=draw.randrange(20))),
    ]
    draw.shuffle(headers)
    path = _PATH.encode()[: draw.randrange(len(_PATH))] + b"".join(draw.choices((b"%", b"pem", b"a", b"=", b"?"), k=2))
    whole = b"GET " + (path if draw.random() < 0.5 else _PATH.encode()) + b" HTTP/1.1\r\n" + b"\r\n".join(headers)
    whole += b"\r\n\r\n"
    for _ in range(draw.randrange(3)):
        at = draw.randrange(len(whole))
        whole = whole[:at] + draw.choice(_PIECES) + whole[at + draw.randrange(4) :]
    return whole if draw.random() < 0.8 else b"".join(draw.choices(_PIECES, k=draw.randrange(1, 30))) + b"\r\n\r\n"


def test_nothing_that_is_sent_is_a_defect(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never ended is closed by its time; the seed is fixed, so that a failure comes again."""
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.2)
    draw = random.Random(20261130)
    seen: set[int] = set()
    with structlog.testing.capture_logs() as logs:
        for _ in range(80):
            raw = _bent(draw)
            with tls(site) as connection:
                connection.sendall(raw)
                try:
                    received = connection.recv(65536)
                except (ConnectionResetError, ssl.SSLError):
                    received = b""
            seen |= set(statuses(received))
            assert b"Traceback" not in received, raw
    assert 500 not in seen
    assert {200, 400} <= seen
    assert not [line for line in logs if line["log_level"] == "error"]
    monkeypatch.undo()
    assert _get(site).status == 200
