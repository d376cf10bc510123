"""An import that is asked for, and what comes of it: the managed certificate, its version, the event. Reads nothing."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from certd.clock import rfc3339
from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.model.access import Caller
from certd.model.event import Event, EventType
from certd.model.managed_certificate import (
    ISSUED,
    ManagedCertificate,
    ManagedCertificateType,
    ManagedCertificateVersion,
)
from certd.model.managed_certificate_states import Change, after
from certd.model.names import ImportKeyName, ManagedCertificateName
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.description import describe
from certd.pki.imported_certificate import ImportedCertificate, names_of
from certd.pki.private_key import private_key_info
from certd.services.issuing_refusals import RETRY_AFTER
from certd.services.managed_certificate_records import event_of, observed


@dataclass(frozen=True, slots=True)
class PlainPrivateKey:
    """A private key as it is, which the daemon hands on to the token process and forgets."""

    data: bytes = field(repr=False)
    """In one of the encodings of `pki.private_key`."""


@dataclass(frozen=True, slots=True)
class SealedPrivateKey:
    """A private key that the caller sealed to an import key, for one certificate and one export policy."""

    import_key: ImportKeyName
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImport:
    """What a caller imports."""

    name: ManagedCertificateName
    certificate: bytes
    """PEM or DER of one."""
    chain: bytes
    """PEM, or DER of one; empty for a self-signed certificate."""
    private_key: PlainPrivateKey | SealedPrivateKey
    exportable: bool | None = None
    """None: as the versions before; not, for a new one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """With `replace`, none at all leave them as they are."""
    replace: bool = False
    """Whether it is a new version of one that is there."""


def planned(
    new: NewImport, given: ImportedCertificate, *, before: ManagedCertificate | None, number: int, now: datetime
) -> ManagedCertificate:
    """Returns the managed certificate as it is to be, with the new version as its current one.

    Args:
        new: what is asked for.
        given: its certificate, checked.
        before: as it is now; None for a new one.
        number: of the new version.
        now: time of the use case.

    Raises:
        CertdError: FIELD_INVALID for another export policy than before.
    """
    if before is None:
        managed = ManagedCertificate(
            uid=uuid.uuid4().hex,
            tenant=new.name.tenant,
            managed_certificate_id=new.name.managed_certificate,
            type=ManagedCertificateType.IMPORTED,
            authority_uid="",
            authority_name="",
            profile="",
            key_spec=given.key_spec,
            subject=given.subject,
            names=given.names,
            lifetime=None,
            exportable=bool(new.exportable),
            state=after(None, Change.IMPORTED, new.name),
            labels=new.labels,
            create_time=now,
            update_time=now,
        )
    else:
        if new.exportable not in {None, before.exportable}:
            policy = "EXPORTABLE" if before.exportable else "NOT_EXPORTABLE"
            rule = f"must be {policy}, as it was imported first and stays for ever, or left out"
            raise field_invalid("export_policy", rule)
        managed = replace(
            before,
            key_spec=given.key_spec,
            subject=given.subject,
            names=given.names,
            state=after(before.state_at(now), Change.REIMPORTED, before.name),
            labels=new.labels or before.labels,
        )
    told = observed(
        managed, ISSUED, now, status=True, reason="Imported", message=f"Version {number} is imported and current."
    )
    return replace(told, current_version=number, not_after=given.not_after, issue_time=now)


def with_version(managed: ManagedCertificate, version: ManagedCertificateVersion, now: datetime) -> ManagedCertificate:
    """Returns the managed certificate with another of its versions as its current one; raises STATE_FORBIDS."""
    certificate = version.certificate or b""
    described = describe(certificate)
    told = observed(
        managed,
        ISSUED,
        now,
        status=True,
        reason="RolledBack",
        message=f"Version {version.number} is current again, after version {managed.current_version}.",
    )
    return replace(
        told,
        state=after(managed.state_at(now), Change.ROLLED_BACK, managed.name),
        key_spec=described.key_spec or managed.key_spec,
        subject=described.subject,
        names=names_of(certificate),
        current_version=version.number,
        not_after=version.not_after,
        issue_time=version.create_time,
    )


