"""A key that was left unfinished is made anew when it is asked for again; one that is whole never is."""

import secrets

import pytest

from certd.errors import CertdError, Reason
from certd.token.client import TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.token.material import Authority, make_authority, make_certificate, verifies
from tests.token.unfinished import PRIVATE_KEY, SECRET_KEY, leave_unfinished


def _again(client: TokenClient, key: Authority) -> bytes:
    return client.create_authority_key(key_id=key.key_id, key_spec=key.spec, policy=key.policy)


def test_an_unfinished_authority_key_is_made_anew(settings: TokenSettings, client: TokenClient) -> None:
    unfinished = make_authority(client)
    client.stop()
    leave_unfinished(settings, PRIVATE_KEY)
    started = start_child(settings)
    try:
        assert started.wait_ready(20), started.problem
        with pytest.raises(CertdError) as caught:
            _sign(started, unfinished)
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        public_key = _again(started, unfinished)
        assert public_key != unfinished.public_key
        made = Authority(unfinished.key_id, unfinished.spec, unfinished.policy, public_key)
        item = made.item(make_certificate())
        (signature,) = started.sign([item], timeout=20)
        assert verifies(made, item, signature)
        # From here on it is whole, and stays.
        assert _again(started, made) == public_key
        assert not started.describe().missing
    finally:
        started.stop()


def test_an_unfinished_wrapping_key_is_made_anew(settings: TokenSettings, client: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    assert client.ensure_wrapping_key(key_id=key_id)
    client.stop()
    leave_unfinished(settings, SECRET_KEY)
    started = start_child(settings)
    try:
        assert started.wait_ready(20), started.problem
        assert started.ensure_wrapping_key(key_id=key_id)
        assert not started.ensure_wrapping_key(key_id=key_id)
    finally:
        started.stop()


def test_whole_keys_are_found_and_kept(settings: TokenSettings, client: TokenClient) -> None:
    key, wrapping = make_authority(client), secrets.token_bytes(16)
    assert client.ensure_wrapping_key(key_id=wrapping)
    client.stop()
    started = start_child(settings)
    try:
        assert started.wait_ready(20), started.problem
        assert _again(started, key) == key.public_key
        assert not started.ensure_wrapping_key(key_id=wrapping)
    finally:
        started.stop()


def _sign(client: TokenClient, key: Authority) -> None:
    (outcome,) = client.sign([key.item(make_certificate())], timeout=20)
    if isinstance(outcome, CertdError):
        raise outcome
