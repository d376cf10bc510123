"""Rows of OCSP responders: keys of their own, certified by the authority key for whose certificates they answer."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, bindparam, delete, insert, select, update

from certd.store import revocation_schema
from certd.store.transaction import Transaction
from certd.store.values import microseconds, optional_time_of, time_of

_responders = revocation_schema.ocsp_responders
_OF_KEY = (
    _responders.c.authority_uid == bindparam("of_authority"),
    _responders.c.key_number == bindparam("of_key"),
)
_THIS = (*_OF_KEY, _responders.c.number == bindparam("of_number"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """A responder of an authority key."""

    authority_uid: str
    key_number: int
    number: int
    """From 1."""
    key_id: bytes
    """CKA_ID, 16 random bytes, allocated before the key is generated."""
    policy: bytes
    """What the key may sign; sealed with the key in the token."""
    public_key: bytes | None = None
    """DER of the SubjectPublicKeyInfo; None until the token has answered."""
    certificate: bytes | None = None
    """DER; None until it is issued."""
    not_after: datetime | None = None
    create_time: datetime


_SELECT: Select[Any] = select(_responders).where(*_OF_KEY).order_by(_responders.c.number.desc())
_INSERT = insert(_responders)
_SET_PUBLIC_KEY = update(_responders).where(*_THIS).values(public_key=bindparam("new_public_key"))
_SET_CERTIFICATE = (
    update(_responders)
    .where(*_THIS)
    .values(certificate=bindparam("new_certificate"), not_after=bindparam("new_not_after"))
)
_DELETE = delete(_responders).where(*_THIS)


def of_key(tx: Transaction, authority_uid: str, key_number: int) -> list[Responder]:
    """Returns the responders of an authority key, the newest first."""
    return [_responder(row) for row in tx.execute(_SELECT, {"of_authority": authority_uid, "of_key": key_number})]


def insert_responder(tx: Transaction, responder: Responder) -> None:
    """Inserts one that has neither key nor certificate yet."""
    tx.execute(
        _INSERT,
        {
            "authority_uid": responder.authority_uid,
            "key_number": responder.key_number,
            "number": responder.number,
            "key_id": responder.key_id,
            "policy": responder.policy,
            "create_time": microseconds(responder.create_time),
        },
    )


def set_public_key(tx: Transaction, responder: Responder, public_key: bytes) -> None:
    """Records the public key that the token answered with."""
    tx.execute(_SET_PUBLIC_KEY, {**_fits(responder), "new_public_key": public_key})


def set_certificate(tx: Transaction, responder: Responder, certificate: bytes, not_after: datetime) -> None:
    """Gives it the certificate with which it answers from now on."""
    parameters = {"new_certificate": certificate, "new_not_after": microseconds(not_after)}
    tx.execute(_SET_CERTIFICATE, {**_fits(responder), **parameters})


def delete_responder(tx: Transaction, responder: Responder) -> None:
    """Deletes one whose certificate has ended."""
    tx.execute(_DELETE, _fits(responder))


def _fits(responder: Responder) -> dict[str, object]:
    return {
        "of_authority": responder.authority_uid,
        "of_key": responder.key_number,
        "of_number": responder.number,
    }


def _responder(row: Row[Any]) -> Responder:
    return Responder(
        authority_uid=row.authority_uid,
        key_number=row.key_number,
        number=row.number,
        key_id=row.key_id,
        policy=row.policy,
        public_key=row.public_key,
        certificate=row.certificate,
        not_after=optional_time_of(row.not_after),
        create_time=time_of(row.create_time),
    )