def version_of(
    managed: ManagedCertificate, given: ImportedCertificate, *, wrapping_key_number: int
) -> ManagedCertificateVersion:
    """Returns the current version of what is planned."""
    return ManagedCertificateVersion(
        managed_certificate_uid=managed.uid,
        number=managed.current_version,
        public_key=given.public_key,
        wrapping_key_number=wrapping_key_number,
        authority_uid="",
        serial=None,
        create_time=managed.update_time,
        certificate=given.certificate,
        chain=given.chain,
        not_before=given.not_before,
        not_after=given.not_after,
    )


def imported_event(
    managed: ManagedCertificate, version: ManagedCertificateVersion, *, sealed: bool, caller: Caller, now: datetime
) -> Event:
    """Returns the event of an import. What is imported later by the same name is a matter of its own."""
    described = describe(version.certificate or b"")
    return event_of(
        EventType.MANAGED_CERTIFICATE_IMPORTED if version.number == 1 else EventType.MANAGED_CERTIFICATE_REIMPORTED,
        managed,
        caller.principal,
        now,
        version=version.number,
        serial=described.serial_number,
        issuer=described.issuer_text,
        public_key_sha256=hashlib.sha256(version.public_key).hexdigest(),
        not_after=rfc3339(described.not_after_time),
        exportable=str(managed.exportable).lower(),
        # Whether the daemon saw it.
        private_key="sealed" if sealed else "plain",
    )


def check_private_key(
    private_key: PlainPrivateKey | SealedPrivateKey, given: ImportedCertificate
) -> tuple[Warning, ...]:
    """Checks what can be checked of a private key that is not sealed for good; returns what could not be.

    Raises what `pki.private_key` raises, and IMPORT_KEY_MISMATCH.
    """
    if isinstance(private_key, SealedPrivateKey):
        untold = (
            "only the token process opens it: whether it belongs to the certificate, and was sealed for that and this"
            " export policy, is checked when it is imported"
        )
        return (Warning("sealed_private_key", untold),)
    opened, public_key, _ = private_key_info(private_key.data, field="plain_private_key")
    opened[:] = bytes(len(opened))
    if public_key != given.public_key:
        problem = "is not the key of the certificate"
        raise CertdError(
            Reason.IMPORT_KEY_MISMATCH,
            f"the private key {problem}; send the pair that was made together",
            violations=(Violation("plain_private_key", problem),),
        )
    return ()


def check_imported(managed: ManagedCertificate, problem: str) -> None:
    """Raises STATE_FORBIDS, with the problem and what to do, for a managed certificate that was not imported."""
    if managed.type is not ManagedCertificateType.IMPORTED:
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{managed.name} is {managed.type}, not {ManagedCertificateType.IMPORTED}: it {problem}",
            metadata={"type": managed.type},
            resource=str(managed.name),
        )


def exists(managed: ManagedCertificate) -> CertdError:
    """Returns the error of an import as a new one of what is there already."""
    remedy = (
        "say `replace` to import a new version of it, or choose another managed_certificate_id"
        if managed.type is ManagedCertificateType.IMPORTED
        else "choose another managed_certificate_id"
    )
    return CertdError(
        Reason.MANAGED_CERTIFICATE_EXISTS, f"{managed.name} exists already: {remedy}", resource=str(managed.name)
    )


def key_blocked() -> CertdError:
    """Returns the error of a key that was reported as compromised."""
    problem = "has a key that was reported as compromised by a revocation, and is never used again"
    return CertdError(
        Reason.KEY_TOO_WEAK,
        f"certificate {problem}; make another key and have a certificate issued for it",
        metadata={"finding": "compromised"},
        violations=(Violation("certificate", problem),),
    )


def changed_meanwhile(name: ManagedCertificateName) -> CertdError:
    """Returns the error of a call that others were faster than, again and again."""
    return CertdError(
        Reason.OWNERSHIP_LOST,
        f"{name} was changed by others meanwhile; try again",
        retry_after=RETRY_AFTER,
        resource=str(name),
    )
