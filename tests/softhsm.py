"""A fresh SoftHSM token for a test, in a few milliseconds."""

from pathlib import Path

from certd.token.settings import TokenSettings
from certd.token.softhsm import find_module, initialise, write_configuration

USER_PIN = "73914268"
SO_PIN = "51804937"


def make_token(
    tmp_path: Path, *, label: str = "certd test", exports_per_minute: int = 600, leases_per_minute: int = 6000
) -> TokenSettings:
    """Makes a token under `tmp_path` and returns the settings with which a token process opens it."""
    directory = tmp_path / "token"
    tokens = directory / "tokens"
    tokens.mkdir(parents=True)
    configuration = directory / "softhsm2.conf"
    write_configuration(configuration, tokens=tokens)
    initialise(configuration, label=label, user_pin=USER_PIN, so_pin=SO_PIN)
    pin_file = directory / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(f"{USER_PIN}\n")
    return TokenSettings(
        module=find_module(),
        label=label,
        pin_file=pin_file,
        softhsm_conf=configuration,
        exports_per_minute=exports_per_minute,
        leases_per_minute=leases_per_minute,
    )
