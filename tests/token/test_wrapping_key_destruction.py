"""A wrapping key that is destroyed is gone for every process, and no other key goes with it."""

import hashlib
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError, Reason
from certd.pki.key_spec import KeySpec
from certd.token.client import TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.softhsm import USER_PIN
from tests.token.material import make_authority, make_certificate, make_context, run_python, verifies

_LIST = """
import pkcs11, sys
from pkcs11 import Attribute
module, label, pin = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(user_pin=pin)
for found in session.get_objects():
    print(found.object_class.name, found[Attribute.ID].hex())
"""
_MAKE_FOREIGN = """
import pkcs11, sys
module, label, pin, key_id = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)
session.generate_key(pkcs11.KeyType.AES, 256, id=bytes.fromhex(key_id), label="of another program", store=True)
"""


def _objects(settings: TokenSettings) -> set[str]:
    """Returns class and id of what is in the token, as another process finds it."""
    token = (str(settings.module), settings.label, USER_PIN)
    return set(run_python(_LIST, *token, configuration=settings.softhsm_conf).splitlines())


def _files(settings: TokenSettings) -> int:
    """Returns how many objects SoftHSM keeps on disk."""
    assert settings.softhsm_conf is not None
    return len(list((settings.softhsm_conf.parent / "tokens").glob("*/*.object")))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key in custody."""

    wrapping_key_id: bytes
    sealed_key: bytes
    public_key: bytes

    def open(self, client: TokenClient) -> bytes:
        context = replace(make_context(), public_key_sha256=hashlib.sha256(self.public_key).digest())
        return client.export_to_recipient(
            wrapping_key_id=self.wrapping_key_id,
            sealed_key=self.sealed_key,
            context=context,
            recipient_public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        )


def _seal(client: TokenClient) -> Sealed:
    """Makes a wrapping key and a key that is sealed under it."""
    key_id = secrets.token_bytes(16)
    assert client.ensure_wrapping_key(key_id=key_id)
    made = client.generate_subscriber_key(wrapping_key_id=key_id, key_spec=KeySpec.EC_P256, context=make_context())
    return Sealed(key_id, made.sealed_key, made.public_key)


@pytest.fixture
def second(settings: TokenSettings, client: TokenClient) -> Iterator[TokenClient]:
    """Another token process on the same token, as another daemon has it."""
    assert client.ready
    started = start_child(settings)
    try:
        assert started.wait_ready(20), started.problem
        yield started
    finally:
        started.stop()


def test_a_destroyed_key_is_gone_and_what_it_sealed_with_it(settings: TokenSettings, client: TokenClient) -> None:
    doomed, spared = _seal(client), _seal(client)
    authority = make_authority(client)
    assert doomed.open(client)
    files, objects = _files(settings), _objects(settings)
    assert client.destroy_wrapping_key(key_id=doomed.wrapping_key_id) is True
    assert _objects(settings) == objects - {f"SECRET_KEY {doomed.wrapping_key_id.hex()}"}
    assert _files(settings) == files - 1
    with pytest.raises(CertdError, match=doomed.wrapping_key_id.hex()) as caught:
        doomed.open(client)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    assert client.ready
    # The others are as they were.
    assert spared.open(client)
    item = authority.item(make_certificate())
    assert verifies(authority, item, client.sign([item], timeout=10)[0])


def test_the_journal_tells_of_it(settings: TokenSettings, capfd: pytest.CaptureFixture[str]) -> None:
    client = start_child(settings)
    try:
        assert client.wait_ready(20), client.problem
        key_id = _seal(client).wrapping_key_id
        client.destroy_wrapping_key(key_id=key_id)
        client.destroy_wrapping_key(key_id=key_id)
    finally:
        client.stop()
    lines = [line for line in capfd.readouterr().err.splitlines() if f"wrapping key {key_id.hex()}" in line]
    assert ["destroyed" in line for line in lines] == [False, True, False]
    assert "found no" in lines[2]


def test_it_is_gone_for_another_process_that_has_used_it(client: TokenClient, second: TokenClient) -> None:
    doomed = _seal(client)
    assert doomed.open(second)
    assert client.destroy_wrapping_key(key_id=doomed.wrapping_key_id) is True
    for each in (second, client):
        with pytest.raises(CertdError) as caught:
            doomed.open(each)
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    assert second.destroy_wrapping_key(key_id=doomed.wrapping_key_id) is False


def test_destroying_it_again_finds_none(client: TokenClient) -> None:
    key_id = _seal(client).wrapping_key_id
    assert [client.destroy_wrapping_key(key_id=key_id) for _ in range(3)] == [True, False, False]
    assert client.destroy_wrapping_key(key_id=secrets.token_bytes(16)) is False


def test_a_key_that_is_made_again_under_its_id_opens_nothing(client: TokenClient) -> None:
    doomed = _seal(client)
    assert client.destroy_wrapping_key(key_id=doomed.wrapping_key_id)
    assert client.ensure_wrapping_key(key_id=doomed.wrapping_key_id)
    with pytest.raises(CertdError, match="does not open") as caught:
        doomed.open(client)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


def test_an_authority_s_key_is_never_destroyed(settings: TokenSettings, client: TokenClient) -> None:
    authority = make_authority(client)
    objects = _objects(settings)
    assert client.destroy_wrapping_key(key_id=authority.key_id) is False
    assert _objects(settings) == objects
    item = authority.item(make_certificate())
    assert verifies(authority, item, client.sign([item], timeout=10)[0])


def test_a_secret_key_of_another_program_is_never_destroyed(settings: TokenSettings, client: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    token = (str(settings.module), settings.label, USER_PIN)
    run_python(_MAKE_FOREIGN, *token, key_id.hex(), configuration=settings.softhsm_conf)
    with pytest.raises(CertdError, match="no wrapping key of certd") as caught:
        client.destroy_wrapping_key(key_id=key_id)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    assert f"SECRET_KEY {key_id.hex()}" in _objects(settings)
    assert client.ready


@pytest.mark.parametrize("key_id", [b"", bytes(15), bytes(17)], ids=["0", "15", "17"])
def test_an_id_has_its_length(client: TokenClient, key_id: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        client.destroy_wrapping_key(key_id=key_id)
    assert [violation.field for violation in caught.value.violations] == ["key_id"]


def test_of_many_who_destroy_a_key_one_does(client: TokenClient, second: TokenClient) -> None:
    doomed, spared = _seal(client), _seal(client)
    together = threading.Barrier(8)

    def destroy(number: int) -> bool:
        each = (client, second)[number % 2]
        together.wait(20)
        assert spared.open(each)
        return each.destroy_wrapping_key(key_id=doomed.wrapping_key_id)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(destroy, range(8))) == [False] * 7 + [True]
    for each in (client, second):
        assert spared.open(each)
        with pytest.raises(CertdError):
            doomed.open(each)
