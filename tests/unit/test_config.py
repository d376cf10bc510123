"""certd.toml: what is read from it, and that every mistake is named with its key path."""

import os
import tomllib
from pathlib import Path

import pytest

from certd.api.server import Limits as ServerLimits
from certd.config import (
    Address,
    Config,
    Limits,
    Listen,
    Oidc,
    load,
    oidc_providers,
    render,
    request_limits,
    require_files,
    token_settings,
)
from certd.config_notify import Smtp
from certd.errors import CertdError
from certd.model.oidc import OidcProvider
from certd.model.request_limits import RequestLimits
from certd.services.issuing_refusals import QUEUE_LENGTH
from certd.services.rates import DEFAULT_BURST, DEFAULT_CALLS_PER_SECOND
from tests.unit.config_files import COMPLETE, config_file, violations_of, with_key


def _keys(section: str) -> set[str]:
    """Returns the keys that a section has."""
    annotation = Oidc if section == "oidc" else Config.model_fields[section].annotation
    assert annotation is not None
    return set(annotation.model_fields)


def test_defaults_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    config = load(config_file(tmp_path, COMPLETE))
    assert config.listen == Listen()
    assert (str(config.listen.grpc), str(config.listen.http)) == ("127.0.0.1:8443", "127.0.0.1:8080")
    assert str(config.listen.metrics) == "127.0.0.1:9464"
    assert config.database.url == f"sqlite:///{tmp_path}/certd.db"
    assert config.token.module == Path("/usr/lib/softhsm/libsofthsm2.so")
    assert config.token.pin_file == tmp_path / "token/pin"
    assert config.token.socket is None
    assert token_settings(config).system_roots == tmp_path / "token/system-roots.pem"
    assert config.tls.private_key == tmp_path / "server.key"
    assert config.web.base_url is None
    assert config.limits.concurrent_calls == 32
    assert (config.limits.calls_per_second, config.limits.calls_burst) == (DEFAULT_CALLS_PER_SECOND, DEFAULT_BURST)
    assert config.limits.maximum_connections == ServerLimits().connections
    assert config.limits.one_processor
    assert (config.limits.signing_queue, config.limits.maximum_message_bytes) == (QUEUE_LENGTH, 16 << 20)
    assert request_limits(config) == RequestLimits()
    assert (config.log.level, config.log.format) == ("info", "text")


