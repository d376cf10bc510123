"""certd-agent on the command line: its help, its refusals, its unit."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from certd import __version__
from certd.agent.program import main
from certd.agent.status import CertificateStatus, Status, write

SYSTEMD = shutil.which("systemd-analyze")
CONFIG = """
server = "ca.example.internal:8443"
state_directory = "{folder}/state"
[[certificate]]
name = "web"
association = "tenants/default/managedCertificates/web/associations/web-1"
directory = "{folder}/tls files"
reload = ["true"]
[[certificate.file]]
path = "key.pem"
format = "private-key"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def ran(*arguments: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], input=stdin)


@pytest.mark.parametrize("name", list(main.commands))
def test_the_examples_of_a_command_can_be_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = main.commands[name]
    lines = (command.epilog or "").replace("\b\n", "").splitlines()
    assert lines[0] in {"Example:", "Examples:"}
    for line in lines[1:]:
        parsed = shlex.shlex(line.replace('"$(', "").replace(')"', ""), posix=True, punctuation_chars="|<>")
        parsed.whitespace_split = True
        words = list(parsed)
        words = words[words.index("certd-agent") :]
        end = next((place for place, word in enumerate(words) if word in {"|", "<", ">"}), None)
        assert words[:2] == ["certd-agent", name]
        context = command.make_context(name, words[2:end], parent=click.Context(main))
        assert not context.args


def test_help_version_and_usage() -> None:
    assert "Examples:" in ran("--help").output
    assert __version__ in ran("--version").output
    assert ran("no-such").exit_code == 2
    assert ran("run", "--no-such").exit_code == 2
    assert "_CERTD_AGENT_COMPLETE" in ran("completion", "bash").output


def test_the_configuration_is_named_by_option_or_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran("check-config", "--config", config).output == "ok\n"
    monkeypatch.setenv("CERTD_AGENT_CONFIG", str(config))
    assert ran("check-config").output == "ok\n"


def test_findings_are_printed_with_their_key_paths(config: Path) -> None:
    config.write_text(config.read_text().replace('["true"]', '["no-such-program"]'))
    ended = ran("check-config", "--config", config)
    assert ended.exit_code == 1
    assert ended.output.startswith("certificate.0.reload: no-such-program is no program")
    config.write_text("colour = 1\n" + config.read_text())
    ended = ran("check-config", "--config", config)
    assert (ended.exit_code, ended.output) == (1, "colour: there is no such key; remove it, or see its spelling\n")
    for command in ("run", "status", "enroll", "install-unit"):
        ended = ran(command, "--config", config)
        assert ended.exit_code == 1
        assert "FIELD_INVALID" in ended.output
        assert "colour: there is no such key" in ended.output


def test_status_before_anything_ran(config: Path) -> None:
    ended = ran("status", "--config", config)
    assert ended.exit_code == 1
    assert "no agent has run" in ended.output


def test_status_knows_what_has_ended_since(config: Path, tmp_path: Path) -> None:
    shown = CertificateStatus(
        name="web",
        association="tenants/default/managedCertificates/web/associations/web-1",
        state="SERVING",
        version=3,
        certificate_sha256="00",
        not_after="2020-01-01T00:00:00Z",
        current_version=3,
        error="",
        retry_time="",
    )
    found = Status(
        version=__version__,
        pid=1,
        start_time="2019-12-31T00:00:00Z",
        server="ca.example.internal:8443",
        identity="spiffe://certd.internal/identities/web-1",
        identity_not_after="2020-01-02T00:00:00Z",
        connected=True,
        problem="",
        certificates=(shown, replace(shown, name="mail", not_after="9999-01-01T00:00:00Z", error="\x1b[2J")),
    )
    (tmp_path / "state").mkdir(mode=0o700)
    write(tmp_path / "state", found)
    ended = ran("status", "--config", config)
    assert ended.exit_code == 1
    assert [line.split()[:3] for line in ended.output.splitlines()[-2:]] == [
        ["web", "ENDED", "3"],
        ["mail", "SERVING", "3"],
    ]
    assert "\x1b" not in ended.output
    told = json.loads(ran("status", "--config", config, "-o", "json").output)
    assert [each["state"] for each in told["certificates"]] == ["ENDED", "SERVING"]
    (tmp_path / "state" / "status.json").write_text("{")
    assert "no agent has run" in ran("status", "--config", config).output


def test_enrolling_needs_an_address_and_a_code(config: Path, tmp_path: Path) -> None:
    assert "listen.enrollment" in ran("enroll", "--config", config).output
    config.write_text('enrollment = "127.0.0.1:1"\n' + config.read_text())
    ended = ran("enroll", "--config", config, stdin=b"certd1-not-a-code\n")
    assert ended.exit_code == 1
    assert "ENROLLMENT_CODE_INVALID" in ended.output
    assert "not-a-code" not in ended.output
    ended = ran("enroll", "--config", config, "--code-file", tmp_path / "no-such")
    assert "cannot be read" in ended.output
    assert not (tmp_path / "state" / "identity.key").exists()


def test_a_state_directory_that_others_read_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    ended = ran("run", "--config", config)
    assert ended.exit_code == 1
    assert "chmod 700" in ended.output


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze comes with systemd")
@pytest.mark.parametrize("user", ["root", "certd-agent"])
def test_the_unit_passes_the_check_of_systemd(config: Path, tmp_path: Path, user: str) -> None:
    program = tmp_path / "certd-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    ended = ran("install-unit", "--config", config, "--directory", tmp_path, "--user", user, "--executable", program)
    assert ended.exit_code == 0, ended.output
    assert "systemctl enable --now certd-agent.service" in ended.output
    unit = tmp_path / "certd-agent.service"
    text = unit.read_text()
    assert f'ReadWritePaths="-{tmp_path}/tls files"\n' in text
    assert ("CapabilityBoundingSet=CAP_CHOWN" in text) == (user == "root")
    checked = subprocess.run([str(SYSTEMD), "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    again = ran("install-unit", "--config", config, "--directory", tmp_path, "--user", user, "--executable", program)
    assert again.output.startswith("kept")
    printed = ran("install-unit", "--config", config, "--user", user, "--executable", program, "--print")
    assert text in printed.output


def test_a_unit_needs_a_program_and_a_user(config: Path, tmp_path: Path) -> None:
    assert ran("install-unit", "--config", config, "--executable", tmp_path / "no-such").exit_code == 2
    ended = ran("install-unit", "--config", config, "--executable", config, "--user", "no body", "--print")
    assert ended.exit_code == 1
    assert "--user" in ended.output


def test_what_is_told_in_json_is_one_object_a_line() -> None:
    script = """
import logging
from certd.agent import log
log.configure(level="info", style="json")
logging.getLogger("a").info("version %d\\nserved", 3, extra=log.fields(certificate="web"))
logging.getLogger("a").debug("unheard")
log.configure(level="info", style="text")
logging.getLogger("a").warning("plain", extra=log.fields(certificate="web"))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    first, second = ended.stderr.splitlines()
    event = json.loads(first)
    assert (event["event"], event["certificate"], event["level"]) == ("version 3 | served", "web", "info")
    assert second.endswith("[warning] plain certificate=web")


def test_running_loads_nothing_that_only_others_need() -> None:
    script = """
import sys
from certd.agent import agent, program, targets
from certd.client import watch
heavy = {"pydantic", "structlog", "sqlalchemy", "certd.agent.sds", "certd.agent.probe", "certd.client.enrollment",
         "certd.agent.findings", "certd.agent.unit", "asn1crypto", "unittest"}
print(sorted(heavy & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "[]\n"
