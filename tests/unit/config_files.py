"""Files of configuration for tests, and what is wrong with one."""

from pathlib import Path

import pytest

from certd.config import load
from certd.errors import CertdError, Reason

COMPLETE = """
[database]
url = "sqlite:///certd.db"
[token]
module = "/usr/lib/softhsm/libsofthsm2.so"
label = "certd"
pin_file = "token/pin"
[tls]
certificate = "server.pem"
private_key = "server.key"
trust_domain = "certd.internal"
"""


def config_file(folder: Path, text: str) -> Path:
    path = folder / "certd.toml"
    path.write_text(text)
    return path


def with_key(key: str, literal: str) -> str:
    """Returns the complete file with one key replaced or added."""
    section, name = key.split(".")
    lines = [line for line in COMPLETE.splitlines() if not line.startswith(f"{name} =")]
    if f"[{section}]" not in lines:
        lines.append(f"[{section}]")
    lines.insert(lines.index(f"[{section}]") + 1, f"{name} = {literal}")
    return "\n".join(lines)


def violations_of(folder: Path, text: str) -> dict[str, str]:
    with pytest.raises(CertdError) as caught:
        load(config_file(folder, text))
    assert caught.value.reason is Reason.FIELD_INVALID
    for violation in caught.value.violations:
        assert violation.field in caught.value.message
    return {violation.field: violation.description for violation in caught.value.violations}
