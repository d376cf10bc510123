"""A module or a token that is missing, that fails with every code there is, that goes away and returns."""

import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pkcs11
import pytest

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.ipc.channel import Channel, SpawnedChild
from certd.pki.key_spec import KeySpec
from certd.token import lock
from certd.token.advice import ADVICE, PIN_REFUSED, REQUEST_REFUSED, code_of, explain
from certd.token.client import TokenClient, start_child
from certd.token.module import Module
from certd.token.settings import TokenSettings
from certd.token.softhsm import write_configuration
from tests.softhsm import USER_PIN, make_token
from tests.token.material import Authority, make_authority, make_certificate, run_python, verifies
from tests.waiting import eventually

_PROGRAM = Path(__file__).with_name("faulty_token.py")
_NOT_OF_THE_STANDARD = {"MultipleObjectsReturned", "MultipleTokensReturned", "NoSuchKey", "NoSuchToken", "PKCS11Error"}
_ERRORS = sorted(
    name
    for name, value in vars(pkcs11).items()
    if isinstance(value, type) and issubclass(value, pkcs11.PKCS11Error) and name not in _NOT_OF_THE_STANDARD
)
_NAMELESS = ["PKCS11Error Unmapped error code 0x1b", "PKCS11Error Unmapped error code 0x80000001", "PKCS11Error"]


class Faulty:
    """A token process with a module that fails on demand."""

    def __init__(self, settings: TokenSettings, fault: Path) -> None:
        argv = (sys.executable, str(_PROGRAM), str(fault), *settings.arguments())
        self._fault = fault
        self.channel = Channel(SpawnedChild(argv), name="token process")
        self.client = TokenClient(self.channel)

    def fail_with(self, error: str) -> None:
        unfinished = self._fault.with_suffix(".new")
        unfinished.write_text(error)
        unfinished.rename(self._fault)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    directory = tmp_path_factory.mktemp("faulty")
    found = Faulty(make_token(directory), directory / "fault")
    found.channel.start()
    try:
        assert found.client.wait_ready(20), found.client.problem
        yield found
    finally:
        found.channel.stop()


@pytest.fixture(scope="module")
def authority(faulty: Faulty) -> Authority:
    return make_authority(faulty.client)


@pytest.mark.parametrize("name", [*_ERRORS, *_NAMELESS])
def test_every_code_reaches_the_caller_with_advice_and_the_token_serves_again(
    faulty: Faulty, authority: Authority, name: str
) -> None:
    eventually(lambda: faulty.client.ready)
    changes: list[bool] = []
    faulty.client.on_change(lambda ready, _problem: changes.append(ready))
    process_id = faulty.client.process_id
    faulty.fail_with(name)
    with pytest.raises(CertdError) as caught:
        faulty.client.describe()
    error = caught.value
    class_name, _, message = name.partition(" ")
    code = code_of(getattr(pkcs11, class_name)(message))
    assert error.reason is Reason.TOKEN_UNAVAILABLE
    assert error.metadata["ckr"] == code
    assert explain(code) in error.message
    # What concerns the request leaves the session alone; after all else the token is opened again.
    reopened = code not in REQUEST_REFUSED
    assert (error.retry_after is not None) is reopened
    eventually(lambda: faulty.client.ready)
    item = authority.item(make_certificate())
    assert verifies(authority, item, faulty.client.sign([item], timeout=20)[0])
    eventually(lambda: changes == ([False, True] if reopened else []))
    assert faulty.client.process_id == process_id


def test_a_wrong_signature_is_withheld(faulty: Faulty, authority: Authority) -> None:
    eventually(lambda: faulty.client.ready)
    item = authority.item(make_certificate())
    faulty.fail_with("wrong signature")
    failure, signature = faulty.client.sign([item, item], timeout=20)
    assert isinstance(failure, CertdError)
    assert "wrong signature" in failure.message
    assert failure.reason is Reason.TOKEN_UNAVAILABLE
    assert verifies(authority, item, signature)


