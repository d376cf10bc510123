"""Rows of authorities and of their keys."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, delete, or_, select, update

from certd.errors import CertdError, Reason
from certd.model.authority import (
    Authority,
    AuthorityKey,
    AuthorityKeyState,
    AuthorityState,
    AuthorityType,
    UsageMode,
)
from certd.model.tenant import Quota
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.store import authority_keys, schema, tenant_counts
from certd.store.dialect import insert_if_absent
from certd.store.revocation_settings import settings_of, settings_text
from certd.store.transaction import Transaction
from certd.store.values import (
    duration_microseconds,
    duration_of,
    joined,
    labels_of,
    labels_text,
    microseconds,
    optional_microseconds,
    optional_time_of,
    split,
    time_of,
)

_authorities = schema.authorities
_keys = schema.authority_keys

_SELECT: Select[Any] = select(
    _authorities.c.uid,
    _authorities.c.tenant,
    _authorities.c.authority_id,
    _authorities.c.type,
    _authorities.c.state,
    _authorities.c.key_spec,
    _authorities.c.signature_algorithm,
    _authorities.c.subject,
    _authorities.c.lifetime,
    _authorities.c.path_length,
    _authorities.c.issuer_uid,
    _authorities.c.certificate,
    _authorities.c.chain,
    _authorities.c.not_after,
    _authorities.c.name_constraints,
    _authorities.c.labels,
    _authorities.c.usage_mode,
    _authorities.c.revocation,
    _authorities.c.deletion_protection,
    _authorities.c.delete_time,
    _authorities.c.purge_time,
    _authorities.c.create_time,
    _authorities.c.update_time,
    _authorities.c.revision,
    _keys.c.number,
    _keys.c.key_id,
    _keys.c.policy,
    _keys.c.public_key,
    _keys.c.state.label("key_state"),
    _keys.c.state_time.label("key_state_time"),
).join_from(
    _authorities, _keys, and_(_keys.c.authority_uid == _authorities.c.uid, _keys.c.number == _authorities.c.key_number)
)
_GET = _SELECT.where(_authorities.c.tenant == bindparam("of_tenant"), _authorities.c.authority_id == bindparam("id"))
_GET_SYSTEM = _SELECT.where(_authorities.c.tenant.is_(None), _authorities.c.authority_id == bindparam("id"))
_GET_BY_UID = _SELECT.where(_authorities.c.uid == bindparam("key"))
_PAGE = (
    _SELECT.where(_authorities.c.tenant == bindparam("of_tenant"), _authorities.c.authority_id > bindparam("after"))
    .order_by(_authorities.c.authority_id)
    .limit(bindparam("most"))
)
_PAGE_BY_UID = (
    _SELECT.where(_authorities.c.uid > bindparam("after")).order_by(_authorities.c.uid).limit(bindparam("most"))
)
_BELOW = _SELECT.where(
    _authorities.c.issuer_uid == bindparam("of_issuer"), _authorities.c.uid != bindparam("of_issuer")
).order_by(_authorities.c.uid)
_INSERT = insert_if_absent(_authorities)
_ACTIVATE = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("key"), _authorities.c.state == AuthorityState.AWAITING_CERTIFICATE.value)
    .values(state=AuthorityState.ENABLED.value)
)
_KEY_NUMBER = select(_authorities.c.key_number).where(_authorities.c.uid == bindparam("key"))
# Not one that has its key and awaits the certificate of an outside parent: its creation is over.
_UNFINISHED = (
    select(_authorities.c.uid, _authorities.c.tenant)
    .join_from(
        _authorities,
        _keys,
        and_(_keys.c.authority_uid == _authorities.c.uid, _keys.c.number == _authorities.c.key_number),
    )
    .where(
        _authorities.c.uid == bindparam("key"),
        _authorities.c.state == AuthorityState.AWAITING_CERTIFICATE.value,
        or_(_authorities.c.issuer_uid.is_not(None), _keys.c.public_key.is_(None)),
    )
)
_STANDING = select(_authorities.c.state, _authorities.c.key_number).where(_authorities.c.uid == bindparam("key"))
_DELETE_KEYS = delete(_keys).where(_keys.c.authority_uid == bindparam("key"))
_DELETE = delete(_authorities).where(_authorities.c.uid == bindparam("key"))
_SET_STATE = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("key"))
    .values(state=bindparam("new_state"), update_time=bindparam("now"), revision=_authorities.c.revision + 1)
)
_SET_SETTINGS = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("key"))
    .values(
        labels=bindparam("new_labels"),
        revocation=bindparam("new_revocation"),
        deletion_protection=bindparam("new_deletion_protection"),
        update_time=bindparam("now"),
        revision=_authorities.c.revision + 1,
    )
)


def _authority(row: Row[Any]) -> Authority:
    return Authority(
        uid=row.uid,
        tenant=row.tenant,
        authority_id=row.authority_id,
        type=AuthorityType(row.type),
        state=AuthorityState(row.state),
        key_spec=KeySpec(row.key_spec),
        signature_algorithm=SignatureAlgorithm(row.signature_algorithm),
        subject=row.subject,
        lifetime=duration_of(row.lifetime),
        path_length=row.path_length,
        issuer_uid=row.issuer_uid,
        key=AuthorityKey(
            number=row.number,
            key_id=row.key_id,
            policy=row.policy,
            public_key=row.public_key,
            state=AuthorityKeyState(row.key_state),
            state_time=time_of(row.key_state_time) if row.key_state_time else None,
        ),
        certificate=row.certificate,
        chain=split(row.chain),
        not_after=optional_time_of(row.not_after),
        name_constraints=row.name_constraints,
        labels=labels_of(row.labels),
        usage_mode=UsageMode(row.usage_mode),
        revocation=settings_of(row.revocation),
        deletion_protection=bool(row.deletion_protection),
        delete_time=optional_time_of(row.delete_time),
        purge_time=optional_time_of(row.purge_time),
        create_time=time_of(row.create_time),
        update_time=time_of(row.update_time),
        revision=row.revision,
    )


def insert(tx: Transaction, authority: Authority) -> None:
    """Inserts an authority and its key; raises AUTHORITY_EXISTS when its tenant has one with this id."""
    columns = {
        "uid": authority.uid,
        "tenant": authority.tenant,
        "authority_id": authority.authority_id,
        "type": authority.type.value,
        "state": authority.state.value,
        "key_spec": authority.key_spec.value,
        "signature_algorithm": authority.signature_algorithm.value,
        "subject": authority.subject,
        "lifetime": duration_microseconds(authority.lifetime),
        "path_length": authority.path_length,
        "issuer_uid": authority.issuer_uid,
        "key_number": authority.key.number,
        "certificate": authority.certificate,
        "chain": joined(authority.chain),
        "not_after": optional_microseconds(authority.not_after),
        "name_constraints": authority.name_constraints,
        "labels": labels_text(authority.labels),
        "usage_mode": authority.usage_mode.value,
        "revocation": settings_text(authority.revocation),
        "deletion_protection": authority.deletion_protection,
        "create_time": microseconds(authority.create_time),
        "update_time": microseconds(authority.update_time),
        "revision": authority.revision,
    }
    if tx.execute(_INSERT, columns).rowcount != 1:
        raise CertdError(
            Reason.AUTHORITY_EXISTS, f"{authority.name} exists already: choose another id", resource=authority.name
        )
    tenant_counts.add(tx, authority.tenant, Quota.AUTHORITIES)
    key = replace(
        authority.key,
        certificate=authority.certificate,
        chain=tuple(authority.chain),
        not_after=authority.not_after,
    )
    authority_keys.insert(tx, authority, key)


def get(tx: Transaction, tenant: str | None, authority_id: str) -> Authority | None:
    """Returns an authority of a tenant, or the system's for the tenant None; None when there is none."""
    statement = _GET_SYSTEM if tenant is None else _GET
    row = tx.execute(statement, {"of_tenant": tenant, "id": authority_id}).first()
    return None if row is None else _authority(row)


