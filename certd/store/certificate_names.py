"""Rows of the alternative names of certificates, by which they are found.

A DNS name stands with its labels in reverse order, `com.example.www`, so that what lies below a domain is one range of
the index; a wildcard keeps its label, `com.example.*`. Names of the other kinds stand as they are.
"""

import enum
from collections.abc import Iterator, Sequence

from certd.pki.names import SubjectAlternativeNames
from certd.store import schema
from certd.store.dialect import Many, insert_if_absent
from certd.store.transaction import Transaction


class NameKind(enum.StrEnum):
    """Kinds of names, as the rows have them."""

    DNS = "dns"
    IP = "ip"
    URI = "uri"
    EMAIL = "email"


# A row that is there already says the same.
_INSERT = Many(insert_if_absent(schema.certificate_names), columns=("authority_uid", "kind", "name", "serial"))


def insert(tx: Transaction, names: Sequence[tuple[str, str, SubjectAlternativeNames]]) -> None:
    """Inserts the names of certificates, each given by the uid of its authority and its serial, in one statement."""
    rows = [
        {"authority_uid": authority_uid, "serial": serial, "kind": kind.value, "name": name}
        for authority_uid, serial, of_certificate in names
        for kind, name in kept(of_certificate)
    ]
    if rows:
        tx.execute_many(_INSERT, rows)


def kept(names: SubjectAlternativeNames) -> Iterator[tuple[NameKind, str]]:
    """Yields every name as it stands in a row."""
    for name in names.dns_names:
        yield NameKind.DNS, reversed_labels(name)
    for name in names.ip_addresses:
        yield NameKind.IP, name
    for name in names.uris:
        yield NameKind.URI, name
    for name in names.email_addresses:
        yield NameKind.EMAIL, name


def reversed_labels(dns_name: str) -> str:
    """Returns a DNS name with its labels in reverse order."""
    return ".".join(reversed(dns_name.split(".")))
