"""X.509 vocabulary between protos and `pki`."""

from collections.abc import Iterable

from certd.api.fields import Violations
from certd.pki import distinguished_name, names
from certd.pki.description import describe
from certd.pki.encoding import certificate_pem
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
    "description",
    "description_message",
    "distinguished_name_message",
    "encoded",
    "encoded_chain",
    "key_spec_number",
    "names_message",
    "parse_distinguished_name",
    "parse_names",
    "signature_algorithm_number",
    "timestamp",
    "warning_messages",
]


def parse_distinguished_name(field: str, message: x509_pb2.DistinguishedName) -> bytes:
    """Returns the DER of a name; raises FIELD_INVALID with the path of every attribute type that is unknown."""
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


def parse_names(field: str, message: x509_pb2.SubjectAlternativeNames) -> SubjectAlternativeNames:
    """Returns alternative names in their normal form; raises NAME_NOT_ALLOWED with every one that is none."""
    return names.normalise(
        SubjectAlternativeNames(
            dns_names=tuple(message.dns_names),
            ip_addresses=tuple(message.ip_addresses),
            uris=tuple(message.uris),
            email_addresses=tuple(message.email_addresses),
        ),
        field=field,
    )


def encoded(der: bytes) -> x509_pb2.EncodedCertificate:
    """Returns a certificate in both forms."""
    return x509_pb2.EncodedCertificate(der=der, pem=certificate_pem(der))


def encoded_chain(chain: Iterable[bytes]) -> list[x509_pb2.EncodedCertificate]:
    """Returns certificates in both forms."""
    return [encoded(der) for der in chain]


def warning_messages(warnings: Iterable[PreparationWarning]) -> list[x509_pb2.Warning]:
    """Returns warnings as messages."""
    return [x509_pb2.Warning(field=warning.field, message=warning.message) for warning in warnings]


def description(der: bytes) -> x509_pb2.CertificateDescription:
    """Returns a certificate, parsed, as a message."""
    return description_message(describe(der))