def get_by_uid(tx: Transaction, uid: str) -> Authority | None:
    """Returns the authority with this uid; None when there is none."""
    row = tx.execute(_GET_BY_UID, {"key": uid}).first()
    return None if row is None else _authority(row)


def below(tx: Transaction, uid: str) -> list[Authority]:
    """Returns the authorities whose certificates another one of ours signs, by uid; a root is not below itself."""
    return [_authority(row) for row in tx.execute(_BELOW, {"of_issuer": uid})]


def standing(tx: Transaction, uids: Iterable[str]) -> dict[str, tuple[AuthorityState, int]]:
    """Returns the state of each authority that exists, as it is stored, and the number of the key that signs."""
    rows = {uid: tx.execute(_STANDING, {"key": uid}).first() for uid in uids}
    return {uid: (AuthorityState(row.state), int(row.key_number)) for uid, row in rows.items() if row is not None}


def page(tx: Transaction, tenant: str, *, after: str | None, limit: int) -> list[Authority]:
    """Returns up to `limit` authorities of a tenant in the order of their ids, from behind the id `after`."""
    rows = tx.execute(_PAGE, {"of_tenant": tenant, "after": after or "", "most": limit})
    return [_authority(row) for row in rows]


def page_by_uid(tx: Transaction, *, after: str, limit: int) -> list[Authority]:
    """Returns up to `limit` authorities of all tenants, and of the system, from behind the uid `after`."""
    return [_authority(row) for row in tx.execute(_PAGE_BY_UID, {"after": after, "most": limit})]


