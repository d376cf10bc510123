"""Rows of download codes: used once and in time, counted while they live, deleted when they end."""

from datetime import timedelta
from functools import partial

from certd.store import download_codes, managed_certificates
from certd.store.download_codes import DownloadCodeRow
from certd.store.store import Store
from tests.store.explaining import Explaining
from tests.store.samples import NOW, add_tenant, managed

_HOUR = timedelta(hours=1)
_WEB = "0f5c6d7e"
_ADMIN = "spiffe://test.internal/identities/admin"


def _row(number: int, uid: str = _WEB, **changes: object) -> DownloadCodeRow:
    wanted: dict[str, object] = {
        "code_sha256": bytes([number]) * 32,
        "managed_certificate_uid": uid,
        "source_networks": ("192.0.2.0/24", "2001:db8::/32"),
        "reason": "nächster Router",
        "creator": _ADMIN,
        "create_time": NOW,
        "expire_time": NOW + _HOUR,
    }
    return DownloadCodeRow(**(wanted | changes))  # type: ignore[arg-type]  # Of the row.


def _insert(store: Store, *rows: DownloadCodeRow) -> None:
    for row in rows:
        store.write("test", partial(download_codes.insert_code, row=row))


def _get(store: Store, row: DownloadCodeRow) -> DownloadCodeRow | None:
    with store.read("test") as tx:
        return download_codes.get(tx, row.code_sha256)


def test_a_code_comes_out_as_it_went_in(store: Store) -> None:
    plain, bound = _row(1, source_networks=(), reason=""), _row(2)
    _insert(store, plain, bound)
    assert [_get(store, plain), _get(store, bound), _get(store, _row(3))] == [plain, bound, None]


def test_a_code_is_used_once_and_in_time(store: Store) -> None:
    row, late = _row(1), _row(2)
    _insert(store, row, late)

    def use(one: DownloadCodeRow, after: timedelta) -> bool:
        return store.write("test", lambda tx: download_codes.use(tx, one.code_sha256, NOW + after))

    moment = _HOUR - timedelta(microseconds=1)
    assert [use(row, moment), use(row, timedelta(0)), use(late, _HOUR), use(_row(3), timedelta(0))] == [
        True,
        False,
        False,
        False,
    ]
    used, unused = _get(store, row), _get(store, late)
    assert used is not None
    assert unused is not None
    assert (used.use_time, unused.use_time) == (NOW + moment, None)


def test_those_that_live_are_counted(store: Store) -> None:
    _insert(store, *(_row(number) for number in range(5)), _row(7, "another"), _row(8, expire_time=NOW))
    store.write("test", lambda tx: download_codes.use(tx, _row(0).code_sha256, NOW))
    with store.read("test") as tx:
        counted = [download_codes.count_live(tx, _WEB, now=NOW + after, most=3) for after in (timedelta(0), _HOUR)]
        assert counted == [3, 0]
        assert download_codes.count_live(tx, _WEB, now=NOW, most=32) == 4


def test_the_unused_codes_of_a_maker_go_together(store: Store) -> None:
    mine, used, other = _row(1), _row(2), _row(3, creator="spiffe://test.internal/identities/other")
    _insert(store, mine, used, other)
    store.write("test", lambda tx: download_codes.use(tx, used.code_sha256, NOW))
    assert store.write("test", lambda tx: download_codes.delete_made_by(tx, _ADMIN)) == 1
    assert [_get(store, row) is None for row in (mine, used, other)] == [True, False, False]


def test_expired_codes_are_deleted_in_batches(store: Store) -> None:
    _insert(store, *(_row(number) for number in range(5)))
    later = _row(9, expire_time=NOW + 2 * _HOUR)
    _insert(store, later)
    deleted = [
        store.write("test", lambda tx: download_codes.delete_expired(tx, NOW + _HOUR, 3)) for _attempt in range(3)
    ]
    assert deleted == [3, 2, 0]
    assert _get(store, later) == later


