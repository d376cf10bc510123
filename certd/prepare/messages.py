"""Orders and prepared certificates as messages between the daemon and a prepare process."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

from certd.errors import CertdError
from certd.internal import prepare_pb2 as messages
from certd.ipc.frames import error_of, failure_of
from certd.pki import name_constraints
from certd.pki.certificate_request import (
    CertificateRequest,
    Issuer,
    Validity,
    Warning,  # noqa: A004  # The API's word.
)
from certd.pki.csr import RequestedExtension
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import Prepared
from certd.pki.profile_document import from_document, to_document
from certd.pki.profiles import BUILT_IN, SYSTEM, Profile
from certd.pki.status_locations import StatusLocations, crl_partition, locations_under
from certd.prepare.order import Csr, Item, Terms

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
_SERIAL_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a call wants beside what will be signed."""

    lint_certificates: bool = False
    descriptions: bool = False


def request_bytes(terms: Terms, items: Sequence[Item], wanted: Wanted) -> bytes:
    """Returns the payload of a call."""
    return terms_bytes(terms, wanted) + items_bytes(items)


def items_bytes(items: Sequence[Item]) -> bytes:
    """Returns the part of a payload that stands for items; behind the terms stand any number of such parts."""
    request = messages.PrepareRequest()
    for item in items:
        _fill_item(request.items.add(), item)
    return request.SerializeToString()


def terms_bytes(terms: Terms, wanted: Wanted) -> bytes:
    """Returns the beginning of a payload."""
    profile = terms.profile
    request = messages.PrepareRequest(
        issuer=_issuer_bytes(terms.issuer),
        profile=_document(profile),
        profile_id=_profile_name(profile),
        profile_version=profile.version,
        with_lint_certificates=wanted.lint_certificates,
        with_descriptions=wanted.descriptions,
    )
    return request.SerializeToString()


def parse_request(payload: bytes) -> tuple[Terms, list[Item], Wanted]:
    """Returns what a payload asks for; raises CertdError or DecodeError for one that no daemon of ours wrote."""
    request = messages.PrepareRequest.FromString(payload)
    terms = Terms(
        issuer=_issuer_of(request.issuer),
        profile=_profile_of(request.profile_id, request.profile_version, request.profile),
    )
    wanted = Wanted(lint_certificates=request.with_lint_certificates, descriptions=request.with_descriptions)
    return terms, [_item_of(item) for item in request.items], wanted


def response_bytes(results: Iterable[messages.PrepareResult]) -> bytes:
    """Returns the payload of an answer."""
    return messages.PrepareResponse(results=results).SerializeToString()


@dataclass(frozen=True, slots=True)
class Described:
    """A certificate that was prepared, with its description."""

    prepared: Prepared
    description: bytes = b""
    """Serialised certd.v1.CertificateDescription without fingerprint; empty when it was not wanted."""


Answer: TypeAlias = Described | CertdError
"""What became of an item."""


def result_of(answer: Answer, wanted: Wanted) -> messages.PrepareResult:
    """Returns what became of an item as a message."""
    if isinstance(answer, CertdError):
        return messages.PrepareResult(failure=failure_of(answer))
    outcome = answer.prepared
    prepared = messages.PreparedCertificate(
        tbs=outcome.tbs,
        subject_text=outcome.subject_text,
        not_before_seconds=(outcome.not_before - _EPOCH) // _SECOND,
        not_after_seconds=(outcome.not_after - _EPOCH) // _SECOND,
        public_key_sha256=outcome.public_key_sha256,
        key_spec=outcome.key_spec,
        names=_names_message(outcome.names),
        warnings=[messages.PrepareWarning(field=one.field, message=one.message) for one in outcome.warnings],
        lint_certificate=outcome.lint_certificate if wanted.lint_certificates else b"",
        description=answer.description,
    )
    return messages.PrepareResult(prepared=prepared)


def parse_response(payload: bytes, *, terms: Terms, serials: Sequence[int]) -> list[Answer]:
    """Returns what became of each item."""
    response = messages.PrepareResponse.FromString(payload)
    return [_answer(result, terms, serial) for result, serial in zip(response.results, serials, strict=True)]


def _answer(result: messages.PrepareResult, terms: Terms, serial: int) -> Answer:
    if result.HasField("failure"):
        return error_of(result.failure)
    message = result.prepared
    prepared = Prepared(
        tbs=message.tbs,
        serial=serial,
        issuer_name_sha256=hashlib.sha256(terms.issuer.name).digest(),
        subject_text=message.subject_text,
        not_before=_EPOCH + message.not_before_seconds * _SECOND,
        not_after=_EPOCH + message.not_after_seconds * _SECOND,
        public_key_sha256=message.public_key_sha256,
        key_spec=KeySpec(message.key_spec),
        names=_names_of(message.names),
        warnings=tuple(Warning(one.field, one.message) for one in message.warnings),
        lint_certificate=message.lint_certificate,
        # By the daemon's own reckoning, which `is_as_told` holds the certificate against.
        crl_partition=crl_partition(locations_under(terms.issuer.locations, terms.profile), serial),
    )
    return Described(prepared, message.description)


