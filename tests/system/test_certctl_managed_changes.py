"""certctl against a daemon with a real token: managed certificates renewed, one or all in an incident, and revoked."""

import json
from typing import Any

import pytest

from tests.daemon import RunningDaemon
from tests.system.calls import must
from tests.waiting import eventually

CA = "incident-ca"
MANY = [f"incident-{number}" for number in range(12)]
ONE = MANY[0]


@pytest.fixture(scope="session")
def managed(daemon: RunningDaemon) -> str:
    """Managed certificates of an authority of their own."""
    root = "incident-root"
    must(daemon, "authority", "create", root, "--type", "root", "--subject", "CN=Incident Root")
    must(daemon, "authority", "create", CA, "--type", "subordinate", "--issuer", root, "--subject", "CN=Incident")
    for name in MANY:
        must(daemon, "managed", "request", name, "--authority", CA, "--dns", f"{name}.example.internal", "--no-wait")
    must(daemon, "managed", "renew", ONE)
    return CA


def shown(daemon: RunningDaemon, *arguments: str) -> Any:
    return json.loads(must(daemon, *arguments, "-o", "json"))


def versions(daemon: RunningDaemon, name: str) -> list[tuple[int, str]]:
    lines = must(daemon, "managed", "versions", name, "-o", "json").splitlines()
    return [(int(one["version"]), one["state"]) for one in map(json.loads, lines)]


def with_current(states: dict[int, str]) -> dict[int, str] | None:
    return states if "CURRENT" in states.values() else None


@pytest.mark.usefixtures("managed")
def test_one_is_renewed_and_the_version_before_is_kept(daemon: RunningDaemon) -> None:
    before = int(shown(daemon, "managed", "get", ONE)["currentVersion"])
    after = shown(daemon, "managed", "renew", ONE, "--reason", "moved")
    assert int(after["currentVersion"]) == before + 1
    assert versions(daemon, ONE)[:2] == [(before + 1, "CURRENT"), (before, "SUPERSEDED")]


def test_in_an_incident_all_of_an_authority_are_renewed(daemon: RunningDaemon, managed: str) -> None:
    before = {name: int(shown(daemon, "managed", "get", name)["currentVersion"]) for name in MANY}
    ended = daemon.certctl("managed", "renew", "--authority", managed, "--rate", "20/s", "--campaign-id", "leak")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1] == f"certctl: campaign leak: {len(MANY)} of {len(MANY)} renewed"
    assert "DONE" in ended.stdout
    after = {name: int(shown(daemon, "managed", "get", name)["currentVersion"]) for name in MANY}
    assert after == {name: version + 1 for name, version in before.items()}
    campaign = shown(daemon, "campaign", "show", "leak")
    assert (campaign["state"], campaign["renewedCount"], campaign["renewalsPerMinute"]) == ("DONE", "12", 1200)
    assert "leak" in must(daemon, "campaign", "list")


@pytest.mark.usefixtures("managed")
def test_a_policy_is_changed_and_shown(daemon: RunningDaemon) -> None:
    window = "0 2 * * SAT;Europe/Berlin;4h"
    must(daemon, "managed", "update", ONE, "--renewal", "when-used", "--maintenance-window", window)
    card = must(daemon, "managed", "get", ONE)
    assert "when-used, when 33 % of the lifetime are left" in card
    assert f"in {window}" in card
    refused = daemon.certctl("managed", "update", ONE, "--maintenance-window", "0 2 30 2 *;Mars/Olympus;4h")
    assert refused.returncode == 1
    for field in ("cron", "time_zone"):
        assert f"managed_certificate.renewal.maintenance_windows[0].{field}" in refused.stderr
    must(daemon, "managed", "update", ONE, "--clear", "renewal")


@pytest.mark.usefixtures("managed")
def test_a_compromised_version_is_revoked_and_replaced(daemon: RunningDaemon) -> None:
    name = MANY[1]
    current = int(shown(daemon, "managed", "get", name)["currentVersion"])
    must(daemon, "managed", "revoke", name, "--version", str(current), "--reason", "key-compromise")
    states = eventually(lambda: with_current(dict(versions(daemon, name))))
    assert (states[current], states[current + 1]) == ("REVOKED", "CURRENT")


@pytest.mark.usefixtures("managed")
def test_what_is_given_up_is_revoked_altogether_and_deleted(daemon: RunningDaemon) -> None:
    name = MANY[2]
    given_up = shown(daemon, "managed", "revoke", name, "--all-versions", "--reason", "cessation-of-operation")
    assert given_up["state"] == "REVOKED"
    refused = daemon.certctl("managed", "renew", name)
    assert refused.returncode == 1
    assert "NOT_RENEWABLE" in refused.stderr
    must(daemon, "managed", "delete", name)
    gone = daemon.certctl("managed", "get", name)
    assert "MANAGED_CERTIFICATE_NOT_FOUND" in gone.stderr
