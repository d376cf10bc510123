"""X.509 vocabulary between protos and `pki`."""

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from certd.api.fields import Violations
from certd.pki import distinguished_name, names
from certd.pki.description import Description, describe
from certd.pki.encoding import certificate_pem
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Warning as PreparationWarning
from certd.v1 import x509_pb2


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


def distinguished_name_message(der: bytes) -> x509_pb2.DistinguishedName:
    """Returns a name, structured, with short names where there are some."""
    return x509_pb2.DistinguishedName(
        relative_distinguished_names=[
            x509_pb2.RelativeDistinguishedName(
                attributes=[
                    x509_pb2.AttributeTypeAndValue(type=distinguished_name.short_name(oid), value=value)
                    for oid, value in relative
                ]
            )
            for relative in distinguished_name.decode(der)
        ]
    )


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


def names_message(alternative_names: SubjectAlternativeNames) -> x509_pb2.SubjectAlternativeNames:
    """Returns alternative names as a message."""
    return x509_pb2.SubjectAlternativeNames(
        dns_names=alternative_names.dns_names,
        ip_addresses=alternative_names.ip_addresses,
        uris=alternative_names.uris,
        email_addresses=alternative_names.email_addresses,
    )


def encoded(der: bytes) -> x509_pb2.EncodedCertificate:
    """Returns a certificate in both forms."""
    return x509_pb2.EncodedCertificate(der=der, pem=certificate_pem(der))


def encoded_chain(chain: Iterable[bytes]) -> list[x509_pb2.EncodedCertificate]:
    """Returns certificates in both forms."""
    return [encoded(der) for der in chain]


def timestamp(moment: datetime) -> Timestamp:
    """Returns a time as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def warning_messages(warnings: Iterable[PreparationWarning]) -> list[x509_pb2.Warning]:
    """Returns warnings as messages."""
    return [x509_pb2.Warning(field=warning.field, message=warning.message) for warning in warnings]


def key_spec_number(spec: str | None) -> x509_pb2.KeySpec.ValueType:
    """Returns the proto's value of a key spec, unspecified for None. Both enumerations have the same names."""
    return x509_pb2.KEY_SPEC_UNSPECIFIED if spec is None else x509_pb2.KeySpec.Value(spec)


def signature_algorithm_number(algorithm: str | None) -> x509_pb2.SignatureAlgorithm.ValueType:
    """Returns the proto's value of a signature algorithm, unspecified for None."""
    if algorithm is None:
        return x509_pb2.SIGNATURE_ALGORITHM_UNSPECIFIED
    return x509_pb2.SignatureAlgorithm.Value(algorithm)


def description(der: bytes) -> x509_pb2.CertificateDescription:
    """Returns a certificate, parsed, as a message."""
    return description_message(describe(der))


def description_message(described: Description) -> x509_pb2.CertificateDescription:
    """Returns a description as a message."""
    return x509_pb2.CertificateDescription(
        subject=distinguished_name_message(described.subject),
        subject_text=described.subject_text,
        issuer_text=described.issuer_text,
        serial_number=described.serial_number,
        not_before_time=timestamp(described.not_before_time),
        not_after_time=timestamp(described.not_after_time),
        subject_alternative_names=names_message(described.subject_alternative_names),
        key_spec=key_spec_number(described.key_spec),
        public_key=described.public_key,
        signature_algorithm=signature_algorithm_number(described.signature_algorithm),
        key_usages=[x509_pb2.KeyUsage.Value(usage) for usage in described.key_usages],
        extended_key_usages=described.extended_key_usages,
        authority=described.authority,
        path_length=described.path_length,
        subject_key_identifier=described.subject_key_identifier,
        authority_key_identifier=described.authority_key_identifier,
        sha256_fingerprint=described.sha256_fingerprint,
        extensions=[
            x509_pb2.Extension(oid=extension.oid, critical=extension.critical, value=extension.value)
            for extension in described.extensions
        ],
    )
