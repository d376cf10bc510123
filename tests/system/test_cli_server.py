"""`certd` as a person meets it: help, exit codes, errors, and the life of a server from init to SIGTERM."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from certd.cli.initialisation import names_of
from tests.waiting import eventually

_CERTD = (sys.executable, "-c", "from certd.cli.server import main; main(prog_name='certd')")
_FREE = tuple(
    word for listener in ("grpc", "enrollment", "http", "metrics") for word in (f"--{listener}-address", "127.0.0.1:0")
)


def _run(
    *arguments: str, home: Path, expected: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [*_CERTD, *arguments],
        env={**_environment(home), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == expected, finished.stdout + finished.stderr
    return finished


def _environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "CERTD_CONFIG"}
    return {**kept, "HOME": str(home)}


@dataclass(frozen=True, slots=True)
class _Home:
    path: Path
    output: str = field(repr=False)

    @property
    def data(self) -> Path:
        return self.path / ".local/share/certd"

    @property
    def credentials(self) -> Path:
        return self.path / ".config/certd"

    @property
    def config(self) -> Path:
        return self.data / "certd.toml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> _Home:
    """The home of a user after `certd init`."""
    path = tmp_path_factory.mktemp("home")
    return _Home(path, _run("init", *_FREE, "--server-name", "localhost", home=path).stdout)


@contextmanager
def _serving(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    with (home / "stderr.log").open("a") as log:
        process = subprocess.Popen(
            [*_CERTD, "serve", *arguments], env=_environment(home), stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("READY "), (home / "stderr.log").read_text()
            yield process, json.loads(line.removeprefix("READY "))
        finally:
            process.kill()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()


@pytest.mark.parametrize(
    "command",
    [
        *((), ("init",), ("serve",), ("token",), ("token", "serve"), ("check-config",), ("migrate",), ("completion",)),
        *(("recover-admin",), ("rotate-system-authority",), ("install-units",)),
        *(("doctor",), ("backup",), ("restore",), ("recover-wrapping-key",)),
    ],
)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: tuple[str, ...]) -> None:
    output = _run(*command, "--help", home=tmp_path).stdout
    assert output.startswith("Usage: certd")
    if command != ("token",):
        assert "Example" in output


def test_version(tmp_path: Path) -> None:
    assert "0.1.0" in _run("--version", home=tmp_path).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("serve",),
        ("serve", "--nonsense"),
        ("completion", "tcsh"),
        ("init", "--token-label", "x"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "Usage: certd" in _run(*arguments, home=tmp_path, expected=2).stderr


@pytest.mark.parametrize("command", [("serve",), ("check-config",), ("migrate",), ("token", "serve")])
def test_a_configuration_that_is_nowhere_is_wrong_usage_and_says_how_to_name_it(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    stderr = _run(*command, home=tmp_path, expected=2).stderr
    for named in ("--config", "CERTD_CONFIG", f"{tmp_path}/.local/share/certd/certd.toml", "certd init"):
        assert named in stderr


def test_the_configuration_of_init_is_found_by_itself(home: _Home) -> None:
    assert _run("check-config", home=home.path).stdout == "ok\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(tmp_path: Path, shell: str) -> None:
    assert "_CERTD_COMPLETE" in _run("completion", shell, home=tmp_path).stdout


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("token", "serve")])
def test_a_mistake_in_the_configuration_is_one_line_and_its_remedy(tmp_path: Path, command: tuple[str, ...]) -> None:
    path = tmp_path / "certd.toml"
    path.write_text("[listen]\nport = 1\n")
    stderr = _run(*command, "--config", str(path), home=tmp_path, expected=1).stderr
    first, second = stderr.splitlines()
    assert first.startswith(f"certd: FIELD_INVALID: {path}: ")
    assert "listen.port: there is no such key" in first
    assert "remedy: " in second


def test_what_is_wrong_elsewhere_names_its_remedy_in_its_line(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("a passphrase that others can read")
    secret.chmod(0o644)
    command = ("backup", "--verify", str(secret), "--passphrase-file", str(secret))
    (only,) = _run(*command, home=tmp_path, expected=1).stderr.splitlines()
    assert only.startswith("certd: FIELD_INVALID: --passphrase-file: ")
    assert only.endswith(f"chmod 600 {secret}")


def test_check_config_names_every_mistake(tmp_path: Path, home: _Home) -> None:
    assert _run("check-config", "--config", str(home.config), home=home.path).stdout == "ok\n"
    path = tmp_path / "certd.toml"
    path.write_text(home.config.read_text().replace("[log]", 'colour = "red"\n[log]').replace('"text"', '"xml"'))
    lines = _run("check-config", home=tmp_path, expected=1, environment={"CERTD_CONFIG": str(path)}).stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["audit.colour", "log.format"]


def test_check_config_sees_what_is_missing(tmp_path: Path, home: _Home) -> None:
    path = tmp_path / "certd.toml"
    path.write_text(home.config.read_text().replace("server.key", "absent.key"))
    output = _run("check-config", "--config", str(path), home=tmp_path, expected=1).stdout
    assert output.startswith("tls.private_key: ")
    assert "certd init" in output


def test_init_makes_a_server_and_its_administrator(home: _Home) -> None:
    assert f"made  {home.config}" in home.output
    assert f"certd serve --config {home.config}" in home.output
    secret = ["token-pin", "token-so-pin", "server.key"]
    for path in [*(home.data / name for name in secret), home.credentials / "admin.key"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (home.data, home.credentials, home.data / "token"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    settings = tomllib.loads((home.credentials / "certctl.toml").read_text())
    assert set(settings) == {"address", "certificate", "private_key", "trust_bundle"}
    administrator = x509.load_pem_x509_certificates(Path(settings["certificate"]).read_bytes())[0]
    names = administrator.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://certd.internal/identities/admin"]
    root = x509.load_pem_x509_certificate(Path(settings["trust_bundle"]).read_bytes())
    administrator.verify_directly_issued_by(root)
    server = x509.load_pem_x509_certificate((home.data / "server.pem").read_bytes())
    server.verify_directly_issued_by(root)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    for path, certificate in ((home.data / "server.pem", server), (home.credentials / "admin.pem", administrator)):
        assert f"  {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC  {path}" in home.output.splitlines()


def test_init_again_keeps_everything(home: _Home) -> None:
    def contents() -> dict[Path, bytes]:
        folders = (home.data, home.credentials)
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {
            path: path.read_bytes() for path in files if path.suffix in {".pem", ".key", ".toml"} or "pin" in path.name
        }

    before = contents()
    output = _run("init", *_FREE, home=home.path).stdout
    assert "made" not in output
    assert contents() == before


def test_init_completes_what_is_missing(tmp_path: Path) -> None:
    output = _run("init", *_FREE, home=tmp_path).stdout
    assert "kept" not in output
    made = _Home(tmp_path, output)
    for path in (made.credentials / "root.pem", made.credentials / "certctl.toml", made.data / "server.pem"):
        path.unlink()
    output = _run("init", home=tmp_path).stdout
    lines = {line[6:] for line in output.splitlines() if line.startswith("made")}
    assert lines == {
        str(made.credentials / "root.pem"),
        str(made.credentials / "certctl.toml"),
        str(made.data / "server.pem"),
    }
    # Named anew, the server has another certificate; nobody has to delete anything.
    for names, changed in ((("ca.example.internal", "localhost"), True), (("ca.example.internal", "localhost"), False)):
        options = [option for name in names for option in ("--server-name", name)]
        said = _run("init", *options, home=tmp_path).stdout.splitlines()
        assert (f"made  {made.data / 'server.pem'}" in said) == changed
        assert names_of(made.data / "server.pem") == names


def test_init_does_not_pass_over_an_option_that_contradicts_the_file(home: _Home) -> None:
    stderr = _run("init", "--trust-domain", "example.org", home=home.path, expected=1).stderr
    assert "tls.trust_domain is certd.internal in" in stderr


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        (("--grpc-address", "nowhere"), "--grpc-address, listen.grpc: write host:port"),
        (("--metrics-address", "[::g]:1"), "--metrics-address, listen.metrics: "),
        (("--trust-domain", "Example Org"), "--trust-domain, tls.trust_domain: "),
        (("--database-url", "mysql://x"), "--database-url, database.url: "),
        (("--server-name", "-x-"), "server_names"),
        (
            ("--pkcs11-module", sys.executable, "--token-label", "x", "--pin-file", "/nowhere/pin"),
            "--pin-file, token.pin_file: ",
        ),
        (
            ("--pkcs11-module", sys.executable, "--token-label", "x" * 33, "--pin-file", sys.executable),
            "--token-label, token.label: ",
        ),
    ],
)
def test_init_refuses_a_bad_value_before_it_makes_anything(
    tmp_path: Path, options: tuple[str, ...], finding: str
) -> None:
    ended = _run("init", *options, home=tmp_path, expected=1)
    assert finding in ended.stderr
    assert "certd.toml.new" not in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_a_folder_that_is_open_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    stderr = _run("init", "--data-dir", str(folder), home=tmp_path, expected=1).stderr
    assert f"chmod 700 {folder}" in stderr


def test_init_with_an_existing_token(tmp_path: Path, home: _Home) -> None:
    # The token of another server is, for this one, any token with a module, a label and a PIN.
    token = tomllib.loads(home.config.read_text())["token"]
    options = ("--pkcs11-module", token["module"], "--token-label", token["label"], "--pin-file", token["pin_file"])
    environment = {"SOFTHSM2_CONF": token["softhsm_conf"]}
    _run("init", *_FREE, *options, home=tmp_path, environment=environment)
    settings = tomllib.loads((tmp_path / ".local/share/certd/certd.toml").read_text())
    assert settings["token"]["pin_file"] == token["pin_file"]
    assert not (tmp_path / ".local/share/certd/token").exists()


def test_init_with_a_missing_module_says_so(tmp_path: Path, home: _Home) -> None:
    pin_file = tomllib.loads(home.config.read_text())["token"]["pin_file"]
    options = ("--pkcs11-module", "/nowhere/module.so", "--token-label", "x", "--pin-file", pin_file)
    stderr = _run("init", *_FREE, *options, home=tmp_path, expected=1).stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("certd: ")]
    assert line.startswith("certd: TOKEN_UNAVAILABLE: ")
    assert "/nowhere/module.so" in line


def test_serve_says_where_and_stops_on_sigterm(home: _Home) -> None:
    with _serving(home.path, "--config", str(home.config)) as (process, ready):
        assert ready["daemon_pid"] == process.pid
        assert isinstance(ready["token_pid"], int)
        for listener in ("grpc", "enrollment", "http", "metrics"):
            host, _, port = str(ready[listener]).rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        if sys.platform.startswith("linux"):
            # The daemon's threads keep to one processor; its token process may use all that there are.
            threads = [int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
            assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {
                frozenset(os.sched_getaffinity(process.pid))
            }
            assert {os.sched_getscheduler(each) for each in (*threads, ready["token_pid"])} == {os.SCHED_BATCH}
            assert len(os.sched_getaffinity(process.pid)) == 1
            assert os.sched_getaffinity(int(str(ready["token_pid"]))) == os.sched_getaffinity(0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        eventually(lambda: not Path(f"/proc/{ready['token_pid']}").exists())


def test_serve_reloads_its_log_level_and_outlives_a_mistake_on_sighup(tmp_path: Path) -> None:
    _run("init", *_FREE, home=tmp_path)
    config = _Home(tmp_path, "").config
    log = tmp_path / "stderr.log"
    good = config.read_text()
    with _serving(tmp_path, "--config", str(config)) as (process, _):
        config.write_text(good.replace('level = "info"', 'level = "loud"'))
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reload failed" in log.read_text())
        assert "log.level" in log.read_text()
        config.write_text(good.replace('level = "info"', 'level = "debug"'))
        certificate, away = _Home(tmp_path, "").data / "server.pem", tmp_path / "server.pem"
        certificate.rename(away)
        try:
            process.send_signal(signal.SIGHUP)
            eventually(lambda: "tls.certificate" in log.read_text())
        finally:
            away.rename(certificate)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in log.read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_serve_before_init_says_what_to_do(tmp_path: Path, home: _Home) -> None:
    path = tmp_path / "certd.toml"
    path.write_text(home.config.read_text().replace(str(home.data / "server."), str(tmp_path / "server.")))
    stderr = _run("serve", "--config", str(path), home=tmp_path, expected=1).stderr
    assert "tls.certificate" in stderr
    assert "certd init" in stderr


def test_serve_on_a_busy_port_is_one_error(home: _Home, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "certd.toml"
        for listener in ("grpc", "enrollment", "http", "metrics"):
            path.write_text(
                home.config.read_text().replace(f'{listener} = "127.0.0.1:0"', f'{listener} = "127.0.0.1:{port}"')
            )
            stderr = _run("serve", "--config", str(path), home=tmp_path, expected=1).stderr
            (line,) = [line for line in stderr.splitlines() if line.startswith("certd: ")]
            assert str(port) in line
            assert "Traceback" not in stderr


def test_a_second_daemon_on_the_database_is_refused(home: _Home) -> None:
    with _serving(home.path, "--config", str(home.config)):
        for command in (("serve", "--config", str(home.config)), ("init",)):
            stderr = _run(*command, home=home.path, expected=1).stderr
            assert "certd: STORE_UNAVAILABLE: " in stderr
            assert "Traceback" not in stderr


def test_migrate_is_idempotent(home: _Home) -> None:
    for _ in range(2):
        assert "up to date" in _run("migrate", "--config", str(home.config), home=home.path).stdout


def test_token_serve_needs_a_socket(home: _Home) -> None:
    stderr = _run("token", "serve", "--config", str(home.config), home=home.path, expected=2).stderr
    assert "--socket" in stderr


def test_token_serve_names_a_user_that_does_not_exist(tmp_path: Path, home: _Home) -> None:
    path = tmp_path / "certd.toml"
    path.write_text(home.config.read_text().replace("# allowed_users = [", 'allowed_users = ["no-such-user", '))
    stderr = _run(
        "token", "serve", "--config", str(path), "--socket", str(tmp_path / "s"), home=tmp_path, expected=1
    ).stderr
    assert "token.allowed_users: there is no user no-such-user" in stderr


def test_the_daemon_works_with_a_token_process_behind_a_socket(tmp_path: Path) -> None:
    _run("init", *_FREE, home=tmp_path)
    config = _Home(tmp_path, "").config
    path = tmp_path / "token.sock"
    config.write_text(config.read_text().replace('# socket = "/run/certd/token.sock"', f'socket = "{path}"'))
    log = (tmp_path / "token.log").open("w")
    token = subprocess.Popen(
        [*_CERTD, "token", "serve", "--config", str(config)], env=_environment(tmp_path), stderr=log
    )
    try:
        eventually(path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with _serving(tmp_path, "--config", str(config)) as (process, ready):
            # Not the daemon's child, so not its to tell.
            assert ready["token_pid"] is None
            with urllib.request.urlopen(f"http://{ready['http']}/readyz", timeout=10) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert token.poll() is None
        # It holds no more code than it needs.
        maps = Path(f"/proc/{token.pid}/maps")
        if maps.exists():
            loaded = maps.read_text()
            assert "grpc" not in loaded
            assert "psycopg" not in loaded
        token.send_signal(signal.SIGTERM)
        assert token.wait(60) == 0
    finally:
        token.kill()
        token.wait(30)
        log.close()
