"""The PIN file, and a PIN that the token refuses: one attempt, then silence until the file changes."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from certd.errors import CertdError, Reason
from certd.token.client import PinUser, TokenClient, start_child
from certd.token.pin import Refusal, read_pin, recall_refusal, remember_refusal
from certd.token.settings import TokenSettings
from tests.softhsm import SO_PIN, USER_PIN
from tests.token.material import run_python
from tests.waiting import eventually


class Started:
    """A token process that need not become ready."""

    def __init__(self, settings: TokenSettings) -> None:
        self.client = start_child(settings)

    def __enter__(self) -> TokenClient:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.stop()


def problem_of(client: TokenClient, part: str) -> str:
    eventually(lambda: part in client.problem)
    return client.problem


class LoginTrace:
    """Counts the logins of a token process by the marker that each refused one writes anew."""

    def __init__(self, settings: TokenSettings) -> None:
        self._marker = settings.refused_marker

    def stamp(self) -> tuple[int, int]:
        status = self._marker.stat()
        return status.st_ino, status.st_mtime_ns


def test_a_wrong_pin_is_tried_once(settings: TokenSettings) -> None:
    settings.pin_file.write_text("00000000")
    trace = LoginTrace(settings)
    with Started(settings) as client:
        problem = problem_of(client, "CKR_PIN_INCORRECT")
        assert str(settings.pin_file) in problem
        assert "00000000" not in problem
        first = trace.stamp()
        for _ in range(20):
            with pytest.raises(CertdError) as caught:
                client.describe()
            assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
            assert str(settings.pin_file) in caught.value.message
    # Every start of the process looks at the file, and none tries it.
    for _ in range(3):
        with Started(settings) as client:
            problem_of(client, "CKR_PIN_INCORRECT")
    assert trace.stamp() == first
    with Started(settings) as client:
        problem_of(client, "CKR_PIN_INCORRECT")
        # A changed file is tried, and is right this time.
        settings.pin_file.write_text(USER_PIN)
        assert client.wait_ready(20), client.problem
        assert client.describe().label == settings.label
    assert not settings.refused_marker.exists()


def test_without_a_marker_the_process_remembers_by_itself(settings: TokenSettings) -> None:
    settings.pin_file.write_text("00000000")
    # The marker cannot be written where a directory stands in its way.
    settings.refused_marker.with_name(f"{settings.refused_marker.name}.new").mkdir()
    with Started(settings) as client:
        problem_of(client, "CKR_PIN_INCORRECT")
        settings.pin_file.write_text(USER_PIN)
        assert client.wait_ready(20), client.problem
    assert not settings.refused_marker.exists()


def test_a_second_wrong_pin_is_a_second_attempt(settings: TokenSettings) -> None:
    settings.pin_file.write_text("00000000")
    trace = LoginTrace(settings)
    with Started(settings) as client:
        problem_of(client, "CKR_PIN_INCORRECT")
        first = trace.stamp()
        settings.pin_file.write_text("000000000")
        eventually(lambda: trace.stamp() != first)


def test_the_marker_holds_nothing_of_the_pin(settings: TokenSettings) -> None:
    wrong = secrets.token_hex(12)
    settings.pin_file.write_text(wrong)
    with Started(settings):
        eventually(settings.refused_marker.exists)
    text = settings.refused_marker.read_text()
    status = settings.pin_file.stat()
    assert wrong not in text
    expected = Refusal(status.st_ino, status.st_mtime_ns, status.st_size, "CKR_PIN_INCORRECT")
    assert recall_refusal(settings.refused_marker) == expected
    assert settings.refused_marker.stat().st_mode & 0o777 == 0o600


def test_a_marker_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert recall_refusal(marker) is None
    for content in ("", "{}", "[]", '{"inode": 1}', "\xff"):
        marker.write_text(content)
        assert recall_refusal(marker) is None
    remember_refusal(marker, Refusal(1, 2, 3, "CKR_PIN_LOCKED"))
    assert recall_refusal(marker) == Refusal(1, 2, 3, "CKR_PIN_LOCKED")


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        (lambda path: path.unlink(), "cannot be opened"),
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.chmod(0o604), "chmod 600"),
        (lambda path: path.write_bytes(b""), "must hold"),
        (lambda path: path.write_bytes(b"\n"), "must hold"),
        (lambda path: path.write_bytes(bytes(256)), "must hold"),
        (lambda path: path.write_bytes(b"\xff\xfe\xff\xfe"), "UTF-8"),
        (lambda path: (path.unlink(), path.mkdir()), "regular file"),
        (_make_pipe, "regular file"),
        pytest.param(
            lambda path: os.chown(path, 65534, 65534),
            "chown",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
    ],
    ids=["missing", "group", "world", "empty", "newline", "long", "binary", "directory", "pipe", "foreign"],
)
def test_a_pin_file_that_lies_wrongly_is_refused_with_a_remedy(
    settings: TokenSettings, spoil: Callable[[Path], object], finding: str
) -> None:
    spoil(settings.pin_file)
    with pytest.raises(CertdError) as caught:
        read_pin(settings.pin_file)
    assert caught.value.reason is Reason.TOKEN_UNAVAILABLE
    assert finding in caught.value.message
    assert str(settings.pin_file) in caught.value.message


@pytest.mark.parametrize(
    ("content", "pin"),
    [(b"1234", b"1234"), (b"1234\n", b"1234"), (b"1234\n\n", b"1234\n"), ("pîn".encode(), "pîn".encode())],
)
def test_one_trailing_newline_is_dropped(tmp_path: Path, content: bytes, pin: bytes) -> None:
    path = tmp_path / "pin"
    path.touch(mode=0o400)
    path.write_bytes(content)
    found = read_pin(path)
    assert bytes(found.value) == pin
    assert pin.decode() not in repr(found)


def test_a_pin_file_that_is_put_right_heals(settings: TokenSettings) -> None:
    settings.pin_file.chmod(0o644)
    with Started(settings) as client:
        problem_of(client, "chmod 600")
        settings.pin_file.chmod(0o600)
        assert client.wait_ready(20)


def test_the_user_s_pin_can_be_changed(settings: TokenSettings) -> None:
    with Started(settings) as client:
        assert client.wait_ready(20)
        client.set_pin(user=PinUser.NORMAL, old_pin=USER_PIN.encode(), new_pin=b"90909090")
        assert client.describe().label == settings.label
    with Started(settings) as client:
        problem_of(client, "CKR_PIN_INCORRECT")
        settings.pin_file.write_text("90909090")
        assert client.wait_ready(20)


def test_the_security_officer_s_pin_can_be_changed(settings: TokenSettings) -> None:
    with Started(settings) as client:
        assert client.wait_ready(20)
        client.set_pin(user=PinUser.SECURITY_OFFICER, old_pin=SO_PIN.encode(), new_pin=b"60606060")
        assert client.describe().label == settings.label
        with pytest.raises(CertdError) as caught:
            client.set_pin(user=PinUser.SECURITY_OFFICER, old_pin=SO_PIN.encode(), new_pin=b"70707070")
        assert [violation.field for violation in caught.value.violations] == ["old_pin"]
        # The token is open again after an attempt that failed.
        assert client.describe().label == settings.label
        client.set_pin(user=PinUser.SECURITY_OFFICER, old_pin=b"60606060", new_pin=b"80808080")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [(b"11111111", b"22222222", "old_pin"), (USER_PIN.encode(), b"1", "new_pin"), (b"\xff", b"22222222", "new_pin")],
    ids=["wrong", "short", "binary"],
)
def test_a_pin_that_cannot_be_changed_is_named_and_not_shown(
    settings: TokenSettings, old: bytes, new: bytes, field: str
) -> None:
    with Started(settings) as client:
        assert client.wait_ready(20)
        with pytest.raises(CertdError) as caught:
            client.set_pin(user=PinUser.NORMAL, old_pin=old, new_pin=new)
        assert [violation.field for violation in caught.value.violations] == [field]
        assert USER_PIN not in caught.value.message
        assert client.describe().label == settings.label


def test_the_flags_of_the_token_know_of_one_refused_login_only_while_it_lasts(settings: TokenSettings) -> None:
    """The positive control: SoftHSM itself saw a refused login."""
    settings.pin_file.write_text("00000000")
    with Started(settings) as client:
        problem_of(client, "CKR_PIN_INCORRECT")
    assert _flags(settings) & _USER_PIN_COUNT_LOW


_USER_PIN_COUNT_LOW = 0x0001_0000
_FLAGS = "import pkcs11, sys; print(int(next(pkcs11.lib(sys.argv[1]).get_tokens(token_label=sys.argv[2])).flags))"


def _flags(settings: TokenSettings) -> int:
    return int(run_python(_FLAGS, str(settings.module), settings.label, configuration=settings.softhsm_conf))
