"""The token process dies, is lost, hangs, or outlives nobody."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from certd.errors import CertdError, Reason
from certd.internal.token_pb2 import EnsureWrappingKeyRequest, TokenRequest
from certd.ipc.channel import Channel, SpawnedChild
from certd.pki.key_spec import KeySpec
from certd.token.client import TokenClient, start_child
from certd.token.settings import TokenSettings
from tests.token.material import make_authority, make_certificate, make_policy, verifies
from tests.waiting import eventually


def gone(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_returns_soon_and_waiting_calls_are_told(client: TokenClient) -> None:
    authority = make_authority(client)
    errors: list[CertdError] = []

    def wait_for_a_long_call() -> None:
        try:
            # RSA with 4,096 bits takes the token long enough to be killed meanwhile.
            make_authority(client, KeySpec.RSA_4096)
        except CertdError as error:
            errors.append(error)

    callers = [threading.Thread(target=wait_for_a_long_call) for _ in range(8)]
    for caller in callers:
        caller.start()
    process_id = client.process_id
    assert process_id is not None
    eventually(lambda: psutil.Process(process_id).cpu_times().user > 0.2)
    changes: list[bool] = []
    client.on_change(lambda ready, _problem: changes.append(ready))
    os.kill(process_id, signal.SIGKILL)
    killed = time.monotonic()
    for caller in callers:
        caller.join(10)
    assert errors
    assert {error.reason for error in errors} == {Reason.TOKEN_UNAVAILABLE}
    assert all(error.retry_after for error in errors)
    assert client.wait_ready(10)
    back_after = time.monotonic() - killed
    item = authority.item(make_certificate())
    assert verifies(authority, item, client.sign([item], timeout=10)[0])
    assert client.process_id != process_id
    assert gone(process_id)
    assert (changes[0], changes[-1]) == (False, True)
    # Within a second on a quiet machine; the bound leaves room for others on it.
    assert back_after < 8, back_after


def test_killed_again_and_again_it_still_returns(client: TokenClient) -> None:
    authority = make_authority(client)
    for _ in range(5):
        process_id = client.process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)
        eventually(lambda old=process_id: client.process_id != old and client.ready)  # type: ignore[misc]
        item = authority.item(make_certificate())
        assert verifies(authority, item, client.sign([item], timeout=10)[0])


def test_calls_meanwhile_fail_at_once(settings: TokenSettings) -> None:
    client = start_child(settings)
    client.stop()
    with pytest.raises(CertdError) as caught:
        client.describe()
    assert (caught.value.reason, caught.value.retry_after is not None) == (Reason.TOKEN_UNAVAILABLE, True)
    assert "stopped" in client.problem
    assert client.process_id is None
    assert client.isolation() is None


def test_a_program_that_cannot_start_is_tried_less_and_less(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    program = f"open({str(starts)!r}, 'a').write('x')"
    channel = Channel(SpawnedChild((sys.executable, "-I", "-c", program)), name="failing program")
    began = time.monotonic()
    channel.start()
    try:
        eventually(lambda: starts.exists() and len(starts.read_text()) >= 5)
        # 50, 100, 200 and 400 ms lie between five starts.
        assert time.monotonic() - began > 0.75
        eventually(lambda: "failing program ended with status 0" in channel.problem)
    finally:
        channel.stop()


def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    channel = Channel(SpawnedChild((str(tmp_path / "nothing"),)), name="missing program")
    channel.start()
    try:
        eventually(lambda: "cannot be reached" in channel.problem)
        assert not channel.ready
    finally:
        channel.stop()


def test_stopping_leaves_nothing(client: TokenClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    client.stop()
    assert gone(process_id)
    client.stop()


def test_a_child_that_ignores_the_end_of_file_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)"
    channel = Channel(SpawnedChild((sys.executable, "-I", "-c", program)), name="deaf program")
    channel.start()
    eventually(started.exists)
    process_id = channel.process_id
    assert process_id is not None
    channel.stop(grace=0.2)
    assert gone(process_id)


def test_it_dies_with_its_parent(settings: TokenSettings, tmp_path: Path) -> None:
    note = tmp_path / "process"
    program = (
        "import pathlib, sys, time\n"
        "from certd.token.client import start_child\n"
        "from certd.token.settings import TokenSettings\n"
        "module, label, pin, conf, note = sys.argv[1:]\n"
        "path = pathlib.Path\n"
        "settings = TokenSettings(module=path(module), label=label, pin_file=path(pin), softhsm_conf=path(conf))\n"
        "client = start_child(settings)\n"
        "assert client.wait_ready(20)\n"
        "path(note).write_text(str(client.process_id))\n"
        "path(note).rename(note + '.done')\n"
        "time.sleep(600)\n"
    )
    arguments = [settings.module, settings.label, settings.pin_file, settings.softhsm_conf, note]
    with subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)]) as parent:
        try:
            done = tmp_path / "process.done"
            eventually(done.exists)
        finally:
            parent.kill()
    process_id = int(done.read_text())
    eventually(lambda: gone(process_id))


def test_a_call_past_its_deadline_is_dropped(client: TokenClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    spent = psutil.Process(process_id).cpu_times().user
    # Together they keep the token busy for seconds.
    blockers = [threading.Thread(target=make_authority, args=(client, KeySpec.RSA_4096)) for _ in range(4)]
    for blocker in blockers:
        blocker.start()
    eventually(lambda: psutil.Process(process_id).cpu_times().user > spent)
    key_id = secrets.token_bytes(16)
    request = TokenRequest(ensure_wrapping_key=EnsureWrappingKeyRequest(key_id=key_id))
    with pytest.raises(CertdError) as caught:
        client._channel.call(request.SerializeToString(), timeout=0.02)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    for blocker in blockers:
        blocker.join(60)
    # Had the call been worked on after its deadline, the key would exist by now.
    assert client.ensure_wrapping_key(key_id=key_id)


def test_signatures_that_came_too_late_are_answered_too(client: TokenClient) -> None:
    """Who does not wait keeps a place for the answer: without one it would be kept for ever."""
    item = make_authority(client).item(make_certificate())
    answers: list[list[bytes | CertdError] | CertdError] = []
    client.submit_signatures([item], timeout=0, answered=answers.append)
    eventually(lambda: answers)
    (answer,) = answers
    assert isinstance(answer, CertdError)
    assert answer.reason is Reason.DEADLINE_EXCEEDED


def test_a_full_queue_says_so(settings: TokenSettings) -> None:
    narrow = TokenSettings(
        module=settings.module,
        label=settings.label,
        pin_file=settings.pin_file,
        softhsm_conf=settings.softhsm_conf,
        queue_length=2,
    )
    client = start_child(narrow)
    try:
        assert client.wait_ready(20)
        results: list[CertdError | bytes] = []

        def ask() -> None:
            try:
                key_id = secrets.token_bytes(16)
                results.append(
                    client.create_authority_key(key_id=key_id, key_spec=KeySpec.RSA_3072, policy=make_policy())
                )
            except CertdError as error:
                results.append(error)

        callers = [threading.Thread(target=ask) for _ in range(12)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
        refused = [result for result in results if isinstance(result, CertdError)]
        assert {error.reason for error in refused} == {Reason.SIGNING_QUEUE_FULL}
        assert all(error.retry_after for error in refused)
        # The others were worked on: the one at work, and those that fitted into the queue.
        assert 2 <= len(results) - len(refused) <= 11
    finally:
        client.stop()
