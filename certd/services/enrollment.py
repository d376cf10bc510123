"""Enrollment: a code, made by an administrator, lets one machine or person in once.

1. read: the code, its networks.
2. prepare: parse and verify the CSR, hold its key against the code.
3. issue: with the completion of the certificate the code is used and the identity ACTIVE, so that of two callers with
   one code the second gets nothing.

A code holds while who made it could make it: not past their revocation, nor for an identity that was granted more than
they hold.

The same code with the same key gets the certificate that was made, until the code expires.
"""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason, Violation, fields_invalid
from certd.model.access import Caller, Permission, lacking
from certd.model.certificate import CertificateState
from certd.model.event import Event, EventType
from certd.model.identity import IdentityState, spiffe_id_of
from certd.model.names import IdentityName, serial_text
from certd.model.tenant import Quota
from certd.pki import csr
from certd.pki.description import describe
from certd.pki.enrollment_code import EnrollmentCode, code_invalid, key_sha256, new_code, parse_code
from certd.services.access import Access
from certd.services.code_guesses import Guesses, Refused, record
from certd.services.identities import Identities, IdentityCredential
from certd.services.source_networks import comes_from, parse_networks
from certd.services.system import SystemAuthority
from certd.services.tenants import check_quota, existing_tenant
from certd.store import enrollment_codes, grants, identities
from certd.store.enrollment_codes import EnrollmentCodeRow
from certd.store.store import Store, Transaction

_log = logging.getLogger("certd.enrollment")

