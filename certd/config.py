"""certd.toml: read by the composition root and by `certd`, by nobody else.

Strict: an unknown key, a wrong type or an impossible value stops the start, and every error names its key path. The
file holds no secrets, only paths of files that do.
"""

import ipaddress
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from certd.config_notify import Notify
from certd.config_template import TEMPLATE
from certd.config_values import File, SecretFile, Section, folder_of, invalid, listed
from certd.errors import CertdError, Reason, Violation
from certd.model.oidc import OidcProvider
from certd.model.request_limits import RequestLimits
from certd.token.settings import TokenSettings


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener binds."""

    host: str
    """Name or address, an IPv6 address without brackets."""
    port: int
    """0 lets the system choose one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: object) -> Address:
    """Parses `host:port`, an IPv6 host in brackets. What is an address already stays as it is.

    Raises:
        ValueError: the text is no address.
    """
    if isinstance(text, Address):
        return text
    host, separator, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise invalid('write host:port, for example "127.0.0.1:8443" or "[::1]:8443"; port 0 lets the system choose')
    if host.startswith("[") and host.endswith("]"):
        try:
            host = str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError as error:
            raise invalid(f"{host} is no IPv6 address") from error
    elif ":" in host or any(character.isspace() or character in "[]/" for character in host):
        raise invalid(f"{host} is no host; an IPv6 address stands in brackets")
    return Address(host, int(port))


def _database_url(value: object, info: ValidationInfo) -> str:
    sqlite, postgresql = "sqlite:///", "postgresql+psycopg://"
    if isinstance(value, str) and value.startswith(sqlite) and value not in {sqlite, sqlite + ":memory:"}:
        if "?" in value:
            raise invalid("a SQLite URL has no parameters")
        return sqlite + str(folder_of(info) / value.removeprefix(sqlite))
    if isinstance(value, str) and value.startswith(postgresql):
        credentials, at, _ = value.removeprefix(postgresql).partition("/")[0].rpartition("@")
        if (at and ":" in credentials) or "password=" in value:
            raise invalid(
                "a password does not belong into this file: name a file with it instead, as in "
                "postgresql+psycopg://certd@db.example.internal/certd?passfile=/etc/certd/pgpass"
            )
        return value
    raise invalid("write sqlite:////absolute/path/certd.db or postgresql+psycopg://user@host/database")


def _base_url(value: object) -> str:
    text = value if isinstance(value, str) else ""
    scheme, separator, rest = text.partition("://")
    if scheme != "http" or not separator or not rest.strip("/") or set(text) & set(' ?#"<>'):
        raise invalid(
            'write the http URL under which others reach [listen] http, for example "http://pki.example.internal"'
        )
    return text.rstrip("/")


def _https_url(value: object) -> str:
    text = value if isinstance(value, str) else ""
    host = text.removeprefix("https://").partition("/")[0]
    if not text.startswith("https://") or not host or not text.isascii() or set(text) & set(' #"<>@'):
        raise invalid(
            'write the https URL of the issuer\'s keys, for example "https://login.example.internal/oauth/jwks"'
        )
    return text


def _trust_domain(value: object) -> str:
    text = value if isinstance(value, str) else ""
    # The SPIFFE standard, section 2.1: at most 255 bytes of lower-case letters, digits, dots, dashes and underscores.
    if not 1 <= len(text) <= 255 or set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789.-_"):
        raise invalid(
            "write a SPIFFE trust domain: lower-case letters, digits, '.', '-' and '_', for example certd.internal"
        )
    return text


def _user_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise invalid('write a list of user names, for example ["certd"]')
    return tuple(value)


_Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_Address = Annotated[Address, BeforeValidator(parse_address)]


