"""What an administrator does on the machine itself: coming back in, and installing units."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.daemon import Installation, installed, run_program, running

SYSTEMD = shutil.which("systemd-analyze")
CERTD = "#!/bin/sh\nexit 0\n"


def test_an_administrator_without_credentials_comes_back_in(tmp_path: Path) -> None:
    made = installed(tmp_path)
    before = {path.name: path.read_bytes() for path in made.credentials.iterdir()}
    options = ("--config", made.config, "--credentials-dir", made.credentials)
    with running(made) as daemon:
        refused = run_program("certd", "recover-admin", *options)
        assert refused.returncode == 1
        assert "STORE_UNAVAILABLE" in refused.stderr
        assert "Stop that one first" in refused.stderr
        assert {path.name: path.read_bytes() for path in made.credentials.iterdir()} == before
        assert daemon.certctl("server", "info").returncode == 0
    shutil.rmtree(made.credentials)
    recovered = run_program("certd", "recover-admin", *options)
    assert recovered.returncode == 0, recovered.stderr
    assert "spiffe://certd.internal/identities/admin" in recovered.stdout
    assert {path.name for path in made.credentials.iterdir()} == set(before)
    assert {path.stat().st_mode & 0o777 for path in made.credentials.iterdir()} == {0o600}
    assert made.private_key.read_bytes() != before["admin.key"]
    assert made.trust_bundle.read_bytes() == before["root.pem"]
    with running(made) as daemon:
        answer = daemon.certctl("server", "info", "-o", "json")
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["token"]["ready"] is True


def test_recovery_before_init_says_what_to_do(tmp_path: Path) -> None:
    made = installed(tmp_path)
    (made.data / "certd.db").unlink()
    ended = run_program(
        "certd", "recover-admin", "--config", made.config, "--credentials-dir", tmp_path / "new credentials"
    )
    assert ended.returncode == 1
    assert "certd init" in ended.stderr or "certd migrate" in ended.stderr
    assert list((tmp_path / "new credentials").iterdir()) == []


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A server whose configuration names a token process of its own, with a space in every path."""
    made = installed(tmp_path_factory.mktemp("two users"))
    keys = made.data.parent / "keys"
    keys.mkdir()
    for name in ("token", "token-pin"):
        shutil.move(made.data / name, keys / name)
    softhsm = keys / "token" / "softhsm2.conf"
    softhsm.write_text(softhsm.read_text().replace(str(made.data), str(keys)))
    text = made.config.read_text()
    for name in ("token/softhsm2.conf", "token-pin"):
        text = text.replace(str(made.data / name), str(keys / name))
    text = text.replace('# socket = "/run/certd/token.sock"', 'socket = "/run/certd-token/token.sock"')
    made.config.write_text(text.replace("# allowed_users", "allowed_users"))
    program = made.data.parent / "certd"
    program.write_text(CERTD)
    program.chmod(0o755)
    return made


def install(made: Installation, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    program = made.data.parent / "certd"
    return run_program("certd", "install-units", "--config", made.config, "--executable", program, *arguments)


def test_the_units_are_written_once_and_say_what_comes_next(separated: Installation, tmp_path: Path) -> None:
    ended = install(separated, "--directory", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "systemctl enable --now certd-token.service certd.service" in ended.stdout
    units = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(units) == {"certd.service", "certd-token.service"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    again = install(separated, "--directory", tmp_path)
    assert [line.split()[0] for line in again.stdout.splitlines()[:2]] == ["kept", "kept"]
    printed = install(separated, "--print").stdout
    assert all(text in printed for text in units.values())


def test_each_process_reaches_its_own_files_alone(separated: Installation, tmp_path: Path) -> None:
    assert install(separated, "--directory", tmp_path, "--user", "certd").returncode == 0
    daemon = (tmp_path / "certd.service").read_text().splitlines()
    token = (tmp_path / "certd-token.service").read_text().splitlines()
    keys = separated.data.parent / "keys"
    assert f'ReadWritePaths="{separated.data}"' in daemon
    assert f'ReadWritePaths="{keys}"' in token
    assert f'InaccessiblePaths="-{keys / "token"}"' in daemon
    assert f'InaccessiblePaths="-{keys / "token-pin"}"' in daemon
    assert [line for line in daemon if line.startswith("ReadWritePaths")] == [f'ReadWritePaths="{separated.data}"']
    assert {"User=certd", "NoNewPrivileges=yes", "CapabilityBoundingSet="} <= set(daemon)
    assert {"User=certd-token", "PrivateNetwork=yes", "RuntimeDirectory=certd-token"} <= set(token)


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze comes with systemd")
def test_systemd_finds_nothing_wrong_with_the_units(separated: Installation, tmp_path: Path) -> None:
    assert install(separated, "--directory", tmp_path).returncode == 0
    units = [tmp_path / name for name in ("certd.service", "certd-token.service")]

    def verified() -> str:
        command = [str(SYSTEMD), "verify", "--man=no", *map(str, units)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        # It also tells of other units of the machine.
        lines = (ended.stdout + ended.stderr).splitlines()
        return "\n".join(line for line in lines if str(tmp_path) in line or line.startswith("certd"))

    assert verified() == ""
    # The positive control: it does tell of what it does not know.
    units[0].write_text(units[0].read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in verified()


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze comes with systemd")
def test_systemd_calls_the_units_well_confined(separated: Installation, tmp_path: Path) -> None:
    assert install(separated, "--directory", tmp_path).returncode == 0
    for name, most in (("certd.service", 20), ("certd-token.service", 15)):
        command = [
            str(SYSTEMD),
            "security",
            "--offline=true",
            f"--threshold={most}",
            "--no-pager",
            str(tmp_path / name),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if "unrecognized option" in ended.stderr:
            pytest.skip("this systemd-analyze judges only units that are loaded")
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ('socket = "/run/certd-token/token.sock"', "", "token.socket"),
        ('socket = "/run/certd-token/token.sock"', 'socket = "/run/token.sock"', "token.socket"),
        ('allowed_users = ["certd"]', 'allowed_users = ["somebody"]', "token.allowed_users"),
    ],
)
def test_a_configuration_that_two_units_cannot_work_with_is_refused(
    separated: Installation, tmp_path: Path, before: str, after: str, field: str
) -> None:
    text = separated.config.read_text()
    assert before in text
    config = separated.data / "other.toml"
    config.write_text(text.replace(before, after))
    ended = run_program(
        *("certd", "install-units", "--config", config, "--directory", tmp_path),
        *("--executable", separated.data.parent / "certd"),
    )
    assert ended.returncode == 1
    assert f"{field}: " in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_keys_in_a_folder_of_the_daemon_are_refused(separated: Installation, tmp_path: Path) -> None:
    keys = str(separated.data.parent / "keys")
    config = separated.data / "together.toml"
    config.write_text(separated.config.read_text().replace(keys, str(separated.data)))
    ended = run_program(
        *("certd", "install-units", "--config", config, "--directory", tmp_path),
        *("--executable", separated.data.parent / "certd"),
    )
    assert ended.returncode == 1
    assert "token.pin_file: " in ended.stderr
    assert "token.softhsm_conf: " in ended.stderr


@pytest.mark.parametrize("options", [("--user", "certd", "--token-user", "certd"), ("--user", "Certd\nX=y")])
def test_users_that_keep_nothing_apart_or_are_none_are_refused(
    separated: Installation, tmp_path: Path, options: tuple[str, ...]
) -> None:
    ended = install(separated, "--directory", tmp_path, *options)
    assert ended.returncode == 1
    assert "user" in ended.stderr
    assert list(tmp_path.iterdir()) == []
