"""What a whole daemon refuses is found in its audit record."""

from pathlib import Path

from certd.model.event import EventType
from certd.store import events
from tests.api.every_method import TRUST_DOMAIN, Resources, named, requests_to
from tests.api.whole_daemon import Installed, failure_to, whole_daemon

_MISSING = Resources(tenant="elsewhere", authority="ca", managed="web", serial="01")


def _refused(running: Installed) -> list[tuple[str, str, str, str]]:
    running.core.refusals.flush(whole_minutes=False)
    with running.core.store.read("test.events") as tx:
        rows = [row.event for row in events.page(tx, after_seq=0, limit=1000)]
    return [
        (event.principal, event.resource, event.details["reasons"], event.details["peer"])
        for event in rows
        if event.type is EventType.CALL_REFUSED
    ]


def test_what_a_daemon_refuses_is_in_its_events_and_what_it_grants_is_not(tmp_path: Path) -> None:
    with whole_daemon(tmp_path) as running:
        method = named("GetAuthority")
        stranger = running.caller("stranger")
        for resources in (running.there, _MISSING, _MISSING):
            failure = failure_to(stranger, method, requests_to(resources)["GetAuthority"])
            assert failure is not None
            assert failure.reason == "PERMISSION_MISSING"
        assert failure_to(running.administrator, method, requests_to(running.there)["GetAuthority"]) is None
        principal = f"spiffe://{TRUST_DOMAIN}/identities/stranger"
        told = [(principal, "/certd.v1.AuthorityService/GetAuthority", "PERMISSION_MISSING: 3", "127.0.0.1")]
        assert _refused(running) == told
        assert _refused(running) == told, "nothing is written twice"
