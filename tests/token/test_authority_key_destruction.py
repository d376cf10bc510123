"""An authority key that is destroyed is gone for every process, and no other key goes with it."""

import secrets
from dataclasses import replace

import pytest

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.token.client import TokenClient, start_child
from certd.token.policy import SignatureKind
from certd.token.settings import TokenSettings
from tests.softhsm import USER_PIN
from tests.token.material import Authority, make_authority, make_certificate, make_policy, run_python, verifies

_LIST = """
import pkcs11, sys
from pkcs11 import Attribute
module, label, pin = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(user_pin=pin)
for found in session.get_objects():
    print(found.object_class.name, found[Attribute.ID].hex())
"""
_DESTROY_PRIVATE = """
import pkcs11, sys
from pkcs11 import Attribute, ObjectClass
module, label, pin, key_id = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)
wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: bytes.fromhex(key_id)}
for found in list(session.get_objects(wanted)):
    found.destroy()
"""


def _objects(settings: TokenSettings) -> list[str]:
    """Returns class and id of what is in the token, as another process finds it."""
    token = (str(settings.module), settings.label, USER_PIN)
    return sorted(run_python(_LIST, *token, configuration=settings.softhsm_conf).splitlines())


def _halves(key: Authority) -> list[str]:
    return [f"PRIVATE_KEY {key.key_id.hex()}", f"PUBLIC_KEY {key.key_id.hex()}"]


def _destroy(client: TokenClient, key: Authority) -> bool:
    return client.destroy_authority_key(key_id=key.key_id, policy=key.policy)


def _signs(client: TokenClient, key: Authority) -> bool:
    item = key.item(make_certificate())
    (signature,) = client.sign([item], timeout=10)
    return not isinstance(signature, CertdError) and verifies(key, item, signature)


@pytest.mark.parametrize("spec", [KeySpec.EC_P256, KeySpec.ED25519])
def test_a_destroyed_key_is_gone_and_no_other_with_it(
    settings: TokenSettings, client: TokenClient, spec: KeySpec
) -> None:
    before = _objects(settings)
    doomed, spared = make_authority(client, spec), make_authority(client)
    wrapping = secrets.token_bytes(16)
    assert client.ensure_wrapping_key(key_id=wrapping)
    assert _destroy(client, doomed) is True
    assert _objects(settings) == sorted([*before, *_halves(spared), f"SECRET_KEY {wrapping.hex()}"])
    (outcome,) = client.sign([doomed.item(make_certificate())], timeout=10)
    assert isinstance(outcome, CertdError)
    assert outcome.reason is Reason.TOKEN_UNAVAILABLE
    assert client.ready
    assert _signs(client, spared)
    assert [_destroy(client, doomed) for _ in range(2)] == [False, False]


def test_it_is_gone_for_another_process_that_has_used_it(settings: TokenSettings, client: TokenClient) -> None:
    doomed, spared = make_authority(client), make_authority(client)
    second = start_child(settings)
    try:
        assert second.wait_ready(20), second.problem
        assert _signs(second, doomed)
        assert _destroy(client, doomed) is True
        assert not _signs(second, doomed)
        assert _signs(second, spared)
        assert _destroy(second, doomed) is False
    finally:
        second.stop()


def test_the_rest_of_one_that_was_half_destroyed_goes(settings: TokenSettings, client: TokenClient) -> None:
    doomed = make_authority(client)
    token = (str(settings.module), settings.label, USER_PIN, doomed.key_id.hex())
    run_python(_DESTROY_PRIVATE, *token, configuration=settings.softhsm_conf)
    assert _halves(doomed)[1] in _objects(settings)
    assert _destroy(client, doomed) is False
    assert not set(_halves(doomed)) & set(_objects(settings))


def test_a_key_with_another_policy_is_not_destroyed(settings: TokenSettings, client: TokenClient) -> None:
    key = make_authority(client)
    with pytest.raises(CertdError, match="another policy") as caught:
        _destroy(client, replace(key, policy=make_policy(self_signed=True)))
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    assert set(_halves(key)) <= set(_objects(settings))
    assert _signs(client, key)


def test_a_key_that_signs_checkpoints_is_not_destroyed(settings: TokenSettings, client: TokenClient) -> None:
    key = make_authority(client, policy=make_policy(kinds=(SignatureKind.CHECKPOINT,)))
    with pytest.raises(CertdError, match="signs checkpoints") as caught:
        _destroy(client, key)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    assert set(_halves(key)) <= set(_objects(settings))


def test_a_wrapping_key_is_not_destroyed(settings: TokenSettings, client: TokenClient) -> None:
    wrapping = secrets.token_bytes(16)
    assert client.ensure_wrapping_key(key_id=wrapping)
    assert client.destroy_authority_key(key_id=wrapping, policy=make_policy()) is False
    assert f"SECRET_KEY {wrapping.hex()}" in _objects(settings)


@pytest.mark.parametrize("key_id", [b"", bytes(65)], ids=["0", "65"])
def test_an_id_has_its_length(client: TokenClient, key_id: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        client.destroy_authority_key(key_id=key_id, policy=make_policy())
    assert [violation.field for violation in caught.value.violations] == ["key_id"]


def test_a_policy_is_one(client: TokenClient) -> None:
    with pytest.raises(CertdError) as caught:
        client.destroy_authority_key(key_id=bytes(16), policy=b"")
    assert [violation.field for violation in caught.value.violations] == ["policy"]
