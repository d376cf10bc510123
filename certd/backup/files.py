"""Which files belong to a server beside its database, and certd.toml once they lie elsewhere."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from certd.config import Config, token_settings
from certd.errors import field_invalid

OFFICER_PIN: Final = "token.so_pin_file"
"""No key of certd.toml: `certd init` puts the file beside that of the user's PIN."""
SOFTHSM: Final = "token.softhsm_conf"
# Where each is put by a restore, as `certd init` would; others lie below `files/`.
_PLACES: Final = {
    "tls.certificate": "server.pem",
    "tls.private_key": "server.key",
    "token.pin_file": "token-pin",
    OFFICER_PIN: "token-so-pin",
    "token.system_roots": "system-roots.pem",
    SOFTHSM: "token/softhsm2.conf",
}
_SECTION: Final = re.compile(r"\s*\[([a-z_.]+)\]\s*(#.*)?")
_LIST_SECTION: Final = re.compile(r"\s*\[\[([a-z_]+)\]\]\s*(#.*)?")
_ENTRY: Final = re.compile(r"\s*([a-z_]+)\s*=")


def files_of(settings: Config) -> dict[str, Path]:
    """Returns the files that certd.toml names and that a restored server needs, by key."""
    token = settings.token
    found: dict[str, Path | None] = {
        "tls.certificate": settings.tls.certificate,
        "tls.private_key": settings.tls.private_key,
        "token.pin_file": token.pin_file,
        OFFICER_PIN: token.pin_file.with_name(token.pin_file.name.replace("pin", "so-pin")),
        SOFTHSM: token.softhsm_conf,
        "token.system_roots": token_settings(settings).system_roots,
        "token.recovery_public_key": token.recovery_public_key,
    }
    if settings.notify.smtp is not None:
        found["notify.smtp.password_file"] = settings.notify.smtp.password_file
        found["notify.smtp.ca_file"] = settings.notify.smtp.ca_file
    for number, issuer in enumerate(settings.oidc):
        found[f"oidc.{number}.ca_file"] = issuer.ca_file
    optional = {OFFICER_PIN, "token.system_roots"}
    return {key: path for key, path in found.items() if path is not None and (key not in optional or path.exists())}


def place(key: str) -> str:
    """Returns where a restore puts a file, relative to the data directory."""
    return _PLACES.get(key, f"files/{key}")


def tokens_folder(configuration: Path) -> Path:
    """Returns where SoftHSM keeps its tokens, as its configuration says. FIELD_INVALID, OSError."""
    for line in configuration.read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "directories.tokendir":
            return Path(value.strip())
    raise field_invalid("token.softhsm_conf", f"{configuration} names no directories.tokendir")


def with_tokens_folder(configuration: str, folder: Path) -> str:
    """Returns a configuration of SoftHSM that keeps its tokens in a folder."""
    lines = [line for line in configuration.splitlines() if line.partition("=")[0].strip() != "directories.tokendir"]
    return "".join(f"{line}\n" for line in (f"directories.tokendir = {folder}", *lines))


def rewritten(text: str, values: Mapping[str, str | None], *, added: frozenset[str] = frozenset()) -> str:
    """Returns a certd.toml with other values of keys that it has, and of those in `added`; None takes a key out.

    Keys are as `tls.certificate`, those of tables in a list with their number, `oidc.0.ca_file`. A key that has a line
    of its own below the line of its section is found; whoever calls looks what came of it.
    """
    lines, section, counts = [], "", dict[str, int]()
    left = dict(values)
    for line in text.splitlines():
        if (found := _SECTION.fullmatch(line)) is not None:
            section = found[1]
        elif (found := _LIST_SECTION.fullmatch(line)) is not None:
            number = counts.get(found[1], 0)
            counts[found[1]], section = number + 1, f"{found[1]}.{number}"
        elif (found := _ENTRY.match(line)) is not None and (key := f"{section}.{found[1]}") in left:
            value = left.pop(key)
            if value is None:
                lines.append(f"# {line.strip()}   # Before the restore.")
                continue
            # A JSON string is a TOML basic string, but for DEL.
            line = f"{found[1]} = {json.dumps(value, ensure_ascii=False)}"  # noqa: PLW2901  # The same line, changed.
        lines.append(line)
    for key in sorted(added & left.keys()):
        section, _, name = key.rpartition(".")
        if f"[{section}]" in lines and left[key] is not None:
            lines.insert(lines.index(f"[{section}]") + 1, f"{name} = {json.dumps(left[key], ensure_ascii=False)}")
    return "".join(f"{line}\n" for line in lines)
