"""An agent beside a daemon hears of revocations as they happen, and its status says what is to be done."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from certd.v1.certificate_pb2 import CA_COMPROMISE
from certd.v1.managed_certificate_service_pb2 import RevokeManagedCertificateRequest
from tests.agent.running import Administrator, Place, served
from tests.daemon import initialise, running
from tests.waiting import eventually


@pytest.fixture(scope="module")
def administrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administrator]:
    with running(initialise(tmp_path_factory.mktemp("daemon"))) as started, Administrator(started) as made:
        made.make_authority()
        yield made


def revoke(administrator: Administrator, managed: str, version: int) -> None:
    request = RevokeManagedCertificateRequest(
        name=f"tenants/default/managedCertificates/{managed}",
        version=version,
        reason=CA_COMPROMISE,
    )
    administrator.client.call(administrator.client.stubs.revoke_managed_certificate, request)


def shows(place: Place, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Waits for what the status says of the one certificate."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = place.status()["certificates"][0]
        return found if fits(found) else None

    return eventually(look, within=60.0)


def test_a_revocation_is_heard_of_at_once_and_shown_until_a_renewal(
    administrator: Administrator, tmp_path: Path
) -> None:
    place = Place(administrator, tmp_path, "revoked")
    # Long enough for the stream alone to tell of it.
    place.lines.append("poll_interval = 3600")
    place.write_config()
    place.enroll()
    managed = administrator.request("revoked", "revoked")
    directory = place.add(managed)
    with place.running():
        shows(place, lambda found: found["state"] == "SERVING" and found["version"] == 1)
        first = served(directory)
        revoke(administrator, managed, 1)
        found = shows(place, lambda found: found["state"] == "REVOKED")
        assert "version 1, which is served, is revoked, and the server has no newer one" in found["error"]
        assert served(directory) == first
        assert "is revoked" in place.told()
    # A restart knows it, whether the server is there or not.
    with place.running():
        shows(place, lambda found: found["state"] == "REVOKED" and found["current_version"] == 1)
        card = place.program("status")
        assert card.returncode == 1
        assert "REVOKED" in card.stdout
        assert "renew the managed certificate" in card.stdout
        administrator.renew(managed)
        shows(place, lambda found: (found["state"], found["version"], found["error"]) == ("SERVING", 2, ""))
        assert served(directory) == administrator.current(managed)
        assert place.program("status").returncode == 0
        administrator.renew(managed)
        shows(place, lambda found: found["version"] == 3)
        kept = place.state / "kept" / managed
        assert (kept / "2.json").exists()
        # That of a version which is not the current one is heard of as well: it is kept no longer.
        revoke(administrator, managed, 2)
        places = (kept / "2.json", directory / "versions" / "2")
        eventually(lambda: not any(each.exists() for each in places), within=60.0)
        assert shows(place, lambda found: found["version"] == 3)["state"] == "SERVING"
