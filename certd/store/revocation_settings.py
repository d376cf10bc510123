"""Revocation settings as they stand in a column: canonical JSON of what differs from the defaults."""

import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final

from certd.model.revocation_settings import CrlSettings, OcspSettings, RevocationSettings
from certd.store.values import json_text

_DEFAULTS: Final = RevocationSettings()
_SECOND: Final = timedelta(seconds=1)


def settings_text(settings: RevocationSettings) -> str:
    """Returns settings as canonical JSON; lifetimes are whole seconds."""
    return json_text(_differences(settings, _DEFAULTS))


def settings_of(text: str) -> RevocationSettings:
    """Returns the settings of their JSON."""
    if text == "{}":
        return _DEFAULTS
    values = json.loads(text)
    return RevocationSettings(
        **_arguments(
            {
                **values,
                "crl": CrlSettings(**_arguments(values.get("crl", {}))),
                "ocsp": OcspSettings(**_arguments(values.get("ocsp", {}))),
            }
        )
    )


def _differences(value: object, default: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(default):  # type: ignore[arg-type]  # A dataclass of the model.
        mine, standard = getattr(value, field.name), getattr(default, field.name)
        if mine == standard:
            continue
        if isinstance(mine, CrlSettings | OcspSettings):
            found[field.name] = _differences(mine, standard)
        else:
            found[field.name] = mine // _SECOND if isinstance(mine, timedelta) else mine
    return found


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: timedelta(seconds=value) if name == "lifetime" else tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
