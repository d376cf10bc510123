"""agent.toml: all that an agent is told, in one file.

Strict: an unknown key, a wrong type or an impossible value stops the start, and every error names its key path. The
file holds no secrets, only paths of files that do.

Read without pydantic, which would be a sixth of the memory of a program that runs on every machine.
"""

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.agent.table import Problems, Table
from certd.client.addresses import check_address
from certd.errors import CertdError, Reason, Violation

DEFAULT_FILE: Final = Path("/etc/certd-agent/agent.toml")
DEFAULT_STATE: Final = Path("/var/lib/certd-agent")
MOST_CERTIFICATES: Final = 1000
MOST_FILES: Final = 32
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
PROBE_PROTOCOLS: Final = ("tls", "postgresql")

SECRET_FORMATS: Final = frozenset({"private-key", "private-key-der", "combined", "pkcs12-modern", "pkcs12-legacy"})
"""Those that hold the private key."""
FORMATS: Final = (
    "certificate",
    "chain",
    "fullchain",
    "private-key",
    "combined",
    "ca",
    "pkcs12-modern",
    "pkcs12-legacy",
    "pkcs7",
    "certificate-der",
    "private-key-der",
)

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@-]{0,127}")
_ID: Final = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
_ASSOCIATION: Final = re.compile(rf"tenants/{_ID}/managedCertificates/{_ID}/associations/{_ID}")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
_POLL_INTERVAL: Final = 300.0
_LOG_LEVEL: Final = "info"
_LOG_FORMAT: Final = "text"
_HAPROXY_NAME: Final = re.compile(r"[\x21-\x3a\x3c-\x5b\x5d-\x7e]{1,1024}")
"""Neither spaces nor the semicolon nor the backslash, which its runtime API takes for something else."""
_MODE: Final = re.compile(r"0?[0-7]{3}")
_OTHERS: Final = 0o007
_SECRET_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644
_SDS_TIMEOUT: Final = 10.0
_RELOAD_INTERVAL: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a bundle."""

    path: str
    """Its name in the folder of the bundle."""
    format: str
    """One of FORMATS."""
    mode: int
    owner: str | None = None
    """User; None: who runs the agent."""
    group: str | None = None
    passphrase_file: Path | None = None
    """Of a PKCS#12."""

    @property
    def is_secret(self) -> bool:
        """Whether the private key is in it."""
        return self.format in SECRET_FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run: an argument list, for there is no shell."""

    arguments: tuple[str, ...]
    timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Where the new certificate must show."""

    address: str
    """`host:port`."""
    server_name: str | None
    """Asked for in the handshake; None: none."""
    protocol: str
    """What is spoken before TLS: one of PROBE_PROTOCOLS."""
    timeout: float
    """Seconds until which it must show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HAProxy:
    """An HAProxy that gets the certificate while it runs."""

    socket: str
    """Of its runtime API: the path of a unix socket, or `host:port`."""
    certificate: str
    """What its configuration calls the file."""
    timeout: float
    """Seconds that it may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sds:
    """Where the agent serves secrets to Envoy."""

    socket: Path
    mode: int = _SECRET_MODE
    owner: str | None = None
    """User; None: who runs the agent."""
    group: str | None = None
    timeout: float = _SDS_TIMEOUT
    """Seconds within which an Envoy has to take a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is to be served here."""

    name: str
    association: str
    """`tenants/…/managedCertificates/…/associations/…` of this agent's identity."""
    directory: Path
    """Where `current` points to the files of the version that is served."""
    files: tuple[File, ...] = ()
    check: Command | None = None
    """Runs when the files are current, before any program is told; CERTD_DIRECTORY says where they are."""
    reload: Command | None = None
    reload_interval: float = _RELOAD_INTERVAL
    """Seconds that pass at least between the end of a reload and the one for another version."""
    haproxy: HAProxy | None = None
    sds: bool = False
    """Whether Envoy gets it as a secret of its name."""
    probe: Probe | None = None
    trust_roots: Path | None = None
    """PEM of the roots that must vouch for the certificate; None: those of the tenant, as the server tells."""

    @property
    def tenant(self) -> str:
        """`tenants/{tenant}` of the managed certificate."""
        return "/".join(self.association.split("/")[:2])

    @property
    def managed_certificate(self) -> str:
        """`tenants/{tenant}/managedCertificates/{managed_certificate}`."""
        return self.association.partition("/associations/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What is logged to standard error."""

    level: str = _LOG_LEVEL
    format: str = _LOG_FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of agent.toml."""

    server: str
    """`host:port` of the API."""
    enrollment: str | None = None
    """`host:port` where an identity enrolls; needed for that alone."""
    state_directory: Path = DEFAULT_STATE
    """Identity, and what was leased; mode 0700."""
    poll_interval: float = _POLL_INTERVAL
    """Seconds after which the server is asked whether it has a newer version, also when its stream told nothing; up to
    twice as many, by chance."""
    log: Log = Log()
    sds: Sds | None = None
    certificates: tuple[Certificate, ...] = ()


def load(path: Path) -> Config:
    """Reads and checks the file; raises FIELD_INVALID with a violation per key path."""
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}; write it, or name another with --config") from error
    except ValueError as error:
        # Both not UTF-8 and not TOML.
        raise _unreadable(path, f"is not TOML: {error}") from error
    problems = Problems()
    table = Table(document, path="", folder=path.absolute().parent, problems=problems)
    config = _config(table)
    table.finish()
    _check_together(config, problems)
    problems.raise_any(path)
    return config


def _config(table: Table) -> Config:
    state = table.file("state_directory", DEFAULT_STATE)
    return Config(
        server=table.text("server", check=_address_rule),
        enrollment=table.optional_text("enrollment", check=_address_rule),
        state_directory=state,
        poll_interval=table.seconds("poll_interval", _POLL_INTERVAL, least=1, most=86_400),
        log=table.table("log", _log) or Log(),
        sds=table.table("sds", _sds),
        certificates=table.tables("certificate", lambda each: _certificate(each, state), most=MOST_CERTIFICATES),
    )


def _log(table: Table) -> Log:
    return Log(
        level=table.choice("level", LOG_LEVELS, _LOG_LEVEL), format=table.choice("format", LOG_FORMATS, _LOG_FORMAT)
    )


def _sds(table: Table) -> Sds:
    return Sds(
        socket=table.file("socket"),
        mode=_mode(table, _SECRET_MODE, secret=True),
        owner=table.optional_text("owner", check=_account_rule),
        group=table.optional_text("group", check=_account_rule),
        timeout=table.seconds("timeout", _SDS_TIMEOUT, least=0.1, most=600),
    )


def _haproxy(table: Table) -> HAProxy:
    return HAProxy(
        socket=table.text("socket", check=_runtime_api_rule),
        certificate=table.text("certificate", check=_haproxy_name_rule),
        timeout=table.seconds("timeout", 10.0, least=0.1, most=600),
    )


def _certificate(table: Table, state: Path) -> Certificate:
    name = table.text("name", check=_name_rule)
    association = table.text("association", check=_association_rule)
    return Certificate(
        name=name,
        association=association,
        directory=table.file("directory", state / "certificates" / (name or "unnamed")),
        files=table.tables("file", _file, most=MOST_FILES),
        check=_command(table, "check"),
        reload=_command(table, "reload"),
        reload_interval=_reload_interval(table),
        haproxy=table.table("haproxy", _haproxy),
        sds=table.boolean("sds", default=False),
        probe=_probe(table),
        trust_roots=table.optional_file("trust_roots"),
    )


def _file(table: Table) -> File:
    format_ = table.choice("format", FORMATS)
    secret = format_ in SECRET_FORMATS
    passphrase_file = table.optional_file("passphrase_file")
    if format_.startswith("pkcs12") != (passphrase_file is not None):
        table.refuse(
            "passphrase_file",
            "is what pkcs12-modern and pkcs12-legacy need: write a passphrase into a file of mode 0600 and name that"
            if passphrase_file is None
            else f"is of no use to the format {format_}; remove it",
        )
    return File(
        path=table.text("path", check=_file_name_rule),
        format=format_,
        mode=_mode(table, _SECRET_MODE if secret else _PUBLIC_MODE, secret=secret),
        owner=table.optional_text("owner", check=_account_rule),
        group=table.optional_text("group", check=_account_rule),
        passphrase_file=passphrase_file,
    )


def _mode(table: Table, default: int, *, secret: bool) -> int:
    text = table.optional_text("mode")
    if not text:
        return default
    if not _MODE.fullmatch(text):
        table.refuse("mode", 'write a mode in octal, for example "0640"')
        return default
    mode = int(text, 8)
    if secret and mode & _OTHERS:
        table.refuse("mode", "everybody on the machine could read the private key: write 0600, or 0640 with a group")
    return mode


def _command(table: Table, name: str) -> Command | None:
    timeout = table.seconds(f"{name}_timeout", 30.0, least=0.1, most=3600) if table.has(f"{name}_timeout") else 30.0
    if not table.has(name):
        if table.has(f"{name}_timeout"):
            table.refuse(f"{name}_timeout", f"is of no use without {name}")
        return None
    return Command(arguments=table.words(name), timeout=timeout)


def _reload_interval(table: Table) -> float:
    if table.has("reload_interval") and not table.has("reload"):
        table.refuse("reload_interval", "is of no use without reload")
    return table.seconds("reload_interval", _RELOAD_INTERVAL, least=0, most=300)


def _probe(table: Table) -> Probe | None:
    address = table.optional_text("probe", check=_address_rule)
    server_name = table.optional_text("probe_server_name", check=_host_rule)
    protocol = table.choice("probe_protocol", PROBE_PROTOCOLS, "tls")
    timeout = table.seconds("probe_timeout", 10.0, least=0.1, most=600)
    if address is None:
        for key in ("probe_server_name", "probe_protocol", "probe_timeout"):
            if table.has(key):
                table.refuse(key, "is of no use without probe")
        return None
    return Probe(address=address, server_name=server_name, protocol=protocol, timeout=timeout)


def _check_together(config: Config, problems: Problems) -> None:
    """Notes what is twice where it may be once: names, associations, folders, files of one bundle."""
    for key, values in (
        ("name", [each.name for each in config.certificates]),
        ("association", [each.association for each in config.certificates]),
        ("directory", [str(each.directory) for each in config.certificates]),
    ):
        _note_twice(problems, "certificate", key, values)
    for place, certificate in enumerate(config.certificates):
        _note_twice(problems, f"certificate.{place}.file", "path", [each.path for each in certificate.files])
        if certificate.sds and config.sds is None:
            problems.note(
                f"certificate.{place}.sds", "there is no [sds] with the socket that Envoy connects to; add it"
            )
    if config.sds is not None and not any(each.sds for each in config.certificates):
        problems.note("sds", "no certificate is served there; write sds = true into those that are to be")


def _note_twice(problems: Problems, path: str, key: str, values: list[str]) -> None:
    for place, value in enumerate(values):
        if value and Counter(values[: place + 1])[value] > 1:
            problems.note(f"{path}.{place}.{key}", f"{value!r} is that of another one; each needs its own")


def _address_rule(value: str) -> str | None:
    try:
        check_address(value)
    except CertdError:
        return 'write host:port, for example "ca.example.internal:8443"'
    return None


def _name_rule(value: str) -> str | None:
    return None if _NAME.fullmatch(value) else "write lower-case letters, digits, dots and hyphens, at most 63"


def _association_rule(value: str) -> str | None:
    if _ASSOCIATION.fullmatch(value):
        return None
    return "write the name of an association: tenants/default/managedCertificates/web/associations/web-1"


def _file_name_rule(value: str) -> str | None:
    return None if _FILE_NAME.fullmatch(value) else "write the name of a file, without a folder, for example key.pem"


def _account_rule(value: str) -> str | None:
    return None if _ACCOUNT.fullmatch(value) else "write the name or the number of a user or group"


def _runtime_api_rule(value: str) -> str | None:
    if value.startswith("/"):
        return None
    return _address_rule(value) and "write the path of a unix socket, or host:port"


def _haproxy_name_rule(value: str) -> str | None:
    return None if _HAPROXY_NAME.fullmatch(value) else "write it as HAProxy's configuration has it, without spaces"


def _host_rule(value: str) -> str | None:
    return None if value.isascii() and not set(value) & set(" :/") else "write a DNS name"


def _unreadable(path: Path, problem: str) -> CertdError:
    return CertdError(Reason.FIELD_INVALID, f"{path} {problem}", violations=(Violation(str(path), problem),))
