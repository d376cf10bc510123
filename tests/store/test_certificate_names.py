"""Names of certificates and blocked keys: what stands in the rows."""

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from certd.pki.names import SubjectAlternativeNames
from certd.store import blocked_keys, certificate_names, certificates, schema
from certd.store.certificate_names import reversed_labels
from certd.store.store import Store
from tests.store.samples import LATER, NOW, intent

NAMES = SubjectAlternativeNames(
    dns_names=("www.example.com", "*.example.com", "localhost"),
    ip_addresses=("10.0.0.1", "2001:db8::1"),
    uris=("spiffe://example/web",),
    email_addresses=("Jane@example.com",),
)


def rows(store: Store) -> set[tuple[str, str, str, str]]:
    table = schema.certificate_names
    with store.read("test") as tx:
        return {
            (row.authority_uid, row.serial, row.kind, row.name)
            for row in tx.execute(select(table.c.authority_uid, table.c.serial, table.c.kind, table.c.name))
        }


def test_names_stand_by_kind_and_dns_names_in_reverse(store: Store) -> None:
    one, bare = intent(names=NAMES), intent()
    store.write("test", lambda tx: certificates.insert_intents(tx, [one, bare]))
    expected = {
        ("dns", "com.example.www"),
        ("dns", "com.example.*"),
        ("dns", "localhost"),
        ("ip", "10.0.0.1"),
        ("ip", "2001:db8::1"),
        ("uri", "spiffe://example/web"),
        ("email", "Jane@example.com"),
    }
    assert rows(store) == {(one.authority_uid, one.serial, kind, name) for kind, name in expected}


def test_what_is_inserted_twice_stands_once(store: Store) -> None:
    names = [("authority", "01", NAMES), ("authority", "02", NAMES), ("other", "01", NAMES)]
    store.write("test", lambda tx: certificate_names.insert(tx, names))
    store.write("test", lambda tx: certificate_names.insert(tx, names[:1]))
    assert len(rows(store)) == 3 * len(NAMES)


def test_no_names_are_no_rows(store: Store) -> None:
    store.write("test", lambda tx: certificate_names.insert(tx, []))
    store.write("test", lambda tx: certificate_names.insert(tx, [("authority", "01", SubjectAlternativeNames())]))
    assert rows(store) == set()


@given(st.lists(st.text("abc*-", min_size=1), min_size=1).map(".".join))
def test_reversing_twice_changes_nothing(name: str) -> None:
    assert reversed_labels(reversed_labels(name)) == name


def test_a_key_is_blocked_for_its_tenant(store: Store) -> None:
    key, other = bytes(32), b"1" * 32
    asked = [("default", key), ("other", key), (None, key), ("default", other), ("default", key)]

    def blocked() -> set[tuple[str | None, bytes]]:
        with store.read("test") as tx:
            return blocked_keys.blocked(tx, asked)

    def block(tenant: str | None, serial: str) -> None:
        store.write(
            "test", lambda tx: blocked_keys.block(tx, tenant, key, authority_uid="authority", serial=serial, now=NOW)
        )

    assert blocked() == set()
    block("default", "01")
    assert blocked() == {("default", key)}
    block(None, "02")
    assert blocked() == {("default", key), (None, key)}


def test_what_blocked_a_key_first_stays_on_record(store: Store) -> None:
    for serial, now in (("01", NOW), ("02", LATER)):
        store.write(
            "test",
            lambda tx, serial=serial, now=now: blocked_keys.block(  # type: ignore[misc]  # mypy knows no defaults here.
                tx, "default", bytes(32), authority_uid="authority", serial=serial, now=now
            ),
        )
    with store.read("test") as tx:
        assert tx.execute(select(schema.blocked_keys.c.serial)).scalars().all() == ["01"]


def test_no_keys_are_asked_for_in_vain(store: Store) -> None:
    with store.read("test") as tx:
        assert blocked_keys.blocked(tx, []) == set()
