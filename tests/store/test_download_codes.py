"""Rows of download codes: used once and in time, counted while they live, deleted when they end."""

from datetime import timedelta
from functools import partial

from certd.store import download_codes
from certd.store.download_codes import DownloadCodeRow
from certd.store.store import Store
from tests.store.samples import NOW

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
