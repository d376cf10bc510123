"""Certificates that a key of an authority signed, and that relying parties still accept."""

import hashlib
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, func, or_, select

from certd.model.certificate import CertificateState
from certd.store import authority_keys, revocation_schema, schema
from certd.store.store import Store
from certd.store.transaction import Transaction
from certd.store.values import duration_microseconds, duration_of, microseconds

_certificates = schema.certificates
_authorities = schema.authorities
_responders = revocation_schema.ocsp_responders
_ALIVE = (CertificateState.ISSUED.value, CertificateState.PENDING.value)
_OF_KEY = (
    select(_certificates.c.serial)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_number"),
        _certificates.c.not_after >= bindparam("now"),
        _certificates.c.state.in_(_ALIVE),
        _certificates.c.public_key_sha256.not_in(bindparam("own", expanding=True)),
    )
    .order_by(_certificates.c.not_after.desc(), _certificates.c.serial)
    .limit(bindparam("most"))
)
_UNENDED = (
    select(_certificates.c.serial)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_number"),
        _certificates.c.not_after >= bindparam("now"),
        _certificates.c.public_key_sha256.not_in(bindparam("own", expanding=True)),
    )
    .limit(1)
)
_PAGE: Final = 1_000
_WALK: Select[Any] = (
    select(_certificates.c.serial, _certificates.c.not_after, _certificates.c.der)
    .where(
        _certificates.c.authority_uid == bindparam("of_authority"),
        _certificates.c.key_number == bindparam("of_number"),
        _certificates.c.not_after >= bindparam("now"),
        # The first condition alone is a range of the index; the second drops what was shown of the last end.
        _certificates.c.not_after <= bindparam("last_end"),
        or_(
            _certificates.c.not_after < bindparam("last_end"),
            _certificates.c.serial < bindparam("last_serial"),
        ),
        _certificates.c.state == CertificateState.ISSUED.value,
        # What another CA issued, and nobody has, is in the books without it.
        _certificates.c.der.is_not(None),
        _certificates.c.public_key_sha256.not_in(bindparam("own", expanding=True)),
    )
    .order_by(_certificates.c.not_after.desc(), _certificates.c.serial.desc())
    .limit(_PAGE)
)
_END_OF_TIME: Final = (1 << 63) - 1
_LIFETIME = _certificates.c.not_after - _certificates.c.not_before
_OF_SIGNING_KEY = (
    select()
    .join_from(
        _authorities,
        _certificates,
        and_(
            _certificates.c.authority_uid == _authorities.c.uid,
            _certificates.c.key_number == _authorities.c.key_number,
        ),
    )
    .where(
        _authorities.c.uid == bindparam("of_authority"),
        _certificates.c.not_after >= bindparam("now"),
        _certificates.c.state == CertificateState.ISSUED.value,
        # Of what another CA issued and nobody has, the begin is unknown.
        _certificates.c.der.is_not(None),
        _certificates.c.public_key_sha256.not_in(bindparam("own", expanding=True)),
    )
)
_LONGEST = _OF_SIGNING_KEY.with_only_columns(func.max(_LIFETIME))
_LONGER = (
    _OF_SIGNING_KEY.with_only_columns(_LIFETIME)
    .where(bindparam("lifetime") < _LIFETIME)
    .order_by(_certificates.c.not_after.desc())
    .limit(1)
)
_RESPONDER_KEYS = select(_responders.c.public_key).where(
    _responders.c.authority_uid == bindparam("of_authority"), _responders.c.public_key.is_not(None)
)


def of_key(
    tx: Transaction, uid: str, key_number: int, now: datetime, *, own: Collection[bytes], limit: int
) -> list[str]:
    """Returns the serial numbers of up to `limit` certificates that a key signed and that are alive, the last first.

    Those for public keys with a hash among `own` are passed over: the authority's own, and its responders'.
    """
    parameters = {
        "of_authority": uid,
        "of_number": key_number,
        "now": microseconds(now),
        "own": sorted(own),
        "most": limit,
    }
    return [row.serial for row in tx.execute(_OF_KEY, parameters)]


def any_unended(tx: Transaction, uid: str, key_number: int, now: datetime, *, own: Collection[bytes]) -> bool:
    """Returns whether something that a key signed has not ended, revoked or not; `own` as in `of_key`."""
    parameters = {"of_authority": uid, "of_number": key_number, "now": microseconds(now), "own": sorted(own)}
    return tx.execute(_UNENDED, parameters).first() is not None


def longest_lifetime(tx: Transaction, uid: str, now: datetime) -> timedelta | None:
    """Returns the longest lifetime among what the key that signs at present has signed and is alive; None for nothing.

    Those for its own keys do not count. Reads all of them.
    """
    parameters = {"of_authority": uid, "now": microseconds(now), "own": sorted(own_keys(tx, uid))}
    found = tx.execute(_LONGEST, parameters).scalar()
    return None if found is None else duration_of(int(found))


def lifetime_above(tx: Transaction, uid: str, lifetime: timedelta, now: datetime) -> timedelta | None:
    """Returns a lifetime above this among what the key that signs at present has signed lately; None for nothing.

    Lately: what has more than half of `lifetime` left. So all that lives shorter is not read at all.
    """
    parameters = {
        "of_authority": uid,
        "now": microseconds(now + lifetime / 2),
        "own": sorted(own_keys(tx, uid)),
        "lifetime": duration_microseconds(lifetime),
    }
    found = tx.execute(_LONGER, parameters).scalar()
    return None if found is None else duration_of(int(found))


def responder_keys(tx: Transaction, uid: str) -> list[bytes]:
    """Returns the DER of the public keys of all OCSP responders of an authority."""
    return [row.public_key for row in tx.execute(_RESPONDER_KEYS, {"of_authority": uid})]


def own_keys(tx: Transaction, uid: str) -> set[bytes]:
    """Returns the SHA-256 of the public keys of an authority and of its OCSP responders, for `of_key` and `walk`."""
    keys = [key.public_key for key in authority_keys.of_authority(tx, uid) if key.public_key is not None]
    return {hashlib.sha256(key).digest() for key in (*keys, *responder_keys(tx, uid))}


def walk(
    store: Store, uid: str, key_number: int, now: datetime, *, own: Collection[bytes], most: int
) -> Iterator[tuple[str, bytes]]:
    """Yields serial number and DER of up to `most` certificates as `of_key` finds them, in pages, each a read."""
    parameters: dict[str, object] = {
        "of_authority": uid,
        "of_number": key_number,
        "now": microseconds(now),
        "own": sorted(own),
        "last_end": _END_OF_TIME,
        "last_serial": "",
    }
    walked = 0
    while True:
        with store.read("live-certificates.walk") as tx:
            rows = tx.execute(_WALK, parameters).all()
        for row in rows[: most - walked]:
            yield row.serial, row.der
        walked += len(rows)
        if len(rows) < _PAGE or walked >= most:
            return
        parameters |= {"last_end": rows[-1].not_after, "last_serial": rows[-1].serial}
