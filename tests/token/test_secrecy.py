"""What does not leave the token, and what does not leave the token process."""

import json
import secrets
import sys
from dataclasses import replace

import psutil
import pytest

from certd.pki.key_spec import KeySpec
from certd.token.client import Isolation, TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.softhsm import USER_PIN
from tests.token.material import make_authority, run_python

_READ = """
import pkcs11, sys
from pkcs11 import Attribute, ObjectClass
module, label, pin, key_id, object_class, attribute, value = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)
(key,) = session.get_objects({Attribute.ID: bytes.fromhex(key_id), Attribute.CLASS: ObjectClass[object_class]})
try:
    if value:
        key[Attribute[attribute]] = value
    print("answer", key[Attribute[attribute]])
except pkcs11.PKCS11Error as error:
    print("refused", type(error).__name__, error)
"""
_WRAP = """
import pkcs11, sys
from pkcs11 import Attribute, ObjectClass, KeyType, Mechanism
module, label, pin, key_id, object_class = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)
(key,) = session.get_objects({Attribute.ID: bytes.fromhex(key_id), Attribute.CLASS: ObjectClass[object_class]})
wrapping = session.generate_key(KeyType.AES, 256)
try:
    print("answer", wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD))
except pkcs11.PKCS11Error as error:
    print("refused", type(error).__name__)
"""


def read(settings: TokenSettings, key_id: bytes, object_class: str, attribute: str, value: str = "") -> str:
    token = (str(settings.module), settings.label, USER_PIN)
    found = run_python(_READ, *token, key_id.hex(), object_class, attribute, value, configuration=settings.softhsm_conf)
    return found.strip()


@pytest.mark.parametrize(
    ("spec", "attribute"),
    [
        (KeySpec.EC_P256, "VALUE"),
        (KeySpec.EC_P521, "VALUE"),
        (KeySpec.ED25519, "VALUE"),
        (KeySpec.RSA_2048, "PRIVATE_EXPONENT"),
        (KeySpec.RSA_2048, "PRIME_1"),
    ],
)
def test_the_private_half_of_an_authority_key_cannot_be_read_or_wrapped(
    settings: TokenSettings, client: TokenClient, spec: KeySpec, attribute: str
) -> None:
    key_id = make_authority(client, spec).key_id
    client.stop()
    assert read(settings, key_id, "PRIVATE_KEY", attribute) == "refused AttributeSensitive"
    # The positive control: what is no secret is read by the same program.
    assert read(settings, key_id, "PRIVATE_KEY", "LABEL").startswith("answer certd authority policy sha256:")
    token = (str(settings.module), settings.label, USER_PIN)
    wrapped = run_python(_WRAP, *token, key_id.hex(), "PRIVATE_KEY", configuration=settings.softhsm_conf)
    assert wrapped.startswith("refused KeyUnextractable")


def test_a_wrapping_key_cannot_be_read_or_wrapped(settings: TokenSettings, client: TokenClient) -> None:
    key_id = secrets.token_bytes(16)
    client.ensure_wrapping_key(key_id=key_id)
    client.stop()
    assert read(settings, key_id, "SECRET_KEY", "VALUE") == "refused AttributeSensitive"
    assert read(settings, key_id, "SECRET_KEY", "LABEL") == "answer certd wrapping key"
    token = (str(settings.module), settings.label, USER_PIN)
    wrapped = run_python(_WRAP, *token, key_id.hex(), "SECRET_KEY", configuration=settings.softhsm_conf)
    assert wrapped.startswith("refused KeyUnextractable")


def test_the_policy_of_a_key_cannot_be_changed(settings: TokenSettings, client: TokenClient) -> None:
    key_id = make_authority(client).key_id
    client.stop()
    before = read(settings, key_id, "PRIVATE_KEY", "LABEL")
    # CKR_ACTION_PROHIBITED, which the binding has no name for.
    assert read(settings, key_id, "PRIVATE_KEY", "LABEL", "certd authority policy sha256:00").endswith("0x1b")
    assert read(settings, key_id, "PRIVATE_KEY", "LABEL") == before


_HARDEN = """
import ctypes, os, resource, sys
from certd.ipc.hardening import harden
library = ctypes.CDLL(None)
harden(parent_process_id=os.getppid() if sys.argv[1] == "child" else None)
signal = ctypes.c_int()
library.prctl(2, ctypes.byref(signal), 0, 0, 0)
print(library.prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)), signal.value)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has no prctl")
@pytest.mark.parametrize(("role", "death_signal"), [("child", 9), ("alone", 0)])
def test_a_hardened_process_is_not_dumpable(role: str, death_signal: int) -> None:
    assert run_python(_HARDEN, role, configuration=None).strip() == f"0 (0, 0) 0o77 {death_signal}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS has no prctl")
def test_a_process_whose_parent_is_gone_already_ends() -> None:
    program = "from certd.ipc.hardening import harden; harden(parent_process_id=1)"
    with pytest.raises(AssertionError, match="is gone already"):
        run_python(program, configuration=None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS does not tell the limits of another process")
def test_the_token_process_is_hardened(client: TokenClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    assert psutil.Process(process_id).rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_the_pin_stands_in_no_argument_or_variable(settings: TokenSettings, client: TokenClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    process = psutil.Process(process_id)
    assert str(settings.pin_file) in process.cmdline()
    assert not any(USER_PIN in text for text in [*process.cmdline(), *process.environ().values()])


def test_what_it_logs_holds_no_secret(settings: TokenSettings, capfd: pytest.CaptureFixture[str]) -> None:
    client = start_child(settings)
    try:
        assert client.wait_ready(20)
        make_authority(client)
    finally:
        client.stop()
    logged = capfd.readouterr().err
    (line,) = [line for line in logged.splitlines() if "authority key" in line]
    assert USER_PIN not in line
    assert USER_PIN not in logged


def test_it_logs_in_the_format_it_is_told(settings: TokenSettings, capfd: pytest.CaptureFixture[str]) -> None:
    client = start_child(replace(settings, log_format="json"))
    try:
        assert client.wait_ready(20)
        make_authority(client)
    finally:
        client.stop()
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (event,) = [event for event in events if event["logger"] == "certd.token.operations"]
    assert event["level"] == "info"
    assert event["event"].startswith("authority key ")


def test_it_logs_nothing_below_its_level(settings: TokenSettings, capfd: pytest.CaptureFixture[str]) -> None:
    client = start_child(replace(settings, log_level="error"))
    try:
        assert client.wait_ready(20)
        make_authority(client)
    finally:
        client.stop()
    assert capfd.readouterr().err == ""


def test_a_spawned_process_is_of_the_same_user_and_says_so(client: TokenClient) -> None:
    assert client.isolation() is Isolation.SAME_USER


def test_it_describes_module_and_token(settings: TokenSettings, client: TokenClient) -> None:
    found = client.describe()
    assert (found.module, found.label, found.missing) == (str(settings.module), settings.label, ())
    assert set(found.authority_key_specs) == set(KeySpec)
    assert {"CKM_ECDSA", "CKM_EDDSA", "CKM_AES_GCM", "CKM_SHA256_RSA_PKCS"} <= set(found.mechanisms)
    assert "SoftHSM" in found.model
    assert found.manufacturer
    assert found.serial_number
