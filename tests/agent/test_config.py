"""agent.toml: what is read from it, and that every mistake is named with its key path."""

from pathlib import Path

import pytest

from certd.agent.config import FORMATS, Command, Config, File, Log, Probe, load
from certd.agent.findings import findings
from certd.errors import CertdError, Reason

_SHORTEST = 'server = "ca.example.internal:8443"\n'
_CERTIFICATE = """
[[certificate]]
name = "web"
association = "tenants/default/managedCertificates/web/associations/web-1"
"""
_FILE = """
[[certificate.file]]
path = "key.pem"
format = "private-key"
"""
_COMPLETE = (
    """
server = "ca.example.internal:8443"
enrollment = "[::1]:8444"
state_directory = "state"
poll_interval = 60
[log]
level = "debug"
format = "json"
"""
    + _CERTIFICATE
    + """
directory = "/etc/web/tls"
check = ["nginx", "-t"]
reload = ["systemctl", "reload", "nginx"]
reload_timeout = 5.5
reload_interval = 60
probe = "127.0.0.1:443"
probe_server_name = "www.example.internal"
probe_protocol = "postgresql"
probe_timeout = 3
trust_roots = "roots.pem"
"""
    + _FILE
    + """
mode = "0640"
owner = "root"
group = "0"
[[certificate.file]]
path = "bundle.p12"
format = "pkcs12-modern"
passphrase_file = "/etc/web/passphrase"
"""
)


def read(folder: Path, text: str) -> Config:
    path = folder / "agent.toml"
    path.write_text(text)
    return load(path)