class Listen(Section):
    """Where the daemon listens."""

    grpc: _Address = Address("127.0.0.1", 8443)
    """The API, over mutual TLS."""
    enrollment: _Address = Address("127.0.0.1", 8444)
    """Where those enroll who have no certificate yet, over TLS without client certificates."""
    http: _Address = Address("127.0.0.1", 8080)
    """Authority certificates, health."""
    metrics: _Address = Address("127.0.0.1", 9464)
    bearer: _Address | None = None
    """The API, over TLS without client certificates, for callers with the tokens of [[oidc]]; None: not at all."""
    devices: _Address | None = None
    """Downloads by devices over HTTPS, by client certificate or download code; None: not at all."""


class Database(Section):
    """Where the books are kept."""

    url: Annotated[str, BeforeValidator(_database_url)]


class Token(Section):
    """The PKCS#11 token, used by the token process alone."""

    module: File
    label: Annotated[str, Field(min_length=1, max_length=32)]
    pin_file: File
    """Its mode is checked by the token process, which may be another user's."""
    softhsm_conf: File | None = None
    socket: File | None = None
    """Unix socket of a separate `certd token serve`; None: the daemon starts the token process itself."""
    allowed_users: Annotated[tuple[str, ...], BeforeValidator(_user_names)] = ()
    """Users that `certd token serve` answers to, beside its own."""
    exports_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    """Keys that leave the token process in any minute, at most."""
    system_roots: File | None = None
    """PEM of the roots by which the token process knows consumers; None: `system-roots.pem` beside `pin_file`."""
    leases_per_minute: Annotated[int, Field(ge=1, le=20_000)] = 6000
    """Keys that consumers get in any minute, at most."""
    recovery_public_key: File | None = None
    """PEM of an X25519 key to which wrapping keys are encrypted as they are made; None: they are only in the token."""
    journal: File | None = None
    """Folder in which the token process writes down every use of a key; None: `token-journal` beside `pin_file`."""


class Prepare(Section):
    """The processes that check what strangers ask for and build what will be signed."""

    processes: Annotated[int, Field(ge=0, le=64)] | None = None
    """None: one for each core but one, 4 at most; 0: the daemon does it itself."""
    known_weak_keys: File | None = None
    """List of keys whose private halves are known, in the format of badkeys' `blocklist.dat`; they are refused."""


class Tls(Section):
    """The daemon's own credentials."""

    certificate: File
    private_key: SecretFile
    trust_domain: Annotated[str, BeforeValidator(_trust_domain)]


class Web(Section):
    """What the outside knows of the HTTP listener."""

    base_url: Annotated[str, BeforeValidator(_base_url)] | None = None
    """Written into certificates as where to fetch their issuer; None: they carry no such URL."""


class Oidc(Section):
    """An issuer of OpenID Connect whose tokens name callers, for people and CI jobs."""

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]
    """Stands in the principals: spiffe://{trust domain}/oidc/{name}/{claim}."""
    issuer: Annotated[str, Field(min_length=1, max_length=1024)]
    """What the claim `iss` must be, to the letter."""
    audience: Annotated[str, Field(min_length=1, max_length=1024)]
    """What the claim `aud` must have: a name of this server, for which no other service takes tokens."""
    jwks_url: Annotated[str, BeforeValidator(_https_url)]
    algorithms: Annotated[tuple[_Algorithm, ...], BeforeValidator(listed), Field(min_length=1)] = ("RS256", "ES256")
    principal_claim: Annotated[str, Field(min_length=1, max_length=64)] = "sub"
    required_claims: dict[str, str | bool] = Field(default_factory=dict)
    """Claims that must have just these values, `email_verified = true` beside a principal_claim of `email`."""
    ca_file: File | None = None
    """PEM of the roots that vouch for `jwks_url`; None: those of the machine."""


def _issuers(value: object) -> object:
    entries = listed(value)
    if isinstance(entries, tuple):
        for key in ("name", "issuer"):
            given = [entry.get(key) for entry in entries if isinstance(entry, dict) and isinstance(entry.get(key), str)]
            if len(set(given)) != len(given):
                raise invalid(f"two issuers have the same {key}; each needs one of its own")
    return entries