def _add_managed(store: Store, *ids: str, tenant: str = "default") -> list[str]:
    """Adds managed certificates; returns their uids."""
    made = [managed(id_, tenant=tenant) for id_ in ids]
    for one in made:
        store.write("test", partial(managed_certificates.insert, managed=one))
    return [one.uid for one in made]


def _hash(beginning: str, rest: int = 0) -> bytes:
    return bytes.fromhex(beginning) + bytes([rest]) * 24


def test_a_code_is_found_by_the_beginning_of_its_hash(store: Store) -> None:
    ids = ("0" * 16, "00ff" * 4, "f" * 16)
    rows = [_row(0, code_sha256=_hash(id_, rest)) for id_, rest in zip(ids, (0, 0x7F, 0xFF), strict=True)]
    _insert(store, *rows, _row(0, "another", code_sha256=_hash("aa" * 8)))
    with store.read("test") as tx:
        assert [download_codes.of_id(tx, _WEB, id_) for id_ in ids] == rows
        assert [row.id for row in rows] == list(ids)
        for id_ in ("aa" * 8, "0" * 15 + "1", "f" * 15 + "e"):
            assert download_codes.of_id(tx, _WEB, id_) is None
        assert download_codes.of_id(tx, "another", ids[0]) is None


def test_codes_are_listed_by_managed_certificate_and_id_until_they_expire(store: Store) -> None:
    add_tenant(store)
    add_tenant(store, "other")
    second, first = _add_managed(store, "web-2", "web-1")
    (foreign,) = _add_managed(store, "web-1", tenant="other")
    _insert(store, *(_row(number, uid) for number, uid in ((9, first), (3, first), (1, second), (7, second))))
    _insert(store, _row(5, foreign), _row(4, first, expire_time=NOW + timedelta(minutes=1)), _row(6, "of nobody"))
    store.write("test", lambda tx: download_codes.use(tx, _row(9).code_sha256, NOW))

    def of_tenant(after: tuple[str, str] = ("", ""), limit: int = 10, later: timedelta = timedelta(0)) -> list[int]:
        with store.read("test") as tx:
            found = download_codes.page_of_tenant(tx, "default", now=NOW + later, after=after, limit=limit)
        assert [one.managed_certificate_id for one in found] == sorted(one.managed_certificate_id for one in found)
        return [one.row.code_sha256[0] for one in found]

    assert of_tenant() == [3, 4, 9, 1, 7]
    assert of_tenant(later=timedelta(minutes=1)) == [3, 9, 1, 7]
    assert of_tenant(limit=2) == [3, 4]
    assert of_tenant(("web-1", _row(4).id), limit=2) == [9, 1]
    assert of_tenant(("web-2", _row(1).id)) == [7]
    assert of_tenant(("web-2", _row(7).id)) == of_tenant(later=_HOUR) == []
    with store.read("test") as tx:
        one = [download_codes.page(tx, first, now=NOW, after=after, limit=2) for after in ("", _row(4).id)]
    assert [[each.row.code_sha256[0] for each in page] for page in one] == [[3, 4], [9]]
    assert [each.row.use_time for each in one[1]] == [NOW]


def test_of_many_codes_of_others_none_is_looked_at(store: Store) -> None:
    add_tenant(store)
    (uid,) = _add_managed(store, "web")
    if store.engine_name != "sqlite":
        return
    with store.read("test") as tx:
        explaining = Explaining(tx)
        download_codes.page(explaining, uid, now=NOW, after="", limit=1)
        download_codes.of_id(explaining, uid, "0" * 16)
        download_codes.page_of_tenant(explaining, "default", now=NOW, limit=1)
    assert not [plan for plan in explaining.plans if "SCAN" in plan], explaining.plans


def test_a_used_code_is_not_withdrawn(store: Store) -> None:
    _insert(store, _row(1), _row(2))
    store.write("test", lambda tx: download_codes.use(tx, _row(1).code_sha256, NOW))

    def deleted(number: int) -> bool:
        return store.write("test", lambda tx: download_codes.delete_unused(tx, _row(number).code_sha256))

    assert [deleted(number) for number in (1, 2, 2)] == [False, True, False]
    assert [_get(store, _row(number)) is None for number in (1, 2)] == [False, True]