def violations(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(CertdError) as caught:
        read(folder, text)
    assert caught.value.reason is Reason.FIELD_INVALID
    for each in caught.value.violations:
        assert each.field in caught.value.message
    return {each.field: each.description for each in caught.value.violations}


def test_a_complete_file(tmp_path: Path) -> None:
    config = read(tmp_path, _COMPLETE)
    assert (config.server, config.enrollment) == ("ca.example.internal:8443", "[::1]:8444")
    assert (config.state_directory, config.poll_interval) == (tmp_path / "state", 60.0)
    assert config.log == Log(level="debug", format="json")
    (certificate,) = config.certificates
    assert certificate.directory == Path("/etc/web/tls")
    assert certificate.check == Command(arguments=("nginx", "-t"), timeout=30.0)
    assert certificate.reload == Command(arguments=("systemctl", "reload", "nginx"), timeout=5.5)
    assert certificate.reload_interval == 60.0
    assert certificate.probe == Probe(
        address="127.0.0.1:443", server_name="www.example.internal", protocol="postgresql", timeout=3.0
    )
    assert certificate.trust_roots == tmp_path / "roots.pem"
    assert certificate.tenant == "tenants/default"
    assert certificate.managed_certificate == "tenants/default/managedCertificates/web"
    assert certificate.files == (
        File(path="key.pem", format="private-key", mode=0o640, owner="root", group="0"),
        File(path="bundle.p12", format="pkcs12-modern", mode=0o600, passphrase_file=Path("/etc/web/passphrase")),
    )


def test_what_is_not_said_is_as_it_is_best(tmp_path: Path) -> None:
    config = read(tmp_path, _SHORTEST)
    assert config == Config(server="ca.example.internal:8443")
    assert config.state_directory == Path("/var/lib/certd-agent")
    (certificate,) = read(tmp_path, _SHORTEST + _CERTIFICATE + _FILE).certificates
    assert certificate.directory == Path("/var/lib/certd-agent/certificates/web")
    assert certificate.files[0].mode == 0o600
    assert (certificate.check, certificate.reload, certificate.probe) == (None, None, None)
    assert certificate.reload_interval == 5.0


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("", "server", "required"),
        ("server = 1", "server", "text in quotes"),
        ('server = ""', "server", "text in quotes"),
        ('server = "https://ca"', "server", "host:port"),
        (_SHORTEST + "enrollment = 'ca'", "enrollment", "host:port"),
        (_SHORTEST + "serve = 1", "serve", "no such key"),
        (_SHORTEST + "poll_interval = 0", "poll_interval", "1 to 86400"),
        (_SHORTEST + "poll_interval = nan", "poll_interval", "number of seconds"),
        (_SHORTEST + "poll_interval = true", "poll_interval", "number of seconds"),
        (_SHORTEST + "poll_interval = '5m'", "poll_interval", "number of seconds"),
        (_SHORTEST + "log = 1", "log", "table: [log]"),
        (_SHORTEST + "[log]\nlevel = 'loud'", "log.level", "debug, info, warning, error"),
        (_SHORTEST + "[log]\ncolour = 'red'", "log.colour", "no such key"),
        (_SHORTEST + "[certificate]\nname = 'web'", "certificate", "[[certificate]]"),
        (_SHORTEST + "certificate = [1]", "certificate", "[[certificate]]"),
        (_SHORTEST + "[[certificate]]\nname = 'web'", "certificate.0.association", "required"),
        (_SHORTEST + _CERTIFICATE.replace("web-1", "Web 1"), "certificate.0.association", "tenants/default/managed"),
        (_SHORTEST + _CERTIFICATE.replace('name = "web"', 'name = "../web"'), "certificate.0.name", "lower-case"),
        (_SHORTEST + _CERTIFICATE + "reload = 'systemctl reload'", "certificate.0.reload", "list of texts"),
        (_SHORTEST + _CERTIFICATE + "reload = []", "certificate.0.reload", "list of texts"),
        (_SHORTEST + _CERTIFICATE + "reload = ['a', 1]", "certificate.0.reload", "list of texts"),
        (_SHORTEST + _CERTIFICATE + "reload_timeout = 3", "certificate.0.reload_timeout", "without reload"),
        (_SHORTEST + _CERTIFICATE + "reload_interval = 3", "certificate.0.reload_interval", "without reload"),
        (_SHORTEST + _CERTIFICATE + "reload = ['x']\nreload_interval = 301", "certificate.0.reload_interval", "to 300"),
        (_SHORTEST + _CERTIFICATE + "reload = ['x']\nreload_interval = -1", "certificate.0.reload_interval", "to 300"),
        (_SHORTEST + _CERTIFICATE + "check = ['true']\ncheck_timeout = -1", "certificate.0.check_timeout", "0.1"),
        (_SHORTEST + _CERTIFICATE + "probe = '443'", "certificate.0.probe", "host:port"),
        (_SHORTEST + _CERTIFICATE + "probe_server_name = 'a'", "certificate.0.probe_server_name", "without probe"),
        (_SHORTEST + _CERTIFICATE + "probe = 'a:1'\nprobe_protocol = 'imap'", "certificate.0.probe_protocol", "tls"),
        (_SHORTEST + _CERTIFICATE + _FILE.replace("key.pem", "../key.pem"), "certificate.0.file.0.path", "folder"),
        (_SHORTEST + _CERTIFICATE + _FILE.replace("key.pem", ".certd.json"), "certificate.0.file.0.path", "folder"),
        (_SHORTEST + _CERTIFICATE + _FILE.replace("private-key", "jks"), "certificate.0.file.0.format", "pkcs7"),
        (_SHORTEST + _CERTIFICATE + _FILE + "mode = '0644'", "certificate.0.file.0.mode", "everybody"),
        (_SHORTEST + _CERTIFICATE + _FILE + "mode = '0604'", "certificate.0.file.0.mode", "everybody"),
        (_SHORTEST + _CERTIFICATE + _FILE + "mode = '4600'", "certificate.0.file.0.mode", "octal"),
        (_SHORTEST + _CERTIFICATE + _FILE + "mode = 600", "certificate.0.file.0.mode", "text"),
        (_SHORTEST + _CERTIFICATE + _FILE + "owner = 'no body'", "certificate.0.file.0.owner", "user or group"),
        (_SHORTEST + _CERTIFICATE + _FILE + "passphrase_file = '/p'", "certificate.0.file.0.passphrase_file", "no use"),
        (
            _SHORTEST + _CERTIFICATE + _FILE.replace("private-key", "pkcs12-legacy"),
            "certificate.0.file.0.passphrase_file",
            "mode 0600",
        ),
        (_SHORTEST + _CERTIFICATE + _FILE + _FILE, "certificate.0.file.1.path", "another one"),
        (_SHORTEST + _CERTIFICATE + _CERTIFICATE, "certificate.1.name", "another one"),
        (_SHORTEST + _CERTIFICATE + _CERTIFICATE, "certificate.1.directory", "another one"),
        (_SHORTEST + _CERTIFICATE + "directory = 'a\\u0000b'".replace("'", '"'), "certificate.0.directory", "text"),
    ],
)
def test_every_mistake_is_named_with_its_key_path(tmp_path: Path, text: str, key: str, says: str) -> None:
    found = violations(tmp_path, text)
    assert says in found[key]


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = "colour = 1\n" + _CERTIFICATE.replace("web-1", "1") + _FILE.replace("private-key", "jks") + "colour = 2"
    assert set(violations(tmp_path, text)) == {
        "server",
        "colour",
        "certificate.0.association",
        "certificate.0.file.0.format",
        "certificate.0.file.0.colour",
    }