def test_relative_paths_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    config_file(folder, COMPLETE)
    monkeypatch.chdir(tmp_path)
    assert load(Path("etc/certd.toml")).tls.certificate == folder / "server.pem"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load(config_file(tmp_path, with_key("token.pin_file", '"~/pin"')))
    assert config.token.pin_file == Path("/home/somebody/pin")


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
    [listen]
    grpc = "[::1]:0"
    http = "0.0.0.0:80"
    metrics = "metrics.internal:9000"
    bearer = "[::1]:8445"
    devices = "[::1]:8446"
    enrollment = "[::1]:8444"
    [database]
    url = "postgresql+psycopg://certd@db/certd?passfile=/etc/certd/pgpass"
    [token]
    module = "m.so"
    label = "certd"
    pin_file = "pin"
    softhsm_conf = "softhsm2.conf"
    socket = "/run/certd/token.sock"
    allowed_users = ["certd", "backup"]
    exports_per_minute = 5
    system_roots = "roots.pem"
    leases_per_minute = 7
    journal = "uses"
    recovery_public_key = "recovery.pem"
    [prepare]
    processes = 3
    known_weak_keys = "blocklist.dat"
    [tls]
    certificate = "c"
    private_key = "k"
    trust_domain = "example.org"
    [web]
    base_url = "http://pki.example.org/"
    [[oidc]]
    name = "ci"
    issuer = "https://ci.example.org"
    audience = "certd"
    jwks_url = "https://ci.example.org/keys"
    algorithms = ["EdDSA"]
    principal_claim = "job"
    required_claims = { "group" = "infrastructure", "email_verified" = true }
    ca_file = "ci.pem"
    [notify]
    allowed_networks = ["10.0.0.0/8", "fd00::/8"]
    deployment_late = 600
    smtp = { "host" = "mail.example.org", "from" = "certd@example.org" }
    [limits]
    concurrent_calls = 4
    maximum_waiting_calls = 0
    maximum_watchers = 7
    calls_per_second = 1
    calls_burst = 2
    maximum_connections = 16
    one_processor = false
    signing_queue = 65536
    maximum_message_bytes = 67108864
    maximum_csr_bytes = 1024
    maximum_names = 1
    maximum_labels = 0
    maximum_batch_items = 2
    maximum_page_size = 3
    maximum_passphrase_bytes = 8
    [audit]
    checkpoint_interval = 60
    checkpoint_file = "checkpoints.jsonl"
    [log]
    level = "debug"
    format = "json"
    """
    config = load(config_file(tmp_path, text))
    assert config.listen.grpc == Address("::1", 0)
    assert str(config.listen.grpc) == "[::1]:0"
    assert config.listen.metrics == Address("metrics.internal", 9000)
    assert config.database.url == "postgresql+psycopg://certd@db/certd?passfile=/etc/certd/pgpass"
    assert config.token.softhsm_conf == tmp_path / "softhsm2.conf"
    assert config.token.socket == Path("/run/certd/token.sock")
    assert config.token.allowed_users == ("certd", "backup")
    assert config.token.exports_per_minute == 5
    token = token_settings(config)
    assert (token.system_roots, token.leases_per_minute) == (tmp_path / "roots.pem", 7)
    assert (token.journal, token.recovery_public_key_file) == (tmp_path / "uses", tmp_path / "recovery.pem")
    assert (config.prepare.processes, config.prepare.known_weak_keys) == (3, tmp_path / "blocklist.dat")
    assert config.web.base_url == "http://pki.example.org"
    assert oidc_providers(config) == (
        OidcProvider(
            name="ci",
            issuer="https://ci.example.org",
            audience="certd",
            jwks_url="https://ci.example.org/keys",
            algorithms=("EdDSA",),
            principal_claim="job",
            required_claims={"group": "infrastructure", "email_verified": True},
            ca_file=tmp_path / "ci.pem",
        ),
    )
    assert [str(network) for network in config.notify.allowed_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert config.notify.smtp is not None
    assert config.notify.deployment_late == 600
    assert (config.limits.concurrent_calls, config.limits.maximum_waiting_calls) == (4, 0)
    assert (config.limits.calls_per_second, config.limits.calls_burst) == (1, 2)
    assert (config.limits.maximum_connections, config.limits.maximum_watchers) == (16, 7)
    assert not config.limits.one_processor
    assert (config.limits.signing_queue, config.limits.maximum_message_bytes) == (65536, 64 << 20)
    assert request_limits(config) == RequestLimits(
        csr_bytes=1024, names=1, labels=0, batch_items=2, page_size=3, passphrase_bytes=8
    )
    assert (config.audit.checkpoint_interval, config.audit.checkpoint_file) == (60, tmp_path / "checkpoints.jsonl")
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert (token.log_level, token.log_format) == ("debug", "json")
    # The text above names every key that there is.
    document = tomllib.loads(text)
    for section in Config.model_fields:
        written = document[section]
        assert set(written[0] if section == "oidc" else written) == _keys(section), section


@pytest.mark.parametrize(
    ("key", "literal", "part"),
    [
        ("listen.grpc", '"8443"', "host:port"),
        ("listen.grpc", "8443", "host:port"),
        ("listen.grpc", '"127.0.0.1:65536"', "host:port"),
        ("listen.grpc", '"127.0.0.1:-1"', "host:port"),
        ("listen.http", '"::1:80"', "brackets"),
        ("listen.http", '"[::g]:80"', "no IPv6 address"),
        ("listen.metrics", '"a b:80"', "no host"),
        ("listen.metrics", '":80"', "host:port"),
        ("database.url", '"mysql://x"', "sqlite:////"),
        ("database.url", '"sqlite:///:memory:"', "sqlite:////"),
        ("database.url", '"sqlite:///x.db?mode=ro"', "no parameters"),
        ("database.url", '"postgresql://certd@db/certd"', "postgresql+psycopg"),
        ("database.url", '"postgresql+psycopg://certd:hunter2@db/certd"', "passfile"),
        ("database.url", '"postgresql+psycopg://certd@db/certd?password=hunter2"', "passfile"),
        ("token.module", "1", "path"),
        ("token.module", '""', "path"),
        ("token.label", '""', "at least 1"),
        ("token.label", f'"{"x" * 33}"', "at most 32"),
        ("token.pin_file", '["a"]', "path"),
        ("token.softhsm_conf", "true", "path"),
        ("token.socket", '"a\\u0000b"', "path"),
        ("token.allowed_users", '"certd"', "list of user names"),
        ("token.allowed_users", "[1000]", "list of user names"),
        ("token.exports_per_minute", "0", "greater than or equal to 1"),
        ("token.exports_per_minute", '"60"', "integer"),
        ("token.leases_per_minute", "0", "greater than or equal to 1"),
        ("token.leases_per_minute", "20001", "less than or equal to 20000"),
        ("tls.certificate", "1.5", "path"),
        ("tls.private_key", "{}", "path"),
        ("tls.trust_domain", '"Example.org"', "lower-case"),
        ("tls.trust_domain", '""', "trust domain"),
        ("web.base_url", '"pki.example.org"', "URL"),
        ("web.base_url", '"ftp://pki.example.org"', "URL"),
        ("web.base_url", '"http://pki.example.org/?a=b"', "URL"),
        ("notify.allowed_networks", '"10.0.0.0/8"', "tuple"),
        ("notify.smtp", "true", "dictionary"),
        ("limits.concurrent_calls", "0", "greater than or equal to 1"),
        ("limits.concurrent_calls", "true", "integer"),
        ("limits.maximum_waiting_calls", "-1", "greater than or equal to 0"),
        ("limits.maximum_watchers", "0", "greater than or equal to 1"),
        ("limits.calls_per_second", "0", "greater than or equal to 1"),
        ("limits.calls_burst", "0", "greater than or equal to 1"),
        ("limits.maximum_connections", "15", "greater than or equal to 16"),
        ("limits.signing_queue", "15", "greater than or equal to 16"),
        ("limits.signing_queue", "65537", "less than or equal to 65536"),
        ("limits.maximum_message_bytes", "65535", "greater than or equal to 65536"),
        ("limits.maximum_message_bytes", "67108865", "less than or equal to 67108864"),
        ("limits.maximum_csr_bytes", "1023", "greater than or equal to 1024"),
        ("limits.maximum_csr_bytes", "32769", "less than or equal to 32768"),
        ("limits.maximum_csr_bytes", '"32 KiB"', "integer"),
        ("limits.maximum_names", "0", "greater than or equal to 1"),
        ("limits.maximum_names", "101", "less than or equal to 100"),
        ("limits.maximum_labels", "-1", "greater than or equal to 0"),
        ("limits.maximum_labels", "51", "less than or equal to 50"),
        ("limits.maximum_batch_items", "0", "greater than or equal to 1"),
        ("limits.maximum_batch_items", "1001", "less than or equal to 1000"),
        ("limits.maximum_page_size", "0", "greater than or equal to 1"),
        ("limits.maximum_page_size", "1001", "less than or equal to 1000"),
        ("limits.maximum_passphrase_bytes", "7", "greater than or equal to 8"),
        ("limits.maximum_passphrase_bytes", "1025", "less than or equal to 1024"),
        ("log.level", '"loud"', "'debug'"),
        ("log.format", '"xml"', "'json'"),
        ("log.colour", "true", "no such key"),
    ],
)
def test_a_bad_value_is_named_by_its_key_path(tmp_path: Path, key: str, literal: str, part: str) -> None:
    violations = violations_of(tmp_path, with_key(key, literal))
    assert list(violations) == [key]
    assert part in violations[key]
    assert "hunter2" not in violations[key]


def test_unknown_keys_and_sections_stop_the_start(tmp_path: Path) -> None:
    violations = violations_of(tmp_path, "colour = 1\n[tokens]\n" + with_key("token.soft_hsm", "1"))
    assert set(violations) == {"colour", "tokens", "token.soft_hsm"} or set(violations) == {"colour", "token.soft_hsm"}


_ISSUER = """
[[oidc]]
name = "ci"
issuer = "https://ci.example.org"
audience = "certd"
jwks_url = "https://ci.example.org/keys"
"""


@pytest.mark.parametrize(
    ("given", "instead", "field", "part"),
    [
        ('"https://ci.example.org/keys"', '"http://ci.example.org/keys"', "oidc.0.jwks_url", "https URL"),
        ('"https://ci.example.org/keys"', '"https:///keys"', "oidc.0.jwks_url", "https URL"),
        ('"ci"', '"CI"', "oidc.0.name", "pattern"),
        ('audience = "certd"', "", "oidc.0.audience", "required"),
        ('audience = "certd"', 'audience = ""', "oidc.0.audience", "at least 1"),
        ('audience = "certd"', 'audience = "certd"\nalgorithms = ["none"]', "oidc.0.algorithms.0", "RS256"),
        ('audience = "certd"', 'audience = "certd"\nalgorithms = ["HS256"]', "oidc.0.algorithms.0", "RS256"),
        ('audience = "certd"', 'audience = "certd"\nalgorithms = []', "oidc.0.algorithms", "at least 1"),
        ("[[oidc]]", _ISSUER + "[[oidc]]", "oidc", "the same name"),
        ("[[oidc]]", _ISSUER.replace('"ci"', '"other"') + "[[oidc]]", "oidc", "the same issuer"),
    ],
)
def test_a_bad_issuer_of_tokens_is_named(tmp_path: Path, given: str, instead: str, field: str, part: str) -> None:
    text = with_key("listen.bearer", '"127.0.0.1:0"') + _ISSUER
    load(config_file(tmp_path, text))
    assert part in violations_of(tmp_path, text.replace(given, instead, 1))[field]


def test_issuers_of_tokens_and_their_port_need_each_other(tmp_path: Path) -> None:
    assert "need each other" in violations_of(tmp_path, COMPLETE + _ISSUER)["oidc"]
    assert "need each other" in violations_of(tmp_path, with_key("listen.bearer", '"127.0.0.1:0"'))["oidc"]


def test_the_roots_of_an_issuer_must_be_there_where_they_are_named(tmp_path: Path) -> None:
    text = with_key("listen.bearer", '"127.0.0.1:0"') + _ISSUER
    for name in ("server.pem", "server.key"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600)
    require_files(load(config_file(tmp_path, text)))
    config = load(config_file(tmp_path, text + 'ca_file = "ci.pem"\n'))
    with pytest.raises(CertdError, match=r"ci\.pem does not exist"):
        require_files(config)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    violations = violations_of(tmp_path, '[listen]\ngrpc = "x"\n[token]\nlabel = ""\n[log]\nlevel = 3\n')
    assert set(violations) == {
        "listen.grpc",
        "database",
        "token.module",
        "token.label",
        "token.pin_file",
        "tls",
        "log.level",
    }


def test_a_file_that_is_no_toml_or_missing(tmp_path: Path) -> None:
    assert "is not TOML" in next(iter(violations_of(tmp_path, "[listen\n").values()))
    with pytest.raises(CertdError, match=r"No such file.*--config.*certd init"):
        load(tmp_path / "absent.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9\n")
    with pytest.raises(CertdError, match="is not TOML"):
        load(path)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o700, False)]
)
def test_the_mode_of_the_private_key_is_checked(tmp_path: Path, mode: int, *, good: bool) -> None:
    key = tmp_path / "server.key"
    key.touch()
    key.chmod(mode)
    if good:
        load(config_file(tmp_path, COMPLETE))
        return
    violations = violations_of(tmp_path, COMPLETE)
    assert list(violations) == ["tls.private_key"]
    assert f"{mode:04o}" in violations["tls.private_key"]
    assert "chmod 600" in violations["tls.private_key"]


def test_files_that_serving_needs(tmp_path: Path) -> None:
    config = load(config_file(tmp_path, COMPLETE))
    (tmp_path / "server.pem").touch()
    with pytest.raises(CertdError) as caught:
        require_files(config)
    assert [violation.field for violation in caught.value.violations] == ["tls.private_key"]
    (tmp_path / "server.key").touch(mode=0o600)
    require_files(config)


def test_the_list_of_known_weak_keys_must_be_there_where_it_is_named(tmp_path: Path) -> None:
    config = load(config_file(tmp_path, with_key("prepare.known_weak_keys", '"blocklist.dat"')))
    (tmp_path / "server.pem").touch()
    (tmp_path / "server.key").touch(mode=0o600)
    with pytest.raises(CertdError) as caught:
        require_files(config)
    assert [violation.field for violation in caught.value.violations] == ["prepare.known_weak_keys"]
    assert "fetch it" in caught.value.message
    (tmp_path / "blocklist.dat").touch()
    require_files(config)


@pytest.mark.parametrize("softhsm", [True, False])
def test_what_init_writes_is_what_is_read(tmp_path: Path, *, softhsm: bool) -> None:
    odd = tmp_path / 'a "quoted" \\ folder with é\x7f'
    values = {
        "listen.grpc": "[::1]:1",
        "database.url": f"sqlite:///{odd}/certd.db",
        "token.module": odd / "m.so",
        "token.label": 'the "label"',
        "token.pin_file": odd / "pin",
        "tls.certificate": odd / "c",
        "tls.private_key": odd / "k",
        "tls.trust_domain": "example.org",
    }
    if softhsm:
        values["token.softhsm_conf"] = odd / "softhsm2.conf"
    text = render(values)
    config = load(config_file(tmp_path, text))
    assert config.listen == Listen(grpc=Address("::1", 1))
    assert config.database.url == f"sqlite:///{odd}/certd.db"
    assert config.token.label == 'the "label"'
    assert config.token.module == odd / "m.so"
    assert config.token.softhsm_conf == (odd / "softhsm2.conf" if softhsm else None)
    assert (config.tls.certificate, config.tls.private_key) == (odd / "c", odd / "k")
    assert config.tls.trust_domain == "example.org"
    assert config.limits == Limits()


def test_the_commented_file_shows_every_key() -> None:
    names = ["database.url", "token.module", "token.label", "token.pin_file"]
    text = render(dict.fromkeys([*names, "tls.certificate", "tls.private_key", "tls.trust_domain"], "x"))
    for section in Config.model_fields:
        assert f"[{section}]" in text
        for key in _keys(section):
            shown = (f"{key} =", f"[{section}.{key}]")
            assert any(line.lstrip("# ").startswith(shown) for line in text.splitlines()), key
    for key in ("from" if key == "sender" else key for key in Smtp.model_fields):
        assert f"# {key} = " in text


def test_a_private_key_that_cannot_be_looked_at_is_left_to_its_reader(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may look at everything")
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "server.key").touch(mode=0o644)
    locked.chmod(0)
    try:
        load(config_file(tmp_path, with_key("tls.private_key", '"locked/server.key"')))
    finally:
        locked.chmod(0o700)
