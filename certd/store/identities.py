"""Rows of identities, and their certificates among those of the system authority."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, func, select
from sqlalchemy import update as update_of

from certd.model.certificate import Certificate, CertificateState
from certd.model.identity import Identity, IdentityState
from certd.model.names import IdentityName
from certd.model.tenant import Quota
from certd.store import schema, tenant_counts
from certd.store.certificate_names import NameKind
from certd.store.certificates import CERTIFICATE_COLUMNS, certificate_of
from certd.store.dialect import insert_if_absent
from certd.store.transaction import Transaction
from certd.store.values import microseconds, time_of

_identities = schema.identities
_certificates = schema.certificates
_names = schema.certificate_names
_SERVER = ""
_FITS = (_identities.c.tenant == bindparam("of_tenant"), _identities.c.identity_id == bindparam("id"))
_SELECT: Select[Any] = select(_identities)
_GET = _SELECT.where(*_FITS)
_OF_SPIFFE_ID = _SELECT.where(_identities.c.spiffe_id == bindparam("of_spiffe_id"))
_PAGE = (
    _SELECT.where(_identities.c.tenant == bindparam("of_tenant"), _identities.c.identity_id > bindparam("after"))
    .order_by(_identities.c.identity_id)
    .limit(bindparam("most"))
)
_SOME = select(_identities.c.identity_id).where(_identities.c.tenant == bindparam("of_tenant")).limit(bindparam("most"))
_COUNT: Select[Any] = select(func.count()).select_from(_SOME.subquery())
_INSERT = insert_if_absent(_identities)
_SET_STATE = update_of(_identities).where(*_FITS)
_LIVE_CERTIFICATES: Select[Any] = (
    select(*CERTIFICATE_COLUMNS)
    .join_from(
        _names,
        _certificates,
        and_(_certificates.c.authority_uid == _names.c.authority_uid, _certificates.c.serial == _names.c.serial),
    )
    .where(
        _names.c.authority_uid == bindparam("of_authority"),
        _names.c.kind == NameKind.URI.value,
        _names.c.name == bindparam("of_spiffe_id"),
        _certificates.c.state == CertificateState.ISSUED.value,
        _certificates.c.not_after >= bindparam("now"),
    )
    .order_by(_certificates.c.create_time.desc(), _certificates.c.serial)
    .limit(bindparam("most"))
)


def ensure(tx: Transaction, name: IdentityName, spiffe_id: str, state: IdentityState, now: datetime) -> Identity:
    """Returns the identity of this name as it stands; inserts it, in this state, when there is none."""
    moment = microseconds(now)
    columns = {
        "tenant": name.tenant or _SERVER,
        "identity_id": name.identity,
        "spiffe_id": spiffe_id,
        "state": state.value,
        "create_time": moment,
        "update_time": moment,
    }
    if tx.execute(_INSERT, columns).rowcount == 1:
        tx.configuration_changed()
        tenant_counts.add(tx, name.tenant, Quota.IDENTITIES)
    return _identity(tx.execute(_GET, _key(name)).one())


def get(tx: Transaction, name: IdentityName) -> Identity | None:
    """Returns an identity; None when there is none."""
    row = tx.execute(_GET, _key(name)).first()
    return None if row is None else _identity(row)


def of_spiffe_id(tx: Transaction, spiffe_id: str) -> Identity | None:
    """Returns the identity with a SPIFFE id; None when there is none."""
    row = tx.execute(_OF_SPIFFE_ID, {"of_spiffe_id": spiffe_id}).first()
    return None if row is None else _identity(row)


def page(tx: Transaction, tenant: str | None, *, after: str, limit: int) -> list[Identity]:
    """Returns up to `limit` identities of a tenant, or of the server, in the order of their ids from behind `after`."""
    parameters = {"of_tenant": tenant or _SERVER, "after": after, "most": limit}
    return [_identity(row) for row in tx.execute(_PAGE, parameters)]


def set_state(tx: Transaction, name: IdentityName, state: IdentityState, now: datetime) -> bool:
    """Changes the state; returns False when there is no such identity."""
    tx.configuration_changed()
    statement = _SET_STATE.values(state=state.value, update_time=microseconds(now))
    return tx.execute(statement, _key(name)).rowcount == 1


def live_certificates(
    tx: Transaction, authority_uid: str, spiffe_id: str, *, now: datetime, limit: int
) -> list[Certificate]:
    """Returns up to `limit` certificates with a SPIFFE id that are neither expired nor revoked, the newest first."""
    parameters = {
        "of_authority": authority_uid,
        "of_spiffe_id": spiffe_id,
        "now": microseconds(now),
        "most": limit,
    }
    return [certificate_of(row) for row in tx.execute(_LIVE_CERTIFICATES, parameters)]


def _key(name: IdentityName) -> dict[str, object]:
    return {"of_tenant": name.tenant or _SERVER, "id": name.identity}


def _identity(row: Row[Any]) -> Identity:
    return Identity(
        name=IdentityName(row.tenant or None, row.identity_id),
        spiffe_id=row.spiffe_id,
        state=IdentityState(row.state),
        create_time=time_of(row.create_time),
        update_time=time_of(row.update_time),
    )