@pytest.mark.parametrize("content", [b"server = ", b"\xff\xfe"])
def test_what_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(CertdError, match="is not TOML"):
        load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CertdError, match="--config"):
        load(tmp_path / "agent.toml")


def test_a_machine_that_does_not_fit_is_told_all_that_is_wrong(tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse")
    passphrase.chmod(0o644)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed" / "web" / "current").mkdir(parents=True)
    text = (
        _SHORTEST
        + _CERTIFICATE
        + f"""
directory = "{tmp_path}/closed/web"
check = ["no-such-program", "-t"]
reload = ["/no/such/program"]
trust_roots = "no-roots.pem"
"""
        + _FILE
        + """
owner = "no-such-user"
group = "no-such-group"
[[certificate.file]]
path = "bundle.p12"
format = "pkcs12-legacy"
"""
        + f'passphrase_file = "{passphrase}"'
    )
    found = [(each.field, each.description) for each in findings(read(tmp_path, text))]
    assert {field for field, _ in found} == {
        "certificate.0.check",
        "certificate.0.reload",
        "certificate.0.trust_roots",
        "certificate.0.directory",
        "certificate.0.file.0.owner",
        "certificate.0.file.0.group",
        "certificate.0.file.1.passphrase_file",
    }
    assert any("chmod 600" in description for _, description in found)
    assert any("closed" in description for _, description in found)
    passphrase.chmod(0o600)
    passphrase.write_text("short")
    assert any("8 to 1024" in each.description for each in findings(read(tmp_path, text)))


def test_nothing_to_write_is_a_finding(tmp_path: Path) -> None:
    (found,) = findings(read(tmp_path, _SHORTEST + _CERTIFICATE + f'directory = "{tmp_path}/web"'))
    assert found.field == "certificate.0.file"


def test_a_machine_that_fits_has_no_findings(tmp_path: Path) -> None:
    text = _SHORTEST + _CERTIFICATE + f'directory = "{tmp_path}/web"\nreload = ["true"]' + _FILE
    assert findings(read(tmp_path, text)) == []


def test_the_readme_shows_every_key_and_format(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    _, _, block = readme.partition("# /etc/certd-agent/agent.toml: all keys\n")
    shown, _, after = block.partition("```")
    config = read(tmp_path, shown)
    (certificate,) = config.certificates
    assert None not in {config.enrollment, certificate.check, certificate.reload, certificate.probe}
    assert certificate.trust_roots is not None
    table = after.partition("* **Whole")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in cell.split("`")[1::2]} == set(FORMATS)
