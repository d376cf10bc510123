"""Rows of enrollment codes: used once, until they expire."""

from datetime import timedelta
from functools import partial

from certd.model.names import IdentityName
from certd.store import enrollment_codes
from certd.store.enrollment_codes import EnrollmentCodeRow
from certd.store.store import Store
from tests.store.samples import NOW

_HOUR = timedelta(hours=1)
_WEB = IdentityName("default", "web")


def _row(number: int, name: IdentityName = _WEB, **changes: object) -> EnrollmentCodeRow:
    wanted: dict[str, object] = {
        "code_sha256": bytes([number]) * 32,
        "identity": name,
        "public_key_sha256": None,
        "source_networks": ("192.0.2.0/24", "2001:db8::/32"),
        "creator": "spiffe://test.internal/identities/admin",
        "create_time": NOW,
        "expire_time": NOW + _HOUR,
    }
    return EnrollmentCodeRow(**(wanted | changes))  # type: ignore[arg-type]  # Of the row.


def _insert(store: Store, *rows: EnrollmentCodeRow) -> None:
    for row in rows:
        store.write("test", partial(enrollment_codes.insert_code, row=row))


def _get(store: Store, row: EnrollmentCodeRow) -> EnrollmentCodeRow | None:
    with store.read("test") as tx:
        return enrollment_codes.get(tx, row.code_sha256)


def test_a_code_comes_out_as_it_went_in(store: Store) -> None:
    plain = _row(1, IdentityName(None, "web"), source_networks=())
    bound = _row(2, public_key_sha256=bytes(32))
    _insert(store, plain, bound)
    assert _get(store, plain) == plain
    assert _get(store, bound) == bound
    assert _get(store, _row(3)) is None


def test_a_code_is_used_once_and_in_time(store: Store) -> None:
    row, late = _row(1), _row(2)
    _insert(store, row, late)

    def use(one: EnrollmentCodeRow, serial: str, after: timedelta) -> bool:
        return store.write(
            "test",
            lambda tx: enrollment_codes.use(tx, one.code_sha256, serial.encode() * 16, serial=serial, now=NOW + after),
        )

    assert use(row, "01", _HOUR - timedelta(seconds=1))
    assert not use(row, "01", timedelta(0))
    assert not use(row, "02", timedelta(0))
    assert not use(late, "03", _HOUR)
    used = _get(store, row)
    assert used is not None
    assert (used.serial, used.used_public_key_sha256) == ("01", b"01" * 16)


def test_the_codes_of_an_identity_go_together_and_no_others(store: Store) -> None:
    mine, again = _row(1), _row(2)
    others = (_row(3, IdentityName(None, "web")), _row(4, IdentityName("other", "web")))
    _insert(store, mine, again, *others)
    assert store.write("test", lambda tx: enrollment_codes.delete_of(tx, _WEB)) == 2
    assert [_get(store, one) for one in (mine, again)] == [None, None]
    assert [_get(store, one) for one in others] == list(others)


def test_expired_codes_are_deleted_in_batches(store: Store) -> None:
    _insert(store, *(_row(number) for number in range(5)))
    later = _row(9, expire_time=NOW + 2 * _HOUR)
    _insert(store, later)
    deleted = [
        store.write("test", lambda tx: enrollment_codes.delete_expired(tx, NOW + _HOUR, 3)) for _attempt in range(3)
    ]
    assert deleted == [3, 2, 0]
    assert _get(store, later) == later
