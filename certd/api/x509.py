"""X.509 vocabulary between protos and `pki`."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache, partial

from certd.api.fields import Violations
from certd.errors import field_invalid
from certd.pki import distinguished_name, name_constraints, names
from certd.pki.description import describe
from certd.pki.encoding import certificate_pem
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Warning as PreparationWarning
from certd.prepare.description import (
    description_message,
    distinguished_name_message,
    key_spec_number,
    names_message,
    signature_algorithm_number,
    timestamp,
)
from certd.v1 import x509_pb2

__all__ = [
    "describe_in",
    "description",
    "description_message",
    "distinguished_name_message",
    "encoded",
    "encoded_chain",
    "key_spec_number",
    "name_constraints_message",
    "names_message",
    "parse_distinguished_name",
    "parse_name_constraints",
    "parse_names",
    "signature_algorithm_number",
    "timestamp",
    "warning_messages",
]


def parse_distinguished_name(field: str, message: x509_pb2.DistinguishedName) -> bytes:
    """Returns the DER of a name; raises FIELD_INVALID with the path of every attribute type that is unknown."""
    if len(message.relative_distinguished_names) > distinguished_name.HIGHEST_RELATIVE_NAMES:
        # As many as fit into a message are not looked at one by one.
        raise field_invalid(
            field, f"has more than {distinguished_name.HIGHEST_RELATIVE_NAMES} relative distinguished names"
        )
    violations = Violations()
    relatives = []
    for at, relative in enumerate(message.relative_distinguished_names):
        path = f"{field}.relative_distinguished_names[{at}]"
        attributes = [
            (_oid(violations, f"{path}.attributes[{index}].type", attribute.type), attribute.value)
            for index, attribute in enumerate(relative.attributes)
        ]
        relatives.append(tuple(attributes))
    violations.check()
    return distinguished_name.encode(tuple(relatives), field=field)


def _oid(violations: Violations, path: str, attribute_type: str) -> str:
    return violations.attempt(lambda: distinguished_name.oid_of(attribute_type, field=path))


def parse_names(field: str, message: x509_pb2.SubjectAlternativeNames, *, most: int) -> SubjectAlternativeNames:
    """Returns alternative names in their normal form; raises NAME_NOT_ALLOWED past `most` or with each that is none."""
    given = SubjectAlternativeNames(
        dns_names=tuple(message.dns_names),
        ip_addresses=tuple(message.ip_addresses),
        uris=tuple(message.uris),
        email_addresses=tuple(message.email_addresses),
    )
    names.check_count(given, field=field, highest=most)
    return names.normalise(given, field=field)


def parse_name_constraints(field: str, message: x509_pb2.NameConstraints) -> NameConstraints:
    """Returns name constraints in their normal form; raises FIELD_INVALID with every subtree that is none."""
    violations = Violations()
    constraints = NameConstraints(
        permitted=_subtrees(violations, f"{field}.permitted", message.permitted),
        excluded=_subtrees(violations, f"{field}.excluded", message.excluded),
    )
    violations.check()
    return name_constraints.normalise(constraints, field=field)


def _subtrees(violations: Violations, path: str, message: x509_pb2.Subtrees) -> Subtrees:
    directory_names = tuple(
        violations.attempt(partial(parse_distinguished_name, f"{path}.directory_names[{index}]", name))
        for index, name in enumerate(message.directory_names)
    )
    return Subtrees(
        dns_names=tuple(message.dns_names),
        ip_ranges=tuple(message.ip_ranges),
        uri_hosts=tuple(message.uri_hosts),
        email_addresses=tuple(message.email_addresses),
        directory_names=directory_names,
    )


def name_constraints_message(constraints: NameConstraints) -> x509_pb2.NameConstraints:
    """Returns name constraints as a message."""
    message = x509_pb2.NameConstraints()
    for subtrees, field in ((constraints.permitted, message.permitted), (constraints.excluded, message.excluded)):
        if subtrees:
            field.CopyFrom(
                x509_pb2.Subtrees(
                    dns_names=subtrees.dns_names,
                    ip_ranges=subtrees.ip_ranges,
                    uri_hosts=subtrees.uri_hosts,
                    email_addresses=subtrees.email_addresses,
                    directory_names=map(distinguished_name_message, subtrees.directory_names),
                )
            )
    return message


def encoded(der: bytes) -> x509_pb2.EncodedCertificate:
    """Returns a certificate in both forms."""
    return x509_pb2.EncodedCertificate(der=der, pem=certificate_pem(der))


@lru_cache(maxsize=256)
def encoded_chain(chain: tuple[bytes, ...]) -> tuple[x509_pb2.EncodedCertificate, ...]:
    """Returns certificates in both forms; whoever sets a field with them copies them."""
    return tuple(encoded(der) for der in chain)


def warning_messages(warnings: Iterable[PreparationWarning]) -> list[x509_pb2.Warning]:
    """Returns warnings as messages."""
    return [x509_pb2.Warning(field=warning.field, message=warning.message) for warning in warnings]


def describe_in(message: x509_pb2.CertificateDescription, der: bytes, *, known: bytes) -> None:
    """Fills in the description of a certificate, from a serialised one without fingerprint where that is known."""
    if known:
        message.MergeFromString(known)
        message.sha256_fingerprint = hashlib.sha256(der).digest()
    else:
        message.CopyFrom(description(der))


def description(der: bytes) -> x509_pb2.CertificateDescription:
    """Returns a certificate, parsed, as a message."""
    return description_message(describe(der))