def keys(tx: Transaction, uid: str) -> list[AuthorityKey]:
    """Returns the keys of an authority, the newest first, each with its own certificate and all that belongs to it."""
    return authority_keys.of_authority(tx, uid)


def set_public_key(tx: Transaction, uid: str, key_number: int, public_key: bytes, now: datetime) -> None:
    """Records the public key that the token answered with."""
    authority_keys.set_public_key(tx, uid, key_number, public_key, now)


def activate(
    tx: Transaction,
    uid: str,
    *,
    certificate: bytes,
    chain: Sequence[bytes],
    not_after: datetime,
    path_length: int,
    now: datetime,
) -> bool:
    """Enables an authority that awaits its certificate; returns False, and changes nothing, for any other."""
    if tx.execute(_ACTIVATE, {"key": uid}).rowcount != 1:
        return False
    authority_keys.set_certificate(
        tx,
        uid,
        tx.execute(_KEY_NUMBER, {"key": uid}).scalar_one(),
        certificate=certificate,
        chain=chain,
        not_after=not_after,
        path_length=path_length,
        now=now,
    )
    return True


def set_state(tx: Transaction, uid: str, state: AuthorityState, now: datetime) -> None:
    """Stores a state."""
    tx.execute(_SET_STATE, {"key": uid, "new_state": state.value, "now": microseconds(now)})


def set_settings(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Stores the labels, the revocation settings and the deletion protection that `authority` has."""
    parameters = {
        "key": authority.uid,
        "new_labels": labels_text(authority.labels),
        "new_revocation": settings_text(authority.revocation),
        "new_deletion_protection": authority.deletion_protection,
        "now": microseconds(now),
    }
    tx.execute(_SET_SETTINGS, parameters)


def csr(tx: Transaction, uid: str, key_number: int | None = None) -> bytes | None:
    """Returns the DER of the CSR of a key, by default the one that signs; None without a CSR or such a key."""
    return authority_keys.csr(tx, uid, key_number)


def set_csr(tx: Transaction, uid: str, request: bytes, key_number: int | None = None) -> bool:
    """Stores the CSR of a key, by default the one that signs, unless there is one; returns whether it was stored."""
    number = tx.execute(_KEY_NUMBER, {"key": uid}).scalar() if key_number is None else key_number
    return number is not None and authority_keys.set_csr(tx, uid, number, request)


def delete_unfinished(tx: Transaction, uid: str) -> bool:
    """Deletes an authority whose creation is not over, with its keys' rows; returns False for any other.

    Rows of certificates that were intended for it stay on record.
    """
    unfinished = tx.execute(_UNFINISHED, {"key": uid}).first()
    if unfinished is None:
        return False
    tenant_counts.add(tx, unfinished.tenant, Quota.AUTHORITIES, -1)
    tx.execute(_DELETE_KEYS, {"key": uid})
    tx.execute(_DELETE, {"key": uid})
    return True