def _fill_item(message: messages.PrepareItem, item: Item) -> None:
    message.serial = item.serial.to_bytes(_SERIAL_BYTES)
    message.now_microseconds = (item.now - _EPOCH) // _MICROSECOND
    source = item.source
    if isinstance(source, Csr):
        message.csr = source.data
        if source.subject is not None:
            message.subject = source.subject
        if source.names is not None:
            message.names.CopyFrom(_names_message(source.names))
    else:
        message.request.CopyFrom(
            messages.SubjectRequest(
                public_key=source.public_key,
                subject=source.subject,
                names=_names_message(source.names),
                path_length=source.path_length,
                name_constraints=(
                    b"" if source.name_constraints is None else name_constraints.encode(source.name_constraints)
                ),
                extensions=[
                    messages.AskedExtension(oid=one.oid, critical=one.critical, value=one.value)
                    for one in source.extensions
                ],
                subject_key_identifier=source.subject_key_identifier,
                self_issued=source.self_issued,
            )
        )
    if item.validity.lifetime is not None:
        message.lifetime_microseconds = item.validity.lifetime // _MICROSECOND
    if item.validity.not_after is not None:
        message.not_after_microseconds = (item.validity.not_after - _EPOCH) // _MICROSECOND


def _item_of(message: messages.PrepareItem) -> Item:
    source: Csr | CertificateRequest
    if message.HasField("request"):
        asked = message.request
        source = CertificateRequest(
            public_key=asked.public_key,
            subject=asked.subject,
            names=_names_of(asked.names),
            extensions=tuple(
                RequestedExtension(oid=one.oid, critical=one.critical, value=one.value) for one in asked.extensions
            ),
            path_length=asked.path_length if asked.HasField("path_length") else None,
            name_constraints=name_constraints.decode(asked.name_constraints) if asked.name_constraints else None,
            subject_key_identifier=asked.subject_key_identifier if asked.HasField("subject_key_identifier") else None,
            self_issued=asked.self_issued,
        )
    else:
        source = Csr(
            data=message.csr,
            subject=message.subject if message.HasField("subject") else None,
            names=_names_of(message.names) if message.HasField("names") else None,
        )
    lifetime = message.lifetime_microseconds * _MICROSECOND if message.HasField("lifetime_microseconds") else None
    end = message.not_after_microseconds
    return Item(
        serial=int.from_bytes(message.serial),
        source=source,
        validity=Validity(
            lifetime=lifetime,
            not_after=_EPOCH + end * _MICROSECOND if message.HasField("not_after_microseconds") else None,
        ),
        now=_EPOCH + message.now_microseconds * _MICROSECOND,
    )


def _names_message(names: SubjectAlternativeNames) -> messages.Names:
    return messages.Names(
        dns_names=names.dns_names,
        ip_addresses=names.ip_addresses,
        uris=names.uris,
        email_addresses=names.email_addresses,
    )


def _names_of(message: messages.Names) -> SubjectAlternativeNames:
    return SubjectAlternativeNames(
        dns_names=tuple(message.dns_names),
        ip_addresses=tuple(message.ip_addresses),
        uris=tuple(message.uris),
        email_addresses=tuple(message.email_addresses),
    )


@lru_cache(maxsize=256)
def _issuer_bytes(issuer: Issuer) -> bytes:
    end = issuer.not_after
    return messages.Issuer(
        name=issuer.name,
        public_key=issuer.public_key,
        subject_key_identifier=issuer.subject_key_identifier,
        key_spec=issuer.key_spec,
        signature_algorithm=issuer.signature_algorithm,
        not_after_seconds=None if end is None else (end - _EPOCH) // _SECOND,
        path_length=issuer.path_length,
        issuer_urls=issuer.locations.issuer_urls,
        responder_urls=issuer.locations.responder_urls,
        crl_stems=issuer.locations.crl_stems,
        crl_partition_count=issuer.locations.partition_count,
        short_lived=issuer.locations.short_lived,
        reserved_trust_domain=issuer.reserved_trust_domain or "",
        name_constraints=[name_constraints.encode(each) for each in issuer.name_constraints],
    ).SerializeToString()


@lru_cache(maxsize=256)
def _issuer_of(data: bytes) -> Issuer:
    message = messages.Issuer.FromString(data)
    return Issuer(
        name=message.name,
        public_key=message.public_key,
        subject_key_identifier=message.subject_key_identifier,
        key_spec=KeySpec(message.key_spec),
        signature_algorithm=SignatureAlgorithm(message.signature_algorithm),
        not_after=(_EPOCH + message.not_after_seconds * _SECOND if message.HasField("not_after_seconds") else None),
        path_length=message.path_length if message.HasField("path_length") else None,
        locations=StatusLocations(
            issuer_urls=tuple(message.issuer_urls),
            responder_urls=tuple(message.responder_urls),
            crl_stems=tuple(message.crl_stems),
            partition_count=message.crl_partition_count,
            short_lived=message.short_lived,
        ),
        reserved_trust_domain=message.reserved_trust_domain or None,
        name_constraints=tuple(map(name_constraints.decode, message.name_constraints)),
    )


_FIXED: Mapping[str, Profile] = {
    **{f"built-in/{profile_id}": profile for profile_id, profile in BUILT_IN.items()},
    **{f"system/{profile_id}": profile for profile_id, profile in SYSTEM.items()},
}
"""Profiles that both sides know by name."""
_FIXED_NAMES = {profile: name for name, profile in _FIXED.items()}


@lru_cache(maxsize=256)
def _document(profile: Profile) -> str:
    return "" if profile in _FIXED_NAMES else to_document(profile)


def _profile_name(profile: Profile) -> str:
    return _FIXED_NAMES.get(profile, profile.profile_id)


@lru_cache(maxsize=256)
def _profile_of(name: str, version: int, document: str) -> Profile:
    return from_document(document, profile_id=name, version=version) if document else _FIXED[name]
