"""certd.toml, [notify]: where webhooks may go, and the server of mail."""

from pathlib import Path

import pytest

from certd.config import load, require_files
from certd.config_notify import mail_server
from certd.errors import CertdError
from certd.model.mail_server import MailSecurity, MailServer
from tests.unit.config_files import COMPLETE, config_file, violations_of, with_key

_MAIL = {"host": '"mail.example.org"', "from": '"certd@example.org"'}


def _mail(**changes: str) -> str:
    """Returns the complete file with a mail server."""
    keys = {**_MAIL, **{key.rstrip("_"): literal for key, literal in changes.items()}}
    return "\n".join([COMPLETE, "[notify.smtp]", *(f"{key} = {literal}" for key, literal in keys.items() if literal)])


def test_the_mail_server(tmp_path: Path) -> None:
    read = mail_server(load(config_file(tmp_path, _mail())).notify)
    assert read == MailServer(
        host="mail.example.org", port=587, security=MailSecurity.STARTTLS, sender="certd@example.org"
    )
    (tmp_path / "password").write_text("hunter2")
    (tmp_path / "password").chmod(0o600)
    text = _mail(security='"tls"', username='"certd"', password_file='"password"', ca_file='"root.pem"')
    assert mail_server(load(config_file(tmp_path, text)).notify) == MailServer(
        host="mail.example.org",
        port=465,
        security=MailSecurity.TLS,
        sender="certd@example.org",
        username="certd",
        password_file=tmp_path / "password",
        ca_file=tmp_path / "root.pem",
    )
    assert mail_server(load(config_file(tmp_path, COMPLETE)).notify) is None
    with pytest.raises(CertdError, match=r"notify\.smtp\.ca_file: .*root\.pem does not exist"):
        require_files(load(config_file(tmp_path, text)))
    (tmp_path / "password").chmod(0o644)
    assert "chmod 600" in violations_of(tmp_path, text)["notify.smtp.password_file"]


@pytest.mark.parametrize(
    ("changes", "field", "part"),
    [
        ({"security": '"none"'}, "security", "never sent in the clear"),
        ({"security": "false"}, "security", "never sent in the clear"),
        ({"host": '"a b"'}, "host", "pattern"),
        ({"port": "0"}, "port", "greater than or equal to 1"),
        ({"from_": '"certd"'}, "from", "bare address"),
        ({"from_": '"a@b\\nBcc: c@d"'}, "from", "bare address"),
        ({"from_": ""}, "from", "required"),
        ({"password": '"hunter2"'}, "password", "no such key"),
        ({"username": '"certd"'}, "", "need each other"),
        ({"password_file": '"password"'}, "", "need each other"),
    ],
)
def test_a_bad_mail_server_is_named(tmp_path: Path, changes: dict[str, str], field: str, part: str) -> None:
    violations = violations_of(tmp_path, _mail(**changes))
    assert part in violations[f"notify.smtp.{field}".rstrip(".")]
    assert "hunter2" not in str(violations)


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.org", "10.0.0.0/33", ""])
def test_a_bad_network_is_named(tmp_path: Path, network: str) -> None:
    violations = violations_of(tmp_path, with_key("notify.allowed_networks", f'["10.0.0.0/8", "{network}"]'))
    assert "bits behind" in violations["notify.allowed_networks.1"]
