"""Download codes that are listed, and withdrawn before anybody used them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from certd.errors import CertdError, Reason
from certd.model.access import Caller, Grant, Role
from certd.model.event import Event, EventType
from certd.model.names import WILDCARD, DownloadCodeName, GrantName, ManagedCertificateName
from certd.pki.export_form import ExportForm
from certd.services.download_codes import DownloadCodeView, MadeDownloadCode, NewDownloadCode
from certd.services.managed_export import PassphraseExport
from certd.services.paging import PageRequest
from certd.store import grants
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.postgres import postgres_server, postgres_url
from tests.services.conftest import ADMINISTRATOR, STRANGER, World, configuration, running_world, two_worlds
from tests.services.managed_books import at_version, new_key
from tests.softhsm import make_token
from tests.waiting import eventually

__all__ = ["postgres_server", "postgres_url"]

WEB, MAIL = (ManagedCertificateName("default", id_) for id_ in ("web", "mail"))
EVERY = ManagedCertificateName("default", WILDCARD)
_HOUR = timedelta(hours=1)
_PROTECTION = PassphraseExport(b"correct horse", ExportForm.ACM_COMPATIBLE)


def _issued(world: World) -> World:
    world.create_root()
    world.create_subordinate()
    for name in (WEB, MAIL):
        world.request(name.managed_certificate)
        at_version(world, 1, name)
    return world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with running_world(configuration(folder, make_token(folder)), FakeClock()) as running:
        yield _issued(running)


@pytest.fixture
def ca(shared: World) -> World:
    """One world for all; the codes of the test before are over."""
    shared.clock.advance(timedelta(days=1))
    shared.core.download_codes.tidy()
    return shared


def _code(
    world: World, name: ManagedCertificateName = WEB, caller: Caller = ADMINISTRATOR, **of: Any
) -> MadeDownloadCode:
    return world.core.download_codes.create(caller, NewDownloadCode(name=name, **of))


def _list(
    world: World, parent: ManagedCertificateName = WEB, caller: Caller = ADMINISTRATOR, *, size: int = 100
) -> list[DownloadCodeView]:
    """Everything, page by page."""
    found: list[DownloadCodeView] = []
    token = ""
    while True:
        page = world.core.download_codes.page(caller, parent, PageRequest(size, token))
        assert len(page.items) <= size
        found += page.items
        token = page.next_page_token
        if not token:
            return found


def _delete(world: World, name: DownloadCodeName, caller: Caller = ADMINISTRATOR, **key: Any) -> None:
    world.core.download_codes.delete(caller, name, **({"key": None} | key))


def _use(world: World, made: MadeDownloadCode) -> None:
    name = made.view.name.managed_certificate
    holder = world.core.downloads.of_code(made.code.text(), name, address="192.0.2.7")
    world.core.downloads.take(world.core.downloads.offer(holder, name, with_key=True), _PROTECTION, reason="")


def _refusal(action: Callable[..., object], *arguments: Any, **named: Any) -> CertdError:
    with pytest.raises(CertdError) as refused:
        action(*arguments, **named)
    return refused.value


def _deletions(world: World, name: DownloadCodeName) -> list[Event]:
    return [
        event
        for event in world.events()
        if event.type is EventType.DOWNLOAD_CODE_DELETED and event.details["download_code"] == name.download_code
    ]


def test_a_list_shows_what_is_known_of_a_code_and_not_the_code(ca: World) -> None:
    made = _code(ca, source_networks=("192.0.2.0/24",), reason="a new router")
    (view,) = _list(ca)
    assert view == made.view
    assert view.name == DownloadCodeName(WEB, made.code.secret_sha256.hex()[:16])
    row = view.row
    assert (row.creator, row.create_time, row.expire_time, row.use_time) == (
        ADMINISTRATOR.principal,
        ca.clock.now(),
        ca.clock.now() + _HOUR,
        None,
    )
    assert (row.source_networks, row.reason) == (("192.0.2.0/24",), "a new router")
    assert made.code.text() not in repr(view)
    created = [event for event in ca.events() if event.type is EventType.DOWNLOAD_CODE_CREATED][-1]
    assert created.details["download_code"] == view.name.download_code


def test_a_used_code_is_listed_with_its_time_until_it_ends(ca: World) -> None:
    made = _code(ca)
    ca.clock.advance(timedelta(minutes=1))
    _use(ca, made)
    assert [view.row.use_time for view in _list(ca)] == [ca.clock.now()]
    ca.clock.advance(_HOUR - timedelta(minutes=1, seconds=1))
    assert _list(ca)
    ca.clock.advance(timedelta(seconds=1))
    # Whether it is deleted already or not.
    assert not _list(ca)


def test_pages_go_by_name_over_one_and_over_all(ca: World) -> None:
    made = [_code(ca, name) for name in (WEB, MAIL) for _ in range(3)]
    names = sorted(str(one.view.name) for one in made)
    for size in (1, 2, 3, 100):
        assert [str(view.name) for view in _list(ca, EVERY, size=size)] == names
        assert [str(view.name) for view in _list(ca, MAIL, size=size)] == names[:3]
    assert not _list(ca, ManagedCertificateName("default", "web"), size=100)[3:]


def test_a_token_is_of_one_list_alone(ca: World) -> None:
    for name in (WEB, MAIL):
        _code(ca, name)
        _code(ca, name)
    token = ca.core.download_codes.page(ADMINISTRATOR, WEB, PageRequest(1, "")).next_page_token
    for parent, wrong in ((MAIL, token), (EVERY, token), (WEB, "x")):
        error = _refusal(ca.core.download_codes.page, ADMINISTRATOR, parent, PageRequest(1, wrong))
        assert (error.reason, error.violations[0].field) == (Reason.FIELD_INVALID, "page_token")


def test_what_is_not_there_has_no_list(ca: World) -> None:
    missing = ManagedCertificateName("default", "none")
    assert _refusal(_list, ca, missing).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND
    nowhere = ManagedCertificateName("nowhere", WILDCARD)
    assert _refusal(_list, ca, nowhere).reason is Reason.TENANT_NOT_FOUND


def test_a_withdrawn_code_opens_nothing(ca: World) -> None:
    made, other = _code(ca, reason="lost"), _code(ca)
    holder = ca.core.downloads.of_code(made.code.text(), WEB, address="192.0.2.7")
    offer = ca.core.downloads.offer(holder, WEB, with_key=True)
    _delete(ca, made.view.name)
    assert [view.name for view in _list(ca)] == [other.view.name]
    assert _refusal(ca.core.downloads.of_code, made.code.text(), WEB, address="").reason is Reason.DOWNLOAD_CODE_INVALID
    # It was there when the device began.
    exports = len(_exports(ca))
    error = _refusal(ca.core.downloads.take, offer, _PROTECTION, reason="")
    assert (error.reason, len(_exports(ca))) == (Reason.DOWNLOAD_CODE_INVALID, exports)
    _use(ca, other)
    (event,) = _deletions(ca, made.view.name)
    assert (event.principal, event.resource, event.tenant) == (ADMINISTRATOR.principal, str(WEB), "default")
    assert (event.details["creator"], event.details["reason"]) == (ADMINISTRATOR.principal, "lost")
    assert made.code.text() not in repr(event)


def _exports(world: World) -> list[Event]:
    return [event for event in world.events() if event.type is EventType.MANAGED_CERTIFICATE_EXPORTED]


def test_a_used_code_is_refused_so_that_nobody_believes_the_key_safe(ca: World) -> None:
    made = _code(ca)
    _use(ca, made)
    error = _refusal(_delete, ca, made.view.name)
    assert (error.reason, error.metadata) == (Reason.STATE_FORBIDS, {"state": "USED"})
    assert "renew the managed certificate, or revoke" in error.message
    assert len(_list(ca)) == 1
    assert not _deletions(ca, made.view.name)


def test_what_has_ended_or_never_was_is_not_found(ca: World) -> None:
    made = _code(ca)
    elsewhere = DownloadCodeName(MAIL, made.view.name.download_code)
    missing = DownloadCodeName(WEB, "0" * 16)
    for name in (elsewhere, missing):
        assert _refusal(_delete, ca, name).reason is Reason.DOWNLOAD_CODE_NOT_FOUND
    nowhere = DownloadCodeName(ManagedCertificateName("default", "none"), "0" * 16)
    assert _refusal(_delete, ca, nowhere).reason is Reason.MANAGED_CERTIFICATE_NOT_FOUND
    ca.clock.advance(_HOUR)
    assert _refusal(_delete, ca, made.view.name).reason is Reason.DOWNLOAD_CODE_NOT_FOUND
    assert not _deletions(ca, made.view.name)


def test_a_deletion_that_is_repeated_succeeds_with_its_request_id_alone(ca: World) -> None:
    made, key = _code(ca), new_key()
    _delete(ca, made.view.name, key=key)
    _delete(ca, made.view.name, key=key)
    assert len(_deletions(ca, made.view.name)) == 1
    assert _refusal(_delete, ca, made.view.name, key=new_key()).reason is Reason.DOWNLOAD_CODE_NOT_FOUND


def test_who_may_read_lists_and_who_may_export_withdraws(ca: World) -> None:
    made = _code(ca)

    def granted(role: Role, scope: str) -> None:
        grant = Grant(grant_id="g", principal=STRANGER.principal, role=role, scope=scope, profiles=None)
        ca.core.store.write("test.grant", lambda tx: grants.insert(tx, grant))

    def outcomes() -> list[Reason | None]:
        found = [
            _attempt(_list, ca, WEB, STRANGER),
            _attempt(_list, ca, EVERY, STRANGER),
            _attempt(_delete, ca, DownloadCodeName(WEB, "0" * 16), STRANGER),
        ]
        ca.core.store.write("test.grant", lambda tx: grants.delete(tx, GrantName(None, "g")))
        return found

    denied, not_there = Reason.PERMISSION_MISSING, Reason.DOWNLOAD_CODE_NOT_FOUND
    assert outcomes() == [denied, denied, denied]
    granted(Role.EXPORTER, str(WEB))
    assert outcomes() == [None, denied, not_there]
    granted(Role.EXPORTER, str(MAIL))
    assert outcomes() == [denied, denied, denied]
    granted(Role.AUDITOR, "tenants/default")
    assert outcomes() == [None, None, denied]
    assert _list(ca) == [made.view]


def test_of_a_download_and_a_withdrawal_at_once_one_happens(
    postgres_url: str, tmp_path: Path, token_settings: TokenSettings
) -> None:
    with two_worlds(tmp_path, token_settings, postgres_url) as worlds:
        _issued(worlds[0])
        outcomes: list[tuple[Reason | None, Reason | None]] = []
        for _ in range(8):
            made = _code(worlds[0])
            holder = worlds[1].core.downloads.of_code(made.code.text(), WEB, address="192.0.2.7")
            offer = worlds[1].core.downloads.offer(holder, WEB, with_key=True)
            with ThreadPoolExecutor(2) as pool:
                taken = pool.submit(_attempt, worlds[1].core.downloads.take, offer, _PROTECTION, reason="")
                withdrawn = pool.submit(_attempt, _delete, worlds[0], made.view.name)
            outcomes.append((taken.result(), withdrawn.result()))
        downloaded = (None, Reason.STATE_FORBIDS)
        assert set(outcomes) <= {downloaded, (Reason.DOWNLOAD_CODE_INVALID, None)}

        def told() -> tuple[int, int]:
            types = [event.type for event in worlds[0].events()]
            return types.count(EventType.MANAGED_CERTIFICATE_EXPORTED), types.count(EventType.DOWNLOAD_CODE_DELETED)

        downloads = outcomes.count(downloaded)
        assert eventually(lambda: told() == (downloads, len(outcomes) - downloads))


def _attempt(action: Callable[..., object], *arguments: Any, **named: Any) -> Reason | None:
    try:
        action(*arguments, **named)
    except CertdError as error:
        return error.reason
    return None