def test_a_bug_fails_one_call_and_tells_no_more_than_an_id(
    settings: TokenSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = Faulty(settings, tmp_path / "fault")
    own.channel.start()
    try:
        assert own.client.wait_ready(20), own.client.problem
        process_id = own.client.process_id
        own.fail_with("bug")
        with pytest.raises(CertdError, match="error id") as caught:
            own.client.describe()
        assert caught.value.reason is Reason.INTERNAL
        assert "secret" not in caught.value.message
        assert own.client.describe().label == settings.label
        assert own.client.process_id == process_id
    finally:
        own.channel.stop()
    error_id = caught.value.message.rstrip(".").split()[-1]
    assert error_id in capfd.readouterr().err


def test_what_a_token_lacks_is_said_in_a_sentence_and_stops_nothing_else(settings: TokenSettings) -> None:
    assert settings.softhsm_conf is not None
    with settings.softhsm_conf.open("a") as configuration:
        # The first of the list is kept by some versions of SoftHSM.
        configuration.write("slots.mechanisms = -CKM_MD5,CKM_AES_KEY_GEN,CKM_EC_EDWARDS_KEY_PAIR_GEN\n")
    client = start_child(settings)
    try:
        assert client.wait_ready(20), client.problem
        found = client.describe()
        assert found.missing == (
            "The token lacks CKM_EC_EDWARDS_KEY_PAIR_GEN: no authority can have a key of kind ED25519.",
            "The token lacks CKM_AES_KEY_GEN: private keys cannot be sealed, so there are no managed certificates.",
        )
        assert set(KeySpec) - set(found.authority_key_specs) == {KeySpec.ED25519}
        assert "CKM_AES_KEY_GEN" not in found.mechanisms
        authority = make_authority(client)
        item = authority.item(make_certificate())
        assert verifies(authority, item, client.sign([item], timeout=20)[0])
    finally:
        client.stop()


def test_the_module_refuses_a_second_thread(settings: TokenSettings) -> None:
    module = Module(settings)
    errors: list[CertdError] = []

    def call() -> None:
        try:
            module.probe()
        except CertdError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(20)
    assert [error.reason for error in errors] == [Reason.INTERNAL]
    # The thread that made it is heard, and told that nothing is open.
    with pytest.raises(CertdError, match="not open"):
        module.probe()


_REQUESTS = {
    "no message": b"\xff",
    "no operation": b"",
    "an operation of the future": b"\xfa\x06\x00",
    "a key spec of the future": messages.TokenRequest(
        create_authority_key=messages.CreateAuthorityKeyRequest(key_id=bytes(16), key_spec="EC_P111", policy=b"")
    ).SerializeToString(),
    "a purpose of the future": messages.TokenRequest(
        export=messages.ExportRequest(wrapping_key_id=bytes(16), context=messages.SealContext(purpose="theft"))
    ).SerializeToString(),
    "nobody's PIN": messages.TokenRequest(set_pin=messages.SetPinRequest()).SerializeToString(),
}


@pytest.mark.parametrize("request_bytes", _REQUESTS.values(), ids=_REQUESTS.keys())
def test_a_request_that_makes_no_sense_is_refused(faulty: Faulty, request_bytes: bytes) -> None:
    eventually(lambda: faulty.client.ready)
    with pytest.raises(CertdError) as caught:
        faulty.channel.call(request_bytes, timeout=20)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations


def test_an_algorithm_of_the_future_is_refused(faulty: Faulty, authority: Authority) -> None:
    item = messages.SignItem(
        key_id=authority.key_id,
        policy=authority.policy,
        kind=messages.CERTIFICATE,
        signature_algorithm="MD5_WITH_RSA",
        to_be_signed=make_certificate(),
    )
    request = messages.TokenRequest(sign=messages.SignRequest(items=[item]))
    answer = messages.TokenResponse.FromString(faulty.channel.call(request.SerializeToString(), timeout=20))
    assert answer.sign.results[0].failure.reason == "FIELD_INVALID"


def test_advice_is_one_sentence_for_every_code_of_the_binding() -> None:
    unexplained = {code_of(getattr(pkcs11, name)()) for name in _ERRORS} - set(ADVICE)
    # Codes of operations that certd never asks for.
    assert unexplained <= {
        "CKR_EXCEEDED_MAX_ITERATIONS",
        "CKR_KEY_INDIGESTIBLE",
        "CKR_KEY_NEEDED",
        "CKR_KEY_NOT_NEEDED",
        "CKR_KEY_NOT_WRAPPABLE",
        "CKR_NO_EVENT",
        "CKR_PUBLIC_KEY_INVALID",
        "CKR_RANDOM_SEED_NOT_SUPPORTED",
        "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
        "CKR_UNWRAPPING_KEY_SIZE_RANGE",
        "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
        "CKR_WRAPPED_KEY_INVALID",
        "CKR_WRAPPED_KEY_LEN_RANGE",
        "CKR_WRAPPING_KEY_HANDLE_INVALID",
        "CKR_WRAPPING_KEY_SIZE_RANGE",
        "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
    }
    assert all(advice.endswith(".") and ". " not in advice for advice in ADVICE.values())
    assert set(ADVICE) >= PIN_REFUSED | REQUEST_REFUSED
    assert explain("CKR_NEVER_HEARD_OF").startswith("CKR_NEVER_HEARD_OF: ")


def _no_module(settings: TokenSettings, tmp_path: Path) -> TokenSettings:
    return replace_settings(settings, module=tmp_path / "missing.so")


def _no_token(settings: TokenSettings, _tmp_path: Path) -> TokenSettings:
    return replace_settings(settings, label="another label")


def _no_configuration(settings: TokenSettings, tmp_path: Path) -> TokenSettings:
    return replace_settings(settings, softhsm_conf=tmp_path / "missing.conf")


def _no_storage(settings: TokenSettings, tmp_path: Path) -> TokenSettings:
    configuration = tmp_path / "softhsm2.conf"
    write_configuration(configuration, tokens=tmp_path / "nowhere" / "tokens")
    return replace_settings(settings, softhsm_conf=configuration)


def _not_a_module(settings: TokenSettings, tmp_path: Path) -> TokenSettings:
    (tmp_path / "text.so").write_text("this is no library")
    return replace_settings(settings, module=tmp_path / "text.so")


def replace_settings(settings: TokenSettings, **changes: object) -> TokenSettings:
    return replace(settings, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (_no_module, "missing.so cannot be loaded"),
        (_not_a_module, "text.so cannot be loaded"),
        (_no_token, "no token labelled another label"),
        (_no_configuration, "is gone: there is no .*missing.conf"),
        (_no_storage, "is gone: there is no .*/nowhere,"),
    ],
    ids=["module", "no library", "token", "configuration", "storage"],
)
def test_what_is_missing_is_named_and_the_process_stays(
    settings: TokenSettings,
    tmp_path: Path,
    spoil: Callable[[TokenSettings, Path], TokenSettings],
    finding: str,
) -> None:
    client = start_child(spoil(settings, tmp_path))
    try:
        eventually(lambda: re.search(finding, client.problem))
        process_id = client.process_id
        with pytest.raises(CertdError, match=finding) as caught:
            client.describe()
        assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
        assert not client.ready
        assert client.process_id == process_id is not None
    finally:
        client.stop()