def _with_port(issuers: tuple[Oidc, ...], info: ValidationInfo) -> tuple[Oidc, ...]:
    listen = info.data.get("listen")
    if isinstance(listen, Listen) and bool(issuers) != (listen.bearer is not None):
        raise invalid("[[oidc]] and listen.bearer, the port on which tokens are taken, need each other")
    return issuers


class Limits(Section):
    """How much at once, and how much in one request."""

    concurrent_calls: Annotated[int, Field(ge=1, le=1024)] = 32
    maximum_waiting_calls: Annotated[int, Field(ge=0, le=100_000)] = 1024
    """Calls that wait for one of `concurrent_calls`; more are refused."""
    maximum_watchers: Annotated[int, Field(ge=1, le=16_384)] = 1024
    """Streams open at once on a port of the API; more are refused. Each has a thread."""
    calls_per_second: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    """Of each caller; those of a tenant have its quota together, too."""
    calls_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 4000
    """Calls that a caller may make at once after a pause."""
    maximum_connections: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    """Open at once on a port of the API; more are closed."""
    one_processor: bool = True
    """Whether the daemon's threads stay on one processor (`ipc.processor`)."""
    signing_queue: Annotated[int, Field(ge=16, le=65_536)] = 1024
    """Certificates on their way to the token and from it into the books; more are refused."""
    maximum_message_bytes: Annotated[int, Field(ge=64 << 10, le=64 << 20)] = 16 << 20
    """Of a request."""
    maximum_csr_bytes: Annotated[int, Field(ge=1024, le=32_768)] = 32_768
    maximum_names: Annotated[int, Field(ge=1, le=100)] = 100
    """Alternative names in a certificate that a call asks for."""
    maximum_labels: Annotated[int, Field(ge=0, le=50)] = 50
    """Of one resource."""
    maximum_batch_items: Annotated[int, Field(ge=1, le=1000)] = 1000
    maximum_page_size: Annotated[int, Field(ge=1, le=1000)] = 1000
    """Entries that a list may be asked for at once."""
    maximum_passphrase_bytes: Annotated[int, Field(ge=8, le=1024)] = 1024
    """Of an export; the shortest has 8."""


class Audit(Section):
    """Checkpoints of the record of events."""

    checkpoint_interval: Annotated[int, Field(ge=60, le=86_400)] = 3600
    """Seconds between two that nobody asks for, as long as something happens."""
    checkpoint_file: File | None = None
    """Gets each as a line, to be kept elsewhere; None: there is none."""


class Log(Section):
    """What is logged to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(Section):
    """The whole of certd.toml."""

    listen: Listen = Listen()
    database: Database
    token: Token
    prepare: Prepare = Prepare()
    tls: Tls
    web: Web = Web()
    oidc: Annotated[
        tuple[Oidc, ...], BeforeValidator(_issuers), AfterValidator(_with_port), Field(validate_default=True)
    ] = ()
    notify: Notify = Notify()
    limits: Limits = Limits()
    audit: Audit = Audit()
    log: Log = Log()


def load(path: Path) -> Config:
    """Reads and checks the file.

    Raises:
        CertdError: FIELD_INVALID with a violation per key path.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise _unreadable(
            path, f"cannot be read: {error.strerror}; name another with --config or make one with certd init"
        ) from error
    except ValueError as error:
        # Both not UTF-8 and not TOML.
        raise _unreadable(path, f"is not TOML: {error}") from error
    try:
        return Config.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        violations = tuple(_violation(details) for details in error.errors())
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise CertdError(Reason.FIELD_INVALID, f"{path}: {summary}", violations=violations) from error


