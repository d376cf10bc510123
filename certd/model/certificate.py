"""Certificates that an authority signed, or was about to sign."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames


class CertificateState(enum.StrEnum):
    """How far the signing of a certificate came, and what became of it."""

    PENDING = "PENDING"
    """Intended, durably; perhaps signed. Nobody has received it."""
    ISSUED = "ISSUED"
    REVOKED = "REVOKED"
    LOST = "LOST"
    """Its signing was interrupted; it counts as revoked from the moment of recovery."""


class RevocationReason(enum.StrEnum):
    """CRLReason of RFC 5280, section 5.3.1, without the hold."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What will be signed, durable before the token signs it."""

    authority_uid: str
    key_number: int
    issuer_name_sha256: bytes
    """Serials are unique across all keys of one issuer name."""
    serial: str
    """Even-length lower-case hexadecimal."""
    tbs: bytes
    """DER of the TBSCertificate."""
    profile: str
    """Id of the profile."""
    profile_version: int
    subject_text: str
    """RFC 4514 text of the subject, for lists."""
    not_before: datetime
    not_after: datetime
    public_key_sha256: bytes
    key_spec: KeySpec | None
    """None in what a release wrote that did not record it."""
    names: SubjectAlternativeNames = field(default=SubjectAlternativeNames(), compare=False)
    """To find it by. They stand in rows of their own, which are not read with the rest of an intent."""
    crl_partition: int | None = None
    """Whose CRL it names, from 1; None: the complete one's, or none."""
    managed_certificate_uid: str | None = None
    managed_certificate_version: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner_epoch: int
    """Epoch of the daemon that will complete it."""
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate as the books have it."""

    authority_uid: str
    key_number: int
    serial: str
    state: CertificateState
    der: bytes | None
    """None while PENDING and when LOST."""
    profile: str
    profile_version: int
    subject_text: str
    not_before: datetime
    not_after: datetime
    public_key_sha256: bytes
    key_spec: KeySpec | None
    """None in what a release wrote that did not record it."""
    managed_certificate_uid: str | None
    managed_certificate_version: int | None
    labels: Mapping[str, str]
    create_time: datetime
    revoke_time: datetime | None
    revocation_reason: RevocationReason | None
    invalidity_time: datetime | None
    """Since when its key is known or thought to be compromised; None when nobody said."""
    crl_partition: int | None = None
    """Whose CRL it names, from 1; None: the complete one's, or none."""