def test_a_lost_token_is_noticed_and_found_again(settings: TokenSettings, client: TokenClient) -> None:
    authority = make_authority(client)
    item = authority.item(make_certificate())
    assert settings.softhsm_conf is not None
    tokens = settings.softhsm_conf.parent / "tokens"
    elsewhere = tokens.with_name("elsewhere")
    tokens.rename(elsewhere)
    tokens.mkdir()
    (failure,) = client.sign([item], timeout=20)
    assert isinstance(failure, CertdError)
    assert failure.reason is Reason.TOKEN_UNAVAILABLE
    eventually(lambda: not client.ready)
    with pytest.raises(CertdError) as caught:
        client.describe()
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    assert caught.value.retry_after
    tokens.rmdir()
    elsewhere.rename(tokens)
    assert client.wait_ready(20), client.problem
    assert verifies(authority, item, client.sign([item], timeout=20)[0])


def test_a_token_that_is_lost_in_idleness_is_noticed(settings: TokenSettings, client: TokenClient) -> None:
    assert settings.softhsm_conf is not None
    tokens = settings.softhsm_conf.parent / "tokens"
    shutil.rmtree(tokens)
    tokens.mkdir()
    eventually(lambda: not client.ready)


def test_a_key_that_lost_its_public_half_is_set_aside(settings: TokenSettings, client: TokenClient) -> None:
    broken, sound = make_authority(client), make_authority(client)
    client.stop()
    program = (
        "import pkcs11, sys\n"
        "module, label, pin, key_id = sys.argv[1:]\n"
        "session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)\n"
        "wanted = {pkcs11.Attribute.ID: bytes.fromhex(key_id), pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY}\n"
        "[key.destroy() for key in list(session.get_objects(wanted))]\n"
    )
    token = (str(settings.module), settings.label, USER_PIN, broken.key_id.hex())
    run_python(program, *token, configuration=settings.softhsm_conf)
    again = start_child(settings)
    try:
        assert again.wait_ready(20), again.problem
        (missing,) = again.describe().missing
        assert broken.key_id.hex() in missing
        items = [broken.item(make_certificate()), sound.item(make_certificate())]
        failure, signature = again.sign(items, timeout=20)
        assert isinstance(failure, CertdError)
        assert "failed its test" in failure.message
        assert verifies(sound, items[1], signature)
    finally:
        again.stop()


def test_the_lock_is_waited_for_and_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.held(path), pytest.raises(CertdError, match=str(path)) as caught, lock.held(path, patience=0.02):
        pass
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    with lock.held(path):
        pass
    with pytest.raises(CertdError, match="cannot be opened"), lock.held(tmp_path / "nowhere" / "lock"):
        pass


def test_many_processes_start_together(settings: TokenSettings) -> None:
    clients = [start_child(settings) for _ in range(6)]
    try:
        assert all(client.wait_ready(30) for client in clients)
        key_id = make_authority(clients[0]).key_id
        made = [client.ensure_wrapping_key(key_id=key_id) for client in clients]
        assert made == [True, *[False] * 5]
    finally:
        for client in clients:
            client.stop()
