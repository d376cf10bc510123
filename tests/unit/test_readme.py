"""What the README says in tables is what the code has."""

import re
from datetime import timedelta
from pathlib import Path

from certd.api.fields import LONGEST_LABEL_KEY, LONGEST_LABEL_VALUE
from certd.api.streams import FEW_STREAMS
from certd.cli.certctl.durations import format_duration
from certd.cli.certctl.profile_flags import EXTENDED_KEY_USAGES
from certd.config import Limits as ConfiguredLimits
from certd.config import Token
from certd.model.access import ROLE_PERMISSIONS, Permission, Role
from certd.model.certificate_filter import DEEPEST, MOST_NODES
from certd.model.tenant import DEFAULT_QUOTAS, Quota
from certd.pki import name_constraints
from certd.pki.pkcs8 import PASSPHRASE_BYTES
from certd.pki.profiles import BUILT_IN, CommonNameRule, Profile, SubjectPresence
from certd.services.download_codes import MOST_CODES
from certd.services.downloads import EXPORTS
from certd.services.event_feed import LONGEST_QUEUE
from certd.token.settings import LEASES_OF_ONE_CONSUMER
from certd.web.app import LARGEST_HEADERS, MOST_HEADERS
from certd.web.device_formats import DeviceFormat
from certd.web.device_places import CONNECTIONS, CONNECTIONS_OF_A_SITE, CONNECTIONS_OF_AN_ADDRESS

_README = (Path(__file__).parents[2] / "README.md").read_text()
_USAGES = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_COMMON_NAMES = {
    CommonNameRule.AMONG_NAMES: "CN one of the names",
    CommonNameRule.ANY: "any CN",
    CommonNameRule.NONE: "no CN",
}
_PRESENCE = {
    SubjectPresence.OPTIONAL: "optional",
    SubjectPresence.REQUIRED: "required",
    SubjectPresence.DROPPED: "dropped",
}


def _table(first: str) -> list[str]:
    """Returns the rows of the table whose first column is called so, as they stand in the README."""
    lines = _README.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = lines[begin + 2 :]
    return rows[: next(number for number, line in enumerate(rows) if not line.startswith("|"))]


def _names(profile: Profile) -> str:
    rules, kinds = profile.names, []
    if rules.dns_names is not None:
        kinds.append("DNS with wildcards" if rules.dns_names.allow_wildcards else "DNS")
    kinds += ["IP"] if rules.ip_addresses is not None else []
    kinds += ["URI"] if rules.uris is not None else []
    kinds += ["e-mail"] if rules.email_addresses is not None else []
    return ", ".join(kinds) or "none"


def _row(profile: Profile) -> str:
    usages = ", ".join(_USAGES[oid] for oid in profile.extended_key_usages)
    cells = (
        f"`{profile.profile_id}`",
        f"{format_duration(profile.default_lifetime)}, {format_duration(profile.longest_lifetime)}",
        usages or ("signs certificates and CRLs" if profile.authority else "of the CSR"),
        _names(profile),
        f"{_PRESENCE[profile.subject.presence]}, {_COMMON_NAMES[profile.subject.common_name]}",
        "yes" if profile.restricted else "",
    )
    return "| " + " | ".join(cells).replace("|  |", "| |") + " |"


def test_the_built_in_profiles_stand_in_the_readme() -> None:
    assert [line.replace("  ", " ") for line in _table("Profile")] == [
        _row(profile).replace("  ", " ") for profile in BUILT_IN.values()
    ]
    assert {profile.backdate for profile in BUILT_IN.values()} == {timedelta(minutes=5)}


def test_what_each_role_allows_stands_in_the_readme() -> None:
    assert f"| Permission | {' | '.join(Role)} |" in _README
    assert _table("Permission") == [
        f"| {permission} | {' | '.join('x' if permission in ROLE_PERMISSIONS[role] else ' ' for role in Role)} |"
        for permission in Permission
    ]


def test_the_limits_stand_in_the_readme() -> None:
    limits = dict(line.strip("| ").split(" | ", 1) for line in _table("Limit"))
    kibibyte, configured = 1 << 10, ConfiguredLimits()
    expected = {
        "CSR": f"{configured.maximum_csr_bytes // kibibyte} KiB (`maximum_csr_bytes`)",
        "Names in a certificate": f"{configured.maximum_names} (`maximum_names`)",
        "Subtrees of an authority's name constraints": f"{name_constraints.HIGHEST_COUNT:,}",
        "Labels": f"{configured.maximum_labels} (`maximum_labels`), keys to {LONGEST_LABEL_KEY} "
        f"and values to {LONGEST_LABEL_VALUE} characters",
        "Items of a batch": f"{configured.maximum_batch_items:,} (`maximum_batch_items`)",
        "Entries of a page": f"{configured.maximum_page_size:,} (`maximum_page_size`)",
        "Conditions of a search": f"{MOST_NODES}, {DEEPEST} levels deep",
        **{
            f"{kind.value.replace('_', ' ').capitalize()} of a tenant": f"{DEFAULT_QUOTAS.of(kind):,} (its `quotas`)"
            for kind in Quota
        },
        "Calls of a tenant": f"{DEFAULT_QUOTAS.calls_per_second:,} a second (its `quotas`)",
        "Passphrase of an export": f"{PASSPHRASE_BYTES.start} to {configured.maximum_passphrase_bytes:,} bytes "
        "(`maximum_passphrase_bytes`)",
        "Message": f"{configured.maximum_message_bytes >> 20} MiB (`maximum_message_bytes`)",
        "Calls worked on at once": f"{configured.concurrent_calls} (`concurrent_calls`)",
        "Calls that wait": f"{configured.maximum_waiting_calls:,} (`maximum_waiting_calls`)",
        "Streams to a port of the API": (
            f"{configured.maximum_watchers:,} (`maximum_watchers`); the last quarter is for callers who have fewer than"
            f" {FEW_STREAMS}"
        ),
        "Events that wait for a watcher": f"{LONGEST_QUEUE:,}",
        "Certificates that wait for the token": f"{configured.signing_queue:,} (`signing_queue`)",
        "Connections to the port for devices": f"{CONNECTIONS}, {CONNECTIONS_OF_A_SITE} from one "
        f"/24 of IPv4 or /48 of IPv6, {CONNECTIONS_OF_AN_ADDRESS} from one address or /64; "
        "10 seconds for a handshake, 10 for the head of a request, 5 minutes in all, and less where there is no room",
        "Headers of a download": f"{LARGEST_HEADERS // kibibyte} KiB, {MOST_HEADERS}",
        "Downloads with a key at once": f"{EXPORTS}",
        "Download codes of a managed certificate that are not used": f"{MOST_CODES}",
        "Keys that consumers lease": f"{Token.model_fields['leases_per_minute'].default:,} a minute "
        f"(`[token] leases_per_minute`), {LEASES_OF_ONE_CONSUMER} of one consumer",
    }
    assert {limit: limits[limit] for limit in expected} == expected


def test_the_formats_for_devices_stand_in_the_readme() -> None:
    named = {name for row in _table("`format`") for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])}
    assert named == set(DeviceFormat)
