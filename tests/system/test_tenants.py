"""A second tenant, as people make it: its administrator comes in by a code and keeps to it."""

import json
from pathlib import Path

from tests.daemon import RunningDaemon, run_program
from tests.system.calls import must


def _names(printed: str) -> list[str]:
    return [json.loads(line)["name"] for line in printed.splitlines()]


def test_a_tenant_gets_an_administrator_who_keeps_to_it(daemon: RunningDaemon, tmp_path: Path) -> None:
    code, place = tmp_path / "alice.code", tmp_path / "alice"
    alice = "tenants/acme/identities/alice"
    must(daemon, "tenant", "create", "acme", "--display-name", "Acme Corporation", "--quota", "authorities=1")
    must(daemon, "enrollment", "create-code", alice, "--code-file", code)
    for role in ("administrator", "authority-operator"):
        must(daemon, "grant", "create", alice, role, "--tenant", "acme")
    arguments: tuple[str | Path, ...] = ("--code-file", code, "--credentials-dir", place, "--api-address", daemon.grpc)
    enrolled = run_program("certctl", "enroll", "--address", daemon.enrollment, *arguments)
    assert enrolled.returncode == 0, enrolled.stderr

    def as_alice(*words: str | Path) -> tuple[int, str, str]:
        environment = {"CERTCTL_CONFIG": str(place / "certctl.toml"), "CERTCTL_TENANT": "acme"}
        ended = run_program("certctl", *words, environment=environment)
        return ended.returncode, ended.stdout, ended.stderr

    assert _names(as_alice("tenant", "list", "-o", "json")[1]) == ["tenants/acme"]
    assert {"tenants/acme", "tenants/default"} <= set(_names(must(daemon, "tenant", "list", "-o", "json")))
    new = ("--type", "root", "--subject", "CN=Acme Root", "--lifetime", "10y")
    ended, _, err = as_alice("authority", "create", "root", *new)
    assert ended == 0, err
    assert _names(as_alice("authority", "list", "-o", "json")[1]) == ["tenants/acme/authorities/root"]
    assert _names(must(daemon, "authority", "list", "--tenant", "acme", "-o", "json")) == [
        "tenants/acme/authorities/root"
    ]
    # One is all that it may have, and that is not its own to change.
    ended, _, err = as_alice("authority", "create", "second", *new)
    assert (ended, "QUOTA_EXCEEDED" in err, "has 1 authorities" in err) == (1, True, True)
    ended, _, err = as_alice("tenant", "update", "acme", "--quota", "authorities=2")
    assert (ended, "PERMISSION_MISSING" in err) == (1, True)
    assert as_alice("tenant", "update", "acme", "--display-name", "Acme")[0] == 0
    must(daemon, "tenant", "update", "acme", "--quota", "authorities=2")
    assert as_alice("authority", "create", "second", *new, "--validate-only")[0] == 0
    # Of other tenants she learns nothing.
    for other in ("default", "none-such"):
        for words in (("authority", "list"), ("tenant", "get"), ("identity", "list"), ("grant", "list")):
            ended, out, err = as_alice(*words, "--tenant", other)
            assert (ended, out, "PERMISSION_MISSING" in err) == (1, "", True)
    assert as_alice("tenant", "create", "beta")[0] == 1