def check(values: Mapping[str, object], *, folder: Path) -> None:
    """Checks values by key path, before there is a file of them in `folder`; keys that are not given are not missed.

    Raises:
        CertdError: FIELD_INVALID with a violation per key path.
    """
    document: dict[str, dict[str, str]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        document.setdefault(section, {})[name] = str(value)
    try:
        Config.model_validate(document, context={"folder": folder})
    except ValidationError as error:
        violations = tuple(_violation(details) for details in error.errors() if details["type"] != "missing")
        if violations:
            summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
            raise CertdError(Reason.FIELD_INVALID, summary, violations=violations) from error


def _unreadable(path: Path, problem: str) -> CertdError:
    return CertdError(Reason.FIELD_INVALID, f"{path} {problem}", violations=(Violation(str(path), problem),))


def _violation(details: ErrorDetails) -> Violation:
    path = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            description = "there is no such key; remove it, or see its spelling"
        case "missing":
            description = "this key is required"
        case _:
            description = details["msg"]
    return Violation(path, description)


def token_settings(config: Config) -> TokenSettings:
    """Returns what the token process needs of the configuration."""
    return TokenSettings(
        module=config.token.module,
        label=config.token.label,
        pin_file=config.token.pin_file,
        softhsm_conf=config.token.softhsm_conf,
        exports_per_minute=config.token.exports_per_minute,
        system_roots_file=config.token.system_roots,
        leases_per_minute=config.token.leases_per_minute,
        journal_folder=config.token.journal,
        recovery_public_key_file=config.token.recovery_public_key,
        log_level=config.log.level,
        log_format=config.log.format,
    )


def oidc_providers(config: Config) -> tuple[OidcProvider, ...]:
    """Returns the issuers whose tokens are taken."""
    return tuple(
        OidcProvider(
            name=issuer.name,
            issuer=issuer.issuer,
            audience=issuer.audience,
            jwks_url=issuer.jwks_url,
            algorithms=issuer.algorithms,
            principal_claim=issuer.principal_claim,
            required_claims=issuer.required_claims,
            ca_file=issuer.ca_file,
        )
        for issuer in config.oidc
    )


def request_limits(config: Config) -> RequestLimits:
    """Returns how much one request may hold."""
    limits = config.limits
    return RequestLimits(
        csr_bytes=limits.maximum_csr_bytes,
        names=limits.maximum_names,
        labels=limits.maximum_labels,
        batch_items=limits.maximum_batch_items,
        page_size=limits.maximum_page_size,
        passphrase_bytes=limits.maximum_passphrase_bytes,
    )


def require_files(config: Config) -> None:
    """Checks that what `certd serve` opens itself is there.

    Raises:
        CertdError: FIELD_INVALID with a violation per missing file.
    """
    made = "certd init makes it"
    needed = {
        "tls.certificate": (config.tls.certificate, made),
        "tls.private_key": (config.tls.private_key, made),
        "prepare.known_weak_keys": (config.prepare.known_weak_keys, "fetch it, or leave the key out"),
    }
    for number, issuer in enumerate(config.oidc):
        needed[f"oidc.{number}.ca_file"] = (issuer.ca_file, "put it there, or leave the key out")
    smtp = config.notify.smtp
    if smtp is not None:
        needed["notify.smtp.password_file"] = (smtp.password_file, "write the password there, readable by certd alone")
        needed["notify.smtp.ca_file"] = (smtp.ca_file, "put it there, or leave the key out")
    violations = tuple(
        Violation(key, f"{path} does not exist; {remedy}")
        for key, (path, remedy) in needed.items()
        if path is not None and not path.exists()
    )
    if violations:
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise CertdError(Reason.FIELD_INVALID, summary, violations=violations)


def render(values: Mapping[str, object]) -> str:
    """Returns the text of a commented certd.toml, as `certd init` writes it.

    `values` goes by key path: addresses of [listen] and `token.softhsm_conf` may be missing, the others that the
    template names may not. Values are not checked here: `load` is what checks.
    """
    defaults = {f"listen.{key}": field.default for key, field in Listen.model_fields.items()}
    literals = {key: _toml(value) for key, value in {**defaults, **values}.items()}
    softhsm_conf = literals.get("token.softhsm_conf")
    literals["token.softhsm_conf"] = "# softhsm_conf =" if softhsm_conf is None else f"softhsm_conf = {softhsm_conf}"
    return re.sub(r"\{([a-z_.]+)\}", lambda found: literals[found[1]], TEMPLATE)


def _toml(value: object) -> str:
    # A JSON string is a TOML basic string, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
