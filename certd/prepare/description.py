"""Descriptions of certificates as messages: of what is prepared, and of what the API reads."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from certd.pki import distinguished_name
from certd.pki.description import Description
from certd.pki.internationalised_names import is_a_label, unicode_dns_name
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.v1 import x509_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def description_bytes(prepared: Prepared) -> bytes:
    """Returns the serialised description of what will be signed, without the fingerprint that it does not have yet."""
    described = prepared.description
    return b"" if described is None else description_message(described).SerializeToString()


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
        crl_urls=described.crl_urls,
        ocsp_urls=described.ocsp_urls,
        unicode_dns_names=[
            unicode_dns_name(name)
            for name in described.subject_alternative_names.dns_names
            # Most names hold none, and are not even split.
            if "xn--" in name and any(map(is_a_label, name.split(".")))
        ],
    )


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


def names_message(alternative_names: SubjectAlternativeNames) -> x509_pb2.SubjectAlternativeNames:
    """Returns alternative names as a message."""
    return x509_pb2.SubjectAlternativeNames(
        dns_names=alternative_names.dns_names,
        ip_addresses=alternative_names.ip_addresses,
        uris=alternative_names.uris,
        email_addresses=alternative_names.email_addresses,
    )


def timestamp(moment: datetime) -> Timestamp:
    """Returns a time as a message."""
    # As FromDatetime, which takes four times as long.
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def key_spec_number(spec: str | None) -> x509_pb2.KeySpec.ValueType:
    """Returns the proto's value of a key spec, unspecified for None. Both enumerations have the same names."""
    return x509_pb2.KEY_SPEC_UNSPECIFIED if spec is None else x509_pb2.KeySpec.Value(spec)


def signature_algorithm_number(algorithm: str | None) -> x509_pb2.SignatureAlgorithm.ValueType:
    """Returns the proto's value of a signature algorithm, unspecified for None."""
    if algorithm is None:
        return x509_pb2.SIGNATURE_ALGORITHM_UNSPECIFIED
    return x509_pb2.SignatureAlgorithm.Value(algorithm)
