"""Rows of the keys of authorities. Of the key that signs at present, the row of the authority says the same."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, delete, select, update
from sqlalchemy import insert as insert_into

from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState, AuthorityState
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.store import schema
from certd.store.transaction import Transaction
from certd.store.values import (
    duration_microseconds,
    duration_of,
    joined,
    microseconds,
    optional_microseconds,
    optional_time_of,
    split,
    time_of,
)

_authorities = schema.authorities
_keys = schema.authority_keys

_COLUMNS = (
    _keys.c.number,
    _keys.c.key_id,
    _keys.c.policy,
    _keys.c.public_key,
    _keys.c.state,
    _keys.c.state_time,
    _keys.c.key_spec,
    _keys.c.signature_algorithm,
    _keys.c.certificate,
    _keys.c.chain,
    _keys.c.not_after,
    _keys.c.path_length,
    _keys.c.lifetime,
    _keys.c.cross_certify,
)
_OF_AUTHORITY: Select[Any] = (
    select(*_COLUMNS).where(_keys.c.authority_uid == bindparam("of_authority")).order_by(_keys.c.number.desc())
)
_THIS = and_(_keys.c.authority_uid == bindparam("of_authority"), _keys.c.number == bindparam("of_number"))
_GET: Select[Any] = select(*_COLUMNS).where(_THIS)
_OF_KEY_ID = select(_keys.c.authority_uid).where(_keys.c.key_id == bindparam("of_key_id"))
_OF_PUBLIC_KEY = (
    select(_keys.c.authority_uid)
    .join(_authorities, _authorities.c.uid == _keys.c.authority_uid)
    .where(_keys.c.public_key == bindparam("of_public_key"), _authorities.c.state != AuthorityState.PURGED.value)
    .limit(1)
)
_INSERT = insert_into(_keys)
_DELETE = delete(_keys).where(_THIS, _keys.c.certificate.is_(None))
_SET_PUBLIC_KEY = update(_keys).where(_THIS).values(public_key=bindparam("new_public_key"))
_SET_STATE = update(_keys).where(_THIS).values(state=bindparam("new_state"), state_time=bindparam("now"))
_CERTIFICATE: dict[str, Any] = {
    "certificate": bindparam("new_certificate"),
    "chain": bindparam("new_chain"),
    "not_after": bindparam("new_not_after"),
    "path_length": bindparam("new_path_length"),
}
_SET_CERTIFICATE = update(_keys).where(_THIS).values(**_CERTIFICATE)
_MIRROR_CERTIFICATE = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("of_authority"), _authorities.c.key_number == bindparam("of_number"))
    # What was told of the end of another certificate says nothing of this one's.
    .values(**_CERTIFICATE, told=None)
)
_CHAIN: dict[str, Any] = {name: value for name, value in _CERTIFICATE.items() if name != "certificate"}
_SET_CHAIN = update(_keys).where(_THIS).values(**_CHAIN)
_MIRROR_CHAIN = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("of_authority"), _authorities.c.key_number == bindparam("of_number"))
    .values(**_CHAIN)
)
_SWITCH = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("of_authority"))
    .values(
        key_number=bindparam("of_number"),
        key_spec=bindparam("new_key_spec"),
        signature_algorithm=bindparam("new_signature_algorithm"),
        csr=bindparam("new_csr"),
        told=None,
        **_CERTIFICATE,
    )
)
_TOUCH = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("of_authority"))
    .values(revision=_authorities.c.revision + 1, update_time=bindparam("now"))
)
_SET_CROSS_CERTIFIED = update(_keys).where(_THIS).values(cross_certify=False)
_LOCK = select(_authorities.c.uid).where(_authorities.c.uid == bindparam("of_authority")).with_for_update()
_GET_CSR = select(_keys.c.csr).where(_THIS)
_CURRENT = select(_authorities.c.key_number).where(_authorities.c.uid == bindparam("of_authority")).scalar_subquery()
_GET_CURRENT_CSR = select(_keys.c.csr).where(
    _keys.c.authority_uid == bindparam("of_authority"), _keys.c.number == _CURRENT
)
_SET_CSR = update(_keys).where(_THIS, _keys.c.csr.is_(None)).values(csr=bindparam("new_csr"))
_MIRROR_CSR = (
    update(_authorities)
    .where(_authorities.c.uid == bindparam("of_authority"), _authorities.c.key_number == bindparam("of_number"))
    .values(csr=bindparam("new_csr"))
)


def insert(tx: Transaction, authority: Authority, key: AuthorityKey) -> None:
    """Inserts a key; what it does not say is as the authority says."""
    tx.execute(
        _INSERT,
        {
            "authority_uid": authority.uid,
            "number": key.number,
            "key_id": key.key_id,
            "policy": key.policy,
            "public_key": key.public_key,
            "state": key.state.value,
            "state_time": 0 if key.state_time is None else microseconds(key.state_time),
            "key_spec": (key.key_spec or authority.key_spec).value,
            "signature_algorithm": (key.signature_algorithm or authority.signature_algorithm).value,
            "certificate": key.certificate,
            "chain": joined(key.chain),
            "not_after": optional_microseconds(key.not_after),
            "path_length": authority.path_length if key.path_length is None else key.path_length,
            "lifetime": None if key.lifetime is None else duration_microseconds(key.lifetime),
            "cross_certify": key.cross_certify,
        },
    )


def of_authority(tx: Transaction, uid: str) -> list[AuthorityKey]:
    """Returns the keys of an authority, the newest first."""
    return [_key(row) for row in tx.execute(_OF_AUTHORITY, {"of_authority": uid})]


def get(tx: Transaction, uid: str, number: int) -> AuthorityKey | None:
    """Returns a key; None when the authority has none with this number."""
    row = tx.execute(_GET, {"of_authority": uid, "of_number": number}).first()
    return None if row is None else _key(row)


def owner(tx: Transaction, key_id: bytes) -> str | None:
    """Returns the uid of the authority that has the key with this CKA_ID; None when none has."""
    row = tx.execute(_OF_KEY_ID, {"of_key_id": key_id}).first()
    return None if row is None else str(row.authority_uid)


def signs_already(tx: Transaction, public_key: bytes) -> bool:
    """Returns whether an authority that is not purged has a key with this public one (DER), under whatever CKA_ID."""
    return tx.execute(_OF_PUBLIC_KEY, {"of_public_key": public_key}).first() is not None


def touch(tx: Transaction, uid: str, now: datetime) -> None:
    """Says that an authority changed."""
    tx.execute(_TOUCH, {"of_authority": uid, "now": microseconds(now)})


def lock(tx: Transaction, uid: str) -> None:
    """Keeps others from changing the keys of an authority until the commit; on SQLite nobody else writes anyway."""
    tx.execute(_LOCK, {"of_authority": uid})


def set_public_key(tx: Transaction, uid: str, number: int, public_key: bytes, now: datetime) -> None:
    """Records the public key that the token answered with."""
    tx.execute(_SET_PUBLIC_KEY, {"of_authority": uid, "of_number": number, "new_public_key": public_key})
    touch(tx, uid, now)


def set_certificate(
    tx: Transaction,
    uid: str,
    number: int,
    *,
    certificate: bytes,
    chain: Sequence[bytes],
    not_after: datetime,
    path_length: int,
    now: datetime,
) -> None:
    """Gives a key its certificate, or another in place of that; the row of its authority follows if the key signs."""
    parameters = {
        "of_authority": uid,
        "of_number": number,
        "new_certificate": certificate,
        "new_chain": joined(chain),
        "new_not_after": microseconds(not_after),
        "new_path_length": path_length,
    }
    tx.execute(_SET_CERTIFICATE, parameters)
    tx.execute(_MIRROR_CERTIFICATE, parameters)
    touch(tx, uid, now)


def set_chain(tx: Transaction, uid: str, key: AuthorityKey, now: datetime) -> None:
    """Stores the chain of the certificate that a key has, with end and path length; the row of its authority follows.

    What was told of the end of the certificate was told.
    """
    parameters = {
        "of_authority": uid,
        "of_number": key.number,
        "new_chain": joined(key.chain),
        "new_not_after": optional_microseconds(key.not_after),
        "new_path_length": key.path_length,
    }
    tx.execute(_SET_CHAIN, parameters)
    tx.execute(_MIRROR_CHAIN, parameters)
    touch(tx, uid, now)


def set_state(tx: Transaction, uid: str, number: int, state: AuthorityKeyState, now: datetime) -> None:
    """Stores the state of a key."""
    tx.execute(
        _SET_STATE,
        {"of_authority": uid, "of_number": number, "new_state": state.value, "now": microseconds(now)},
    )
    touch(tx, uid, now)


def switch(tx: Transaction, authority: Authority, to: AuthorityKey, now: datetime) -> None:
    """Makes a key the one that signs, and SUPERSEDED the one that did."""
    set_state(tx, authority.uid, authority.key.number, AuthorityKeyState.SUPERSEDED, now)
    set_state(tx, authority.uid, to.number, AuthorityKeyState.ACTIVE, now)
    tx.execute(
        _SWITCH,
        {
            "of_authority": authority.uid,
            "of_number": to.number,
            "new_key_spec": (to.key_spec or authority.key_spec).value,
            "new_signature_algorithm": (to.signature_algorithm or authority.signature_algorithm).value,
            "new_csr": csr(tx, authority.uid, to.number),
            "new_certificate": to.certificate,
            "new_chain": joined(to.chain),
            "new_not_after": optional_microseconds(to.not_after),
            "new_path_length": authority.path_length if to.path_length is None else to.path_length,
        },
    )


def csr(tx: Transaction, uid: str, number: int | None = None) -> bytes | None:
    """Returns the DER of the CSR of a key, by default the one that signs; None without a CSR or such a key."""
    statement = _GET_CURRENT_CSR if number is None else _GET_CSR
    row = tx.execute(statement, {"of_authority": uid, "of_number": number}).first()
    return None if row is None else row.csr


def set_csr(tx: Transaction, uid: str, number: int, request: bytes) -> bool:
    """Stores the CSR of a key unless there is one; returns whether it was stored. The resource does not show it."""
    parameters = {"of_authority": uid, "of_number": number, "new_csr": request}
    if tx.execute(_SET_CSR, parameters).rowcount != 1:
        return False
    tx.execute(_MIRROR_CSR, parameters)
    return True


def set_cross_certified(tx: Transaction, uid: str, number: int, now: datetime) -> None:
    """Records that a key and the one before need not certify each other any more."""
    tx.execute(_SET_CROSS_CERTIFIED, {"of_authority": uid, "of_number": number})
    touch(tx, uid, now)


def delete_unfinished(tx: Transaction, uid: str, number: int, now: datetime) -> bool:
    """Deletes a key that has no certificate; returns False, and changes nothing, for any other."""
    if tx.execute(_DELETE, {"of_authority": uid, "of_number": number}).rowcount != 1:
        return False
    touch(tx, uid, now)
    return True


def _key(row: Row[Any]) -> AuthorityKey:
    return AuthorityKey(
        number=row.number,
        key_id=row.key_id,
        policy=row.policy,
        public_key=row.public_key,
        state=AuthorityKeyState(row.state),
        state_time=time_of(row.state_time) if row.state_time else None,
        key_spec=KeySpec(row.key_spec),
        signature_algorithm=SignatureAlgorithm(row.signature_algorithm),
        certificate=row.certificate,
        chain=split(row.chain or b""),
        not_after=optional_time_of(row.not_after),
        path_length=row.path_length,
        lifetime=None if row.lifetime is None else duration_of(row.lifetime),
        cross_certify=row.cross_certify,
    )
