"""Where certctl connects to: flags, then `CERTCTL_*`, then `~/.config/certd/certctl.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certd.client.addresses import check_address
from certd.errors import CertdError, Reason

CONNECTION_KEYS: Final = ("address", "certificate", "private_key", "trust_bundle", "token_file")
_KEYS: Final = (*CONNECTION_KEYS, "tenant")
_PATH_KEYS: Final = frozenset({"certificate", "private_key", "trust_bundle", "token_file"})
_CERTIFICATE_KEYS: Final = ("certificate", "private_key")
DEFAULT_TENANT: Final = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach the server, and as whom."""

    address: str
    """`host:port` of the gRPC API."""
    certificate: Path
    """PEM of the client certificate."""
    private_key: Path
    """PEM of its private key."""
    trust_bundle: Path
    """PEM of the roots that vouch for the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """How to reach the server with a bearer token."""

    address: str
    """`host:port` of the gRPC API for callers with tokens."""
    token_file: Path
    trust_bundle: Path
    """PEM of the roots that vouch for the server."""


def settings_file(environment: Mapping[str, str]) -> Path:
    """Returns the path of the settings file: `CERTCTL_CONFIG`, or the default below HOME."""
    named = environment.get("CERTCTL_CONFIG")
    return Path(named).expanduser() if named else Path("~/.config/certd/certctl.toml").expanduser()


def read_file(path: Path, *, required: bool = False) -> dict[str, str]:
    """Returns the settings of a file, with paths made absolute against its directory; none when it does not exist.

    FIELD_INVALID on a file that cannot be read, is no TOML, or has an unknown key or a value that is no text.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise CertdError(Reason.FIELD_INVALID, f"the settings file {path} does not exist") from None
        return {}
    except OSError as error:
        raise CertdError(Reason.FIELD_INVALID, f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CertdError(Reason.FIELD_INVALID, f"the settings file {path} is not TOML: {error}") from error
    settings: dict[str, str] = {}
    for key, value in content.items():
        if key not in _KEYS:
            raise CertdError(Reason.FIELD_INVALID, f"{path}: unknown key {key}; known are {', '.join(_KEYS)}")
        if not isinstance(value, str) or not value:
            raise CertdError(Reason.FIELD_INVALID, f"{path}: {key} must be a text")
        settings[key] = str(path.parent / Path(value).expanduser()) if key in _PATH_KEYS else value
    return settings


def resolve(flags: Mapping[str, str], environment: Mapping[str, str], file: Mapping[str, str], where: Path) -> Settings:
    """Returns the settings by precedence: flags, environment, file.

    FIELD_INVALID when one is nowhere, or the address is no `host:port`; `where` is the file that the message names.
    """
    found = _found(("address", *_CERTIFICATE_KEYS, "trust_bundle"), (flags, environment, file), where)
    return Settings(
        address=check_address(found["address"]),
        certificate=Path(found["certificate"]).expanduser(),
        private_key=Path(found["private_key"]).expanduser(),
        trust_bundle=Path(found["trust_bundle"]).expanduser(),
    )


def resolve_token(
    flags: Mapping[str, str], environment: Mapping[str, str], file: Mapping[str, str], where: Path
) -> TokenSettings | None:
    """Returns the settings of a caller with a token, by precedence; None for one with a certificate.

    Of flags, environment and file the first that names a token or a certificate decides. FIELD_INVALID as `resolve`,
    and when one of them names both.
    """
    if not _shows_token(flags, {key: environment.get(_variable(key), "") for key in CONNECTION_KEYS}, file):
        return None
    found = _found(("address", "token_file", "trust_bundle"), (flags, environment, file), where)
    return TokenSettings(
        address=check_address(found["address"]),
        token_file=Path(found["token_file"]).expanduser(),
        trust_bundle=Path(found["trust_bundle"]).expanduser(),
    )


def _found(
    keys: tuple[str, ...], sources: tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]], where: Path
) -> dict[str, str]:
    flags, environment, file = sources
    found: dict[str, str] = {}
    for key in keys:
        value = flags.get(key) or environment.get(_variable(key)) or file.get(key)
        if not value:
            raise CertdError(
                Reason.FIELD_INVALID,
                f"{key} is not known; give --{key.replace('_', '-')}, or set {_variable(key)}, or {key} in {where}, "
                "which `certd init` writes",
            )
        found[key] = value
    return found


def _shows_token(*sources: Mapping[str, str]) -> bool:
    for source in sources:
        certificate = any(source.get(key) for key in _CERTIFICATE_KEYS)
        if source.get("token_file"):
            if certificate:
                raise CertdError(
                    Reason.FIELD_INVALID,
                    "both a token file and a client certificate are given, and only one is shown; leave one out",
                )
            return True
        if certificate:
            return False
    return False


def resolve_tenant(flag: str | None, environment: Mapping[str, str], file: Mapping[str, str]) -> str:
    """Returns the id of the tenant by precedence: flag, environment, file, `default`."""
    tenant = flag or environment.get(_variable("tenant")) or file.get("tenant") or DEFAULT_TENANT
    return tenant.removeprefix("tenants/")


def _variable(key: str) -> str:
    return f"CERTCTL_{key.upper()}"
