"""Rows that hold what keys in the token signed, in the order of their keys, for those who verify all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, bindparam, func, literal_column, or_, select

from certd.store import managed_schema, revocation_schema, schema
from certd.store.reader import Reader
from certd.store.transaction import Transaction

_certificates = schema.certificates
_keys = schema.authority_keys
_cross = revocation_schema.cross_certificates
_responders = revocation_schema.ocsp_responders
_lists = revocation_schema.revocation_lists
_contents = revocation_schema.revocation_list_contents
_PAGE: Select[Any] = (
    select(
        _certificates.c.authority_uid,
        _certificates.c.key_number,
        _certificates.c.serial,
        _certificates.c.state,
        _certificates.c.tbs,
        _certificates.c.der,
        _certificates.c.profile,
        _certificates.c.create_time,
    )
    .where(
        _certificates.c.authority_uid >= bindparam("after_authority"),
        or_(
            _certificates.c.authority_uid > bindparam("after_authority"),
            _certificates.c.serial > bindparam("after_serial"),
        ),
    )
    .order_by(_certificates.c.authority_uid, _certificates.c.serial)
    .limit(bindparam("most"))
)
_KEY_IDS = select(_keys.c.authority_uid, _keys.c.number, _keys.c.key_id)
_RESPONDER_KEY_IDS = select(_responders.c.key_id)
_RESPONDERS = select(_responders.c.key_id, _responders.c.authority_uid)
_OF_SERIALS = select(_certificates.c.authority_uid, _certificates.c.serial).where(
    _certificates.c.serial.in_(bindparam("serials", expanding=True)),
    _certificates.c.state == literal_column("'ISSUED'"),
)
_LISTS = select(_lists.c.authority_uid, _lists.c.key_number, _lists.c.partition).order_by(
    _lists.c.authority_uid, _lists.c.key_number, _lists.c.partition
)
_CONTENT = select(_contents.c.der).where(
    _contents.c.authority_uid == bindparam("of_authority"),
    _contents.c.key_number == bindparam("of_number"),
    _contents.c.partition == bindparam("of_partition"),
)
_HIGHEST = select(
    _lists.c.authority_uid, _lists.c.key_number, func.max(_lists.c.claimed_number).label("highest")
).group_by(_lists.c.authority_uid, _lists.c.key_number)
_CERTIFICATES_ELSEWHERE = (
    select(_keys.c.certificate).where(_keys.c.certificate.is_not(None)),
    select(_cross.c.certificate),
    select(_responders.c.certificate).where(_responders.c.certificate.is_not(None)),
)
_REQUESTS = select(_keys.c.csr).where(_keys.c.csr.is_not(None))
_STATEMENTS = select(managed_schema.import_keys.c.statement)
_CERTIFIES = select(_certificates.c.serial).where(_certificates.c.public_key_sha256 == bindparam("of_key")).limit(1)
_NAMES = select(schema.authorities.c.uid, schema.authorities.c.tenant, schema.authorities.c.authority_id)


@dataclass(frozen=True, slots=True)
class SignedRow:
    """A certificate, or what was to become one."""

    authority_uid: str
    key_number: int
    serial: str
    state: str
    tbs: bytes | None
    """None where there is a certificate."""
    der: bytes | None
    profile: str
    """Empty: another CA issued it."""
    create_time: int
    """Microseconds since 1970."""


def page(tx: Transaction, *, after: tuple[str, str], limit: int) -> list[SignedRow]:
    """Returns up to `limit` rows behind the one with this uid of an authority and serial; empty is before all."""
    parameters = {"after_authority": after[0], "after_serial": after[1], "most": limit}
    return [
        SignedRow(
            authority_uid=row.authority_uid,
            key_number=row.key_number,
            serial=row.serial,
            state=row.state,
            tbs=row.tbs,
            der=row.der,
            profile=row.profile,
            create_time=row.create_time,
        )
        for row in tx.execute(_PAGE, parameters)
    ]


def key_ids(tx: Transaction) -> dict[tuple[str, int], str]:
    """Returns the CKA_ID, in hexadecimal, of each key of each authority."""
    return {(row.authority_uid, row.number): row.key_id.hex() for row in tx.execute(_KEY_IDS)}


def responder_key_ids(tx: Transaction) -> set[str]:
    """Returns the CKA_IDs of the responders of OCSP, in hexadecimal."""
    return {key_id.hex() for (key_id,) in tx.execute(_RESPONDER_KEY_IDS)}


def answering_keys(tx: Transaction) -> dict[str, str]:
    """Returns the uids of authorities by the CKA_IDs, in hexadecimal, of the keys that answer for them by OCSP."""
    found = {key_id: uid for (uid, _), key_id in key_ids(tx).items()}
    return found | {row.key_id.hex(): row.authority_uid for row in tx.execute(_RESPONDERS)}


def good_among(tx: Transaction, serials: Sequence[str]) -> list[tuple[str, str]]:
    """Returns uid of the authority and serial of each certificate with one of these serials that is ISSUED."""
    return [(row.authority_uid, row.serial) for row in tx.execute(_OF_SERIALS, {"serials": list(serials)})]


def highest_crl_numbers(tx: Transaction) -> dict[tuple[str, int], int]:
    """Returns the highest CRL number that each key of each authority has signed, or is about to sign."""
    return {(row.authority_uid, row.key_number): row.highest for row in tx.execute(_HIGHEST)}


def authority_names(tx: Transaction) -> dict[str, str]:
    """Returns the names of authorities by their uids, for people."""
    return {row.uid: f"tenants/{row.tenant or '-'}/authorities/{row.authority_id}" for row in tx.execute(_NAMES)}


def certifies(tx: Transaction, public_key_sha256: bytes) -> bool:
    """Returns whether any certificate is of this key."""
    return tx.execute(_CERTIFIES, {"of_key": public_key_sha256}).first() is not None


def revocation_lists(reader: Reader) -> Iterator[bytes]:
    """Returns the DER of every CRL that is published; each is read by itself, for they may be large."""
    with reader.read("audit.crls") as tx:
        found = [tuple(row) for row in tx.execute(_LISTS)]
    for uid, number, partition in found:
        parameters = {"of_authority": uid, "of_number": number, "of_partition": partition}
        with reader.read("audit.crl") as tx:
            der = tx.execute(_CONTENT, parameters).scalar()
        if der is not None:
            yield der


def other_certificates(tx: Transaction) -> Iterator[bytes]:
    """Returns the DER of the certificates of authorities and responders, which need not be among the others."""
    for statement in _CERTIFICATES_ELSEWHERE:
        yield from tx.execute(statement).scalars()


def requests(tx: Transaction) -> Iterator[bytes]:
    """Returns the DER of the CSRs of authorities."""
    yield from tx.execute(_REQUESTS).scalars()


def import_key_statements(tx: Transaction) -> Iterator[bytes]:
    """Returns the statements of the import keys."""
    yield from tx.execute(_STATEMENTS).scalars()