DEFAULT_LIFETIME: Final = timedelta(hours=1)
SHORTEST_LIFETIME: Final = timedelta(minutes=1)
LONGEST_LIFETIME: Final = timedelta(days=7)
MOST_CODES: Final = 100
"""Of one identity that nobody has used, so that nobody fills the books with them."""
_SHA256_BYTES: Final = 32
_BATCH: Final = 1000
_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """What an administrator asks for."""

    identity: IdentityName
    lifetime: timedelta | None = None
    public_key_sha256: bytes | None = None
    """Of the SubjectPublicKeyInfo that must enroll; None for any."""
    source_networks: tuple[str, ...] = ()
    """CIDR; empty for any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeCode:
    """A code, which is nowhere else."""

    code: EnrollmentCode
    identity: IdentityName
    spiffe_id: str
    expire_time: datetime


class Enrollment:
    """The use cases of enrollment."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        identities: Identities,
        system_authority: SystemAuthority,
        trust_domain: str,
        guesses: Guesses | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._access = access
        self._identities = identities
        self._system_authority = system_authority
        self._trust_domain = trust_domain
        self._guesses = guesses or Guesses(kind="enrollment codes", reason=Reason.ENROLLMENT_CODE_INVALID)

    def create_code(self, caller: Caller, new: NewCode) -> MadeCode:
        """Makes a code, and the identity where it does not exist.

        Raises FIELD_INVALID, TENANT_NOT_FOUND, QUOTA_EXCEEDED, and PERMISSION_MISSING also for an identity that holds
        more than the caller: whoever makes a code can use it themselves.
        """
        self._access.require(caller, Permission.IDENTITY_ENROLL, str(new.identity))
        lifetime, networks = _checked(new)
        now = self._clock.now()
        code = new_code(key_sha256(self._system_authority.get().certificate or b""))
        row = EnrollmentCodeRow(
            code_sha256=code.secret_sha256,
            identity=new.identity,
            public_key_sha256=new.public_key_sha256,
            source_networks=networks,
            creator=caller.principal,
            create_time=now,
            expire_time=now + lifetime,
        )
        spiffe_id = spiffe_id_of(new.identity, self._trust_domain)
        self._store.write("enrollment.create-code", lambda tx: self._insert(tx, caller, row, spiffe_id))
        return MadeCode(code=code, identity=new.identity, spiffe_id=spiffe_id, expire_time=row.expire_time)

    def _insert(self, tx: Transaction, caller: Caller, row: EnrollmentCodeRow, spiffe_id: str) -> None:
        name = row.identity
        if name.tenant is not None:
            existing_tenant(tx, name.tenant)
        self._require_as_much(tx, caller, name, spiffe_id)
        if identities.get(tx, name) is None:
            check_quota(tx, name.tenant, Quota.IDENTITIES)
        if enrollment_codes.count_unused(tx, name, now=row.create_time, most=MOST_CODES) >= MOST_CODES:
            raise CertdError(
                Reason.QUOTA_EXCEEDED,
                f"{name} has {MOST_CODES} enrollment codes that nobody has used, as many as it may have; use one of "
                "them, or wait until they end",
                metadata={"limit": str(MOST_CODES)},
                resource=str(name),
            )
        identities.ensure(tx, name, spiffe_id, IdentityState.INVITED, row.create_time)
        enrollment_codes.insert_code(tx, row)
        details = {"spiffe_id": spiffe_id, "expire_time": rfc3339(row.expire_time)}
        if row.public_key_sha256 is not None:
            details["public_key_sha256"] = row.public_key_sha256.hex()
        if row.source_networks:
            details["source_networks"] = " ".join(row.source_networks)
        tx.event(
            Event(
                time=row.create_time,
                type=EventType.ENROLLMENT_CODE_CREATED,
                tenant=name.tenant,
                principal=caller.principal,
                resource=str(name),
                details=details,
            )
        )

    def _require_as_much(self, tx: Transaction, caller: Caller, name: IdentityName, spiffe_id: str) -> None:
        held = self._access.held(caller)
        for grant in grants.of_caller(tx, spiffe_id):
            missing = lacking(held, grant)
            if missing is None:
                continue
            # As TestPermissions: what it holds somewhere is told to those who may read the grants there.
            known = self._access.may(caller, Permission.GRANT_READ, grant.scope)
            lacks = f"{missing} on {grant.scope}, which {name} holds" if known else f"something that {name} holds"
            permission = str(missing) if known else str(Permission.IDENTITY_ENROLL)
            raise CertdError(
                Reason.PERMISSION_MISSING,
                f"{caller.principal} lacks {lacks}; only who holds as much as an identity makes enrollment codes for "
                "it, as does an administrator of the server",
                metadata={"permission": permission, "principal": caller.principal},
                resource=str(name),
            )

    def _could_be_made(self, tx: Transaction, row: EnrollmentCodeRow) -> bool:
        """Whether who made a code could make it now; what they may no longer do, their codes do not do for them."""
        maker = identities.of_spiffe_id(tx, row.creator)
        if maker is not None and maker.state is IdentityState.REVOKED:
            return False
        held = tuple(grants.of_caller(tx, row.creator))
        given = grants.of_caller(tx, spiffe_id_of(row.identity, self._trust_domain))
        may_enroll = any(grant.allows(Permission.IDENTITY_ENROLL, str(row.identity)) for grant in held)
        return may_enroll and all(lacking(held, grant) is None for grant in given)

    def enroll(
        self, code: str, certification_request: bytes, *, address: str, timeout: float = _TIMEOUT
    ) -> IdentityCredential:
        """Lets an identity in; `address` is the IP address that the call came from.

        Raises ENROLLMENT_CODE_INVALID for whatever is wrong with the code, RATE_LIMITED after too many of them, what is
        wrong with a CSR only to those whose code is right, and what the issuing loop raises.
        """
        # 1. Read.
        row = self._guesses.attempt(address, self._clock, lambda: self._found(code, address))
        try:
            return self._enroll(row, certification_request, address, timeout)
        except CertdError as error:
            self._guesses.note(error, address, self._clock.now())
            raise

    def _found(self, text: str, address: str) -> EnrollmentCodeRow:
        code, now = parse_code(text), self._clock.now()
        with self._store.read("enrollment.code") as tx:
            row = enrollment_codes.get(tx, code.secret_sha256)
            stands = row is not None and (row.serial is not None or self._could_be_made(tx, row))
        if row is None or not stands or now >= row.expire_time or not comes_from(row.source_networks, address):
            raise code_invalid()
        return row

    def _enroll(
        self, row: EnrollmentCodeRow, certification_request: bytes, address: str, timeout: float
    ) -> IdentityCredential:
        # 2. Prepare.
        public_key = csr.parse_csr(certification_request).public_key
        key = hashlib.sha256(public_key).digest()
        if row.public_key_sha256 not in {None, key}:
            raise code_invalid()
        if row.serial is not None:
            return self._earlier(row, key)
        # 3. Issue.
        spiffe_id = spiffe_id_of(row.identity, self._trust_domain)
        try:
            self._identities.issue_identity(
                spiffe_id,
                public_key,
                principal=spiffe_id,
                also=lambda tx, der: self._use(tx, row, der, key=key, address=address),
                timeout=timeout,
            )
        except CertdError as error:
            if error.reason is not Reason.ENROLLMENT_CODE_INVALID:
                raise
            # The same call may have come twice at once, and the other was quicker.
        return self._earlier(row, key)

    def _use(self, tx: Transaction, row: EnrollmentCodeRow, certificate: bytes, *, key: bytes, address: str) -> None:
        now = self._clock.now()
        serial = serial_text(int(describe(certificate).serial_number, 16))
        if not enrollment_codes.use(tx, row.code_sha256, key, serial=serial, now=now):
            raise code_invalid()
        if not self._could_be_made(tx, row):
            raise code_invalid()
        identities.set_state(tx, row.identity, IdentityState.ACTIVE, now)
        tx.event(
            Event(
                time=now,
                type=EventType.IDENTITY_ENROLLED,
                tenant=row.identity.tenant,
                principal=spiffe_id_of(row.identity, self._trust_domain),
                resource=str(row.identity),
                details={
                    "serial_number": serial,
                    "public_key_sha256": key.hex(),
                    "address": address,
                    "invited_by": row.creator,
                },
            )
        )

    def _earlier(self, row: EnrollmentCodeRow, key: bytes) -> IdentityCredential:
        """Returns what the code has made; raises ENROLLMENT_CODE_INVALID when that is revoked, or not for this key."""
        with self._store.read("enrollment.enrolled") as tx:
            code = enrollment_codes.get(tx, row.code_sha256)
            identity = identities.get(tx, row.identity)
            if code is None or identity is None or code.serial is None or code.used_public_key_sha256 != key:
                raise code_invalid()
            made = self._system_authority.certificate(tx, code.serial)
            if made is None or made.der is None or made.state is not CertificateState.ISSUED:
                raise code_invalid()
            return self._identities.credential(tx, identity, made.der)

    def system_roots(self) -> tuple[bytes, ...]:
        """Returns the roots (DER) that vouch for the server and for identities, as anybody may know them."""
        return self._system_authority.roots()

    def tidy(self) -> None:
        """Tells refusals as events and deletes codes that expired; called by the scheduler every few seconds."""
        self._tell(self._guesses.take(self._clock.now()))
        now = self._clock.now()
        while True:
            deleted = self._store.write(
                "enrollment.delete-expired", lambda tx: enrollment_codes.delete_expired(tx, now, _BATCH)
            )
            if deleted < _BATCH:
                return

    def tell_all(self) -> None:
        """Tells also the refusals of this minute; called when the daemon stops."""
        try:
            self._tell(self._guesses.take(self._clock.now(), current=True))
        except CertdError as error:
            _log.warning("refused enrollments of the last minute are not among the events: %s", error)

    def _tell(self, refused: list[Refused]) -> None:
        if not refused:
            return
        try:
            self._store.write("enrollment.refused", lambda tx: record(tx, refused, EventType.ENROLLMENT_REFUSED))
        except CertdError:
            self._guesses.give_back(refused)
            raise


def _checked(new: NewCode) -> tuple[timedelta, tuple[str, ...]]:
    """Returns lifetime and networks; raises FIELD_INVALID with every rule that is broken."""
    violations: list[Violation] = []
    lifetime = DEFAULT_LIFETIME if new.lifetime is None else new.lifetime
    if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        violations.append(Violation("lifetime", "must be from a minute to 7 days"))
    if new.public_key_sha256 is not None and len(new.public_key_sha256) != _SHA256_BYTES:
        violations.append(Violation("public_key_sha256", "must be the 32 bytes of a SHA-256"))
    networks = parse_networks(new.source_networks, violations)
    if violations:
        raise fields_invalid(violations)
    return lifetime, networks
