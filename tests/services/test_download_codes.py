"""Download codes: who makes them, how long they hold, and what they are used with."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.event import Event, EventType
from certd.model.names import GrantName, ManagedCertificateName
from certd.pki.download_code import DownloadCode, new_download_code, parse_download_code
from certd.pki.export_form import ExportForm
from certd.services.download_codes import MOST_CODES, MadeDownloadCode, NewDownloadCode
from certd.services.downloads import Holder
from certd.services.managed_export import Exported, PassphraseExport
from certd.store import download_codes, grants
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import (
    ADMINISTRATOR,
    STRANGER,
    TRUST_DOMAIN,
    World,
    configuration,
    running_world,
    two_worlds,
)
from tests.services.managed_books import at_version, events_of, renewed, stands
from tests.softhsm import make_token

__all__ = ["postgres_server", "postgres_url"]

WEB = ManagedCertificateName("default", "web")
ADDRESS = "192.0.2.7"
_PROTECTION = PassphraseExport(b"correct horse", ExportForm.ACM_COMPATIBLE)
_HOUR = timedelta(hours=1)


def _issued(world: World, **changes: Any) -> World:
    world.create_root()
    world.create_subordinate()
    world.request(**changes)
    at_version(world, 1)
    return world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with running_world(configuration(folder, make_token(folder)), FakeClock()) as running:
        yield _issued(running)


@pytest.fixture
def web(shared: World) -> World:
    """One world for those that do it no harm; what others asked for before is over."""
    shared.clock.advance(timedelta(days=1))
    shared.core.download_codes.tidy()
    _BEFORE[0] = len(shared.events())
    return shared


_BEFORE = [0]
"""How many events there were before a test."""


def _events(world: World, *types: EventType) -> list[Event]:
    return [event for event in world.events()[_BEFORE[0] :] if event.type in types]


def _code(world: World, caller: Caller = ADMINISTRATOR, **changes: Any) -> MadeDownloadCode:
    return world.core.download_codes.create(caller, NewDownloadCode(name=WEB, **changes))


def _find(world: World, code: str, *, name: ManagedCertificateName = WEB, address: str = ADDRESS) -> Holder:
    return world.core.downloads.of_code(code, name, address=address)


def _take(world: World, holder: Holder, reason: str = "") -> Exported:
    offer = world.core.downloads.offer(holder, WEB, with_key=True)
    return world.core.downloads.take(offer, _PROTECTION, reason=reason)


def _refusal(action: Any, *arguments: Any, **named: Any) -> CertdError:
    with pytest.raises(CertdError) as refused:
        action(*arguments, **named)
    return refused.value


def test_a_code_is_written_in_one_way() -> None:
    code = new_download_code()
    assert len(code.text()) == 41
    assert parse_download_code(f"  {code.text().upper()}\n") == code
    assert code.secret.hex() not in repr(code)
    bent = [code.text()[:-1], code.text() + "a", code.text().replace("certddl1", "certd1")]
    for wrong in ("", *bent, *("certddl1-" + each * 32 for each in ("1", "ä", "="))):
        assert _refusal(parse_download_code, wrong).reason is Reason.DOWNLOAD_CODE_INVALID


def test_a_code_is_used_with_the_event_of_the_export(web: World) -> None:
    made = _code(web, reason="a new router")
    holder = _find(web, made.code.text())
    web.clock.advance(timedelta(minutes=1))
    _take(web, holder)
    created, exported = _events(web, EventType.DOWNLOAD_CODE_CREATED, EventType.MANAGED_CERTIFICATE_EXPORTED)
    assert created.details["reason"] == exported.details["reason"] == "a new router"
    assert created.details["download_code"] == exported.details["download_code"]
    assert exported.details["address"] == ADDRESS
    assert made.code.text() not in repr(web.events())
    assert stands(web).used
    with web.core.store.read("test") as tx:
        row = download_codes.get(tx, made.code.secret_sha256)
    assert row is not None
    assert row.use_time == web.clock.now()
    assert _refusal(_find, web, made.code.text()).reason is Reason.DOWNLOAD_CODE_INVALID


def test_a_code_is_for_the_version_that_is_current_when_it_is_used(web: World) -> None:
    made = _code(web)
    before = stands(web).current_version
    renewed(web)
    assert _take(web, _find(web, made.code.text())).version == before + 1


def test_the_reason_of_a_device_stands_in_the_event(web: World) -> None:
    _take(web, _find(web, _code(web, reason="given").code.text()), reason="of the device")
    assert _events(web, EventType.MANAGED_CERTIFICATE_EXPORTED)[-1].details["reason"] == "of the device"


def test_a_code_holds_so_long_and_no_longer(web: World) -> None:
    default, short = _code(web), _code(web, lifetime=timedelta(minutes=1))
    assert default.view.row.expire_time == web.clock.now() + _HOUR
    web.clock.advance(timedelta(seconds=59))
    found = _find(web, short.code.text())
    web.clock.advance(timedelta(seconds=1))
    assert _refusal(_find, web, short.code.text()).reason is Reason.DOWNLOAD_CODE_INVALID
    # It was good when it was looked at, and is not when it would be used.
    assert _refusal(_take, web, found).reason is Reason.DOWNLOAD_CODE_INVALID
    assert not _events(web, EventType.MANAGED_CERTIFICATE_EXPORTED)
    web.clock.advance(_HOUR)
    web.core.download_codes.tidy()
    with web.core.store.read("test") as tx:
        assert download_codes.get(tx, default.code.secret_sha256) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lifetime": timedelta(seconds=59)}, "lifetime"),
        ({"lifetime": timedelta(days=1, seconds=1)}, "lifetime"),
        ({"source_networks": ("192.0.2.1/24",)}, "source_networks[0]"),
        ({"source_networks": ("192.0.2.0/24",) * 17}, "source_networks"),
    ],
)
def test_what_is_asked_for_is_checked(web: World, changes: dict[str, Any], field: str) -> None:
    error = _refusal(_code, web, **changes)
    assert error.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in error.violations] == [field]


def test_a_code_is_good_from_its_networks(web: World) -> None:
    text = _code(web, source_networks=("192.0.2.0/24", "2001:db8::/32")).code.text()
    for address in ("192.0.2.255", "2001:db8::1", "::ffff:192.0.2.1"):
        _find(web, text, address=address)
    for address in ("192.0.3.1", "2001:db9::1", "", "nonsense"):
        assert _refusal(_find, web, text, address=address).reason is Reason.DOWNLOAD_CODE_INVALID


def test_who_may_not_export_makes_no_code(web: World) -> None:
    missing = NewDownloadCode(name=ManagedCertificateName("default", "no-web"))
    for new in (NewDownloadCode(name=WEB), missing):
        error = _refusal(web.core.download_codes.create, STRANGER, new)
        assert error.reason is Reason.PERMISSION_MISSING
    assert _refusal(web.core.download_codes.create, ADMINISTRATOR, missing).reason is (
        Reason.MANAGED_CERTIFICATE_NOT_FOUND
    )


def test_what_is_not_exportable_has_no_codes(world: World) -> None:
    _issued(world, exportable=False)
    assert _refusal(_code, world).reason is Reason.NOT_EXPORTABLE
    assert not events_of(world, EventType.DOWNLOAD_CODE_CREATED)


def test_a_managed_certificate_has_so_many_codes_at_once(web: World) -> None:
    made = [_code(web) for _ in range(MOST_CODES)]
    error = _refusal(_code, web)
    assert (error.reason, error.metadata["limit"]) == (Reason.QUOTA_EXCEEDED, str(MOST_CODES))
    _take(web, _find(web, made[0].code.text()))
    _code(web)
    assert _refusal(_code, web).reason is Reason.QUOTA_EXCEEDED
    web.clock.advance(_HOUR)
    _code(web)


def test_a_code_holds_while_its_maker_may_export(web: World) -> None:
    grant = Grant(grant_id="g", principal=STRANGER.principal, role=Role.EXPORTER, scope=str(WEB), profiles=None)
    web.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
    text = _code(web, STRANGER).code.text()
    holder = _find(web, text)
    web.core.store.write("test.grant", lambda tx: grants.delete(tx, GrantName(None, "g")))
    assert _refusal(_find, web, text).reason is Reason.DOWNLOAD_CODE_INVALID
    assert _refusal(_take, web, holder).reason is Reason.DOWNLOAD_CODE_INVALID
    assert not _events(web, EventType.MANAGED_CERTIFICATE_EXPORTED)


def test_a_code_is_not_that_of_the_next_one_of_the_same_name(web: World) -> None:
    name = ManagedCertificateName("default", "again")
    web.request("again")
    at_version(web, 1, name)
    text = web.core.download_codes.create(ADMINISTRATOR, NewDownloadCode(name=name)).code.text()
    _find(web, text, name=name)
    web.core.managed_certificate_changes.delete(ADMINISTRATOR, name, etag="", key=None, validate_only=False)
    assert _refusal(_find, web, text, name=name).reason is Reason.DOWNLOAD_CODE_INVALID
    web.request("again")
    assert _refusal(_find, web, text, name=name).reason is Reason.DOWNLOAD_CODE_INVALID


@pytest.fixture
def hurried(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    """A world whose token process exports one key in a minute."""
    config = configuration(tmp_path, token_settings)
    token = config.token.model_copy(update={"exports_per_minute": 1})
    with running_world(config.model_copy(update={"token": token}), FakeClock()) as running:
        yield _issued(running)


def test_when_the_token_process_refuses_the_code_is_used_and_the_error_says_so(hurried: World) -> None:
    first, second = _code(hurried), _code(hurried)
    _take(hurried, _find(hurried, first.code.text()))
    error = _refusal(_take, hurried, _find(hurried, second.code.text()))
    assert error.reason is Reason.RATE_LIMITED
    assert "the download code is used by this attempt" in error.message
    # To come again with the same code would be of no use.
    assert error.retry_after is None
    assert len(events_of(hurried, EventType.MANAGED_CERTIFICATE_EXPORTED)) == 2
    assert _refusal(_find, hurried, second.code.text()).reason is Reason.DOWNLOAD_CODE_INVALID


def test_while_the_token_process_is_away_nothing_is_recorded_and_the_code_stays(hurried: World) -> None:
    text = _code(hurried).code.text()
    hurried.core.token.stop()
    error = _refusal(_take, hurried, _find(hurried, text))
    assert error.reason is Reason.TOKEN_UNAVAILABLE
    assert "download code" not in error.message
    assert not events_of(hurried, EventType.MANAGED_CERTIFICATE_EXPORTED)
    _find(hurried, text)


def test_wrong_codes_are_counted_as_events(web: World) -> None:
    for _ in range(3):
        _refusal(_find, web, DownloadCode(bytes(20)).text())
    assert not _events(web, EventType.DOWNLOAD_REFUSED)
    web.clock.advance(timedelta(minutes=1))
    web.core.download_codes.tidy()
    (event,) = _events(web, EventType.DOWNLOAD_REFUSED)
    assert (event.details, event.tenant, event.principal) == ({"address": ADDRESS, "count": "3"}, None, "unknown")
    assert not _events(web, EventType.ENROLLMENT_REFUSED)


def test_wrong_codes_are_limited_for_each_network_and_right_ones_nowhere(web: World) -> None:
    text = _code(web).code.text()
    outcomes = [_refusal(_find, web, "wrong").reason for _ in range(11)]
    assert outcomes == [Reason.DOWNLOAD_CODE_INVALID] * 10 + [Reason.RATE_LIMITED]
    limited = _refusal(_find, web, new_download_code().text(), address="192.0.2.200")
    assert limited.reason is Reason.RATE_LIMITED
    assert "download codes" in limited.message
    # It may be a neighbour's.
    _find(web, text)
    elsewhere = _refusal(_find, web, "wrong", address="198.51.100.1")
    web.clock.advance(timedelta(minutes=1))
    assert {elsewhere.reason, _refusal(_find, web, "wrong").reason} == {Reason.DOWNLOAD_CODE_INVALID}


def test_wrong_codes_from_everywhere_keep_nobody_out(web: World) -> None:
    text = _code(web).code.text()
    outcomes = {
        _refusal(_find, web, "wrong", address=f"198.18.{number // 10}.{number % 10}").reason for number in range(1200)
    }
    assert outcomes == {Reason.DOWNLOAD_CODE_INVALID}
    _find(web, text, address="198.18.0.1")
    _find(web, text, address="203.0.113.1")


def test_the_maker_of_a_code_is_told_by_its_event_alone(web: World) -> None:
    """Who only looks leaves nothing in the record."""
    text = _code(web).code.text()
    before = web.events()
    for _ in range(3):
        web.core.downloads.offer(_find(web, text), WEB, with_key=True)
    assert web.events() == before
    assert TRUST_DOMAIN in before[-1].principal


def test_of_two_daemons_one_lets_a_code_in(postgres_url: str, tmp_path: Path, token_settings: TokenSettings) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as worlds:
        _issued(worlds[0])
        text = _code(worlds[0]).code.text()
        holders = [_find(world, text) for world in worlds]

        def attempt(number: int) -> Reason | None:
            try:
                _take(worlds[number], holders[number])
            except CertdError as error:
                return error.reason
            return None

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(attempt, range(2)))
        assert sorted(map(str, outcomes)) == ["DOWNLOAD_CODE_INVALID", "None"]
