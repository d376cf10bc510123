"""The keys of an issuer, fetched from a real one over HTTPS."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certd.errors import CertdError, Reason
from certd.outbound import jwks
from certd.outbound.jwks import KeySet, fetch, parse_keys
from tests.fakes import FakeClock
from tests.oidc import EC_KEY, ED_KEY, RSA_KEY, Issuer, jwk, running_issuer, send
from tests.waiting import eventually


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with running_issuer(tmp_path) as running:
        running.keys = [jwk(EC_KEY, "ec"), jwk(RSA_KEY, "rsa", alg="RS256", use="sig")]
        yield running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys(issuer: Issuer, clock: FakeClock) -> Iterator[KeySet]:
    made = KeySet(issuer.jwks_url, issuer.ca_file, clock=clock)
    made.start()
    yield made
    made.stop()


def _refusal(keys: KeySet, key_id: str) -> str:
    with pytest.raises(CertdError) as raised:
        keys.key(key_id)
    assert raised.value.reason is Reason.CREDENTIAL_INVALID
    return raised.value.message


def test_keys_are_found_by_their_ids(keys: KeySet) -> None:
    assert keys.key("ec").key.public_numbers() == EC_KEY.public_key().public_numbers()  # type: ignore[union-attr]  # Its own.
    assert keys.key("ec").fits("ES256")
    assert not keys.key("ec").fits("ES384")
    assert not keys.key("ec").fits("RS256")
    assert keys.key("rsa").fits("RS256")
    assert not keys.key("rsa").fits("PS256"), "the issuer says RS256"


def test_an_unknown_key_is_fetched_once_a_minute(keys: KeySet, issuer: Issuer, clock: FakeClock) -> None:
    keys.key("ec")
    clock.advance(timedelta(minutes=2))
    before = issuer.requests
    for _ in range(20):
        assert "does not publish" in _refusal(keys, "new")
    assert issuer.requests == before + 1
    issuer.keys.append(jwk(ED_KEY, "new"))
    _refusal(keys, "new")
    clock.advance(timedelta(minutes=1))
    assert keys.key("new").fits("EdDSA")
    assert issuer.requests == before + 2


def test_keys_are_fetched_again_and_withdrawn_ones_go(keys: KeySet, issuer: Issuer, clock: FakeClock) -> None:
    keys.key("ec")
    before = issuer.requests
    issuer.keys = [jwk(RSA_KEY, "rsa")]
    clock.advance(jwks.REFRESH)
    keys.wake()
    eventually(lambda: issuer.requests > before)
    eventually(lambda: keys._known.since == clock.now())
    _refusal(keys, "ec")
    assert keys.key("rsa").fits("RS256")


def test_keys_that_cannot_be_fetched_are_used_for_an_hour(keys: KeySet, issuer: Issuer, clock: FakeClock) -> None:
    keys.key("ec")
    issuer.answer = lambda handler: send(handler, b"", 503)
    clock.advance(jwks.STALE)
    before = issuer.requests
    keys.wake()
    eventually(lambda: issuer.requests > before)
    assert keys.key("ec").fits("ES256")
    clock.advance(timedelta(seconds=1))
    assert "cannot be fetched" in _refusal(keys, "ec")
    issuer.answer = None
    clock.advance(jwks.BETWEEN_FAILURES)
    keys.wake()
    eventually(lambda: keys._known.since == clock.now())
    assert keys.key("ec").fits("ES256")


def test_before_the_first_fetch_nobody_is_let_in(issuer: Issuer, clock: FakeClock) -> None:
    issuer.answer = lambda handler: send(handler, b"", 500)
    keys = KeySet(issuer.jwks_url, issuer.ca_file, clock=clock)
    keys.start()
    try:
        assert "cannot be fetched" in _refusal(keys, "ec")
    finally:
        keys.stop()


def test_a_defect_does_not_end_fetching(clock: FakeClock) -> None:
    asked = []

    def get(url: str, _ca_file: Path | None) -> bytes:
        asked.append(url)
        raise ZeroDivisionError

    keys = KeySet("https://unused.example", None, clock=clock, get=get)
    keys.start()
    try:
        _refusal(keys, "ec")
        clock.advance(jwks.BETWEEN_FAILURES)
        keys.wake()
        eventually(lambda: len(asked) > 1)
    finally:
        keys.stop()


def test_only_a_trusted_issuer_is_heard(issuer: Issuer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with running_issuer(tmp_path / "other") as other, pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(issuer.jwks_url, other.ca_file)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(issuer.jwks_url, None)
    with pytest.raises(OSError, match="mismatch"):
        fetch(issuer.jwks_url.replace("127.0.0.1", "localhost"), issuer.ca_file)
    assert issuer.requests == 0
    assert parse_keys(fetch(issuer.jwks_url, issuer.ca_file))


def test_nothing_but_https_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("{}")
    for url in (f"file://{tmp_path}/keys", "http://127.0.0.1:1/keys", "HTTPS://127.0.0.1:1/keys"):
        with pytest.raises(ValueError, match="https"):
            fetch(url, None)


def test_redirections_are_not_followed(issuer: Issuer) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"", 302, Location=f"{issuer.url}/elsewhere")

    issuer.answer = redirect
    with pytest.raises(OSError, match="302"):
        fetch(issuer.jwks_url, issuer.ca_file)
    assert issuer.requests == 1


def test_an_endless_answer_is_cut(issuer: Issuer) -> None:
    issuer.answer = lambda handler: send(handler, b" " * (jwks.LONGEST_SET + 1))
    with pytest.raises(ValueError, match="octets"):
        fetch(issuer.jwks_url, issuer.ca_file)


def test_a_dripping_answer_is_left(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "LONGEST_FETCH", 0.2)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"")
        for _ in range(100_000):
            handler.wfile.write(b" ")

    issuer.answer = drip
    monkeypatch.setattr(jwks, "LONGEST_SET", 1 << 30)
    with pytest.raises(TimeoutError):
        fetch(issuer.jwks_url, issuer.ca_file)


def test_dripping_headers_are_left(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "LONGEST_FETCH", 0.2)
    went = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        deadline = time.monotonic() + 10
        try:
            while time.monotonic() < deadline:
                handler.wfile.write(b"a")
                went.wait(0.02)
        except OSError:
            went.set()

    issuer.answer = drip
    with pytest.raises(TimeoutError):
        fetch(issuer.jwks_url, issuer.ca_file)
    assert went.wait(5)


def test_a_silent_issuer_is_left(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_PATIENCE", 0.1)

    def say_nothing(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(1)

    issuer.answer = say_nothing
    with pytest.raises(TimeoutError):
        fetch(issuer.jwks_url, issuer.ca_file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000])
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="the answer"):
        parse_keys(content)


def test_keys_that_do_not_verify_signatures_are_passed_over() -> None:
    import json

    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    entries = [
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "oct", "alg": "HS256"},
        jwk(RSA_KEY, "enc", use="enc"),
        jwk(RSA_KEY, "ops", key_ops=["encrypt"]),
        jwk(RSA_KEY, ""),
        jwk(weak, "weak"),
        jwk(EC_KEY, "private", d="AAAA"),
        jwk(EC_KEY, "broken") | {"x": "AAAA"},
        jwk(ec.generate_private_key(ec.SECP256K1()), "k1"),
        {"kty": "RSA", "kid": "empty"},
        "text",
        jwk(EC_KEY, "good", key_ops=["verify"]),
    ]
    found = parse_keys(json.dumps({"keys": entries}).encode())
    assert {key_id for key_id, key in found.items() if any(map(key.fits, ("RS256", "ES256", "EdDSA")))} == {"good"}
    with pytest.raises(ValueError, match="one id"):
        parse_keys(json.dumps({"keys": [jwk(EC_KEY, "a"), jwk(RSA_KEY, "a")]}).encode())
