"""Opens keys for consumers: each for the one for whom it is sealed, who signed for it by its identity's key.

Everything is verified before anything is opened, and who has not signed counts against nobody's rate.
"""

import hashlib
import heapq
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.pki.consumer_certificate import check_consumer_certificate, refuse
from certd.pki.lease import LONGEST_DEVIATION, lease_statement, time_of, verify_lease_signature
from certd.pki.sealing import Purpose, SealContext, check_recipient, hpke_encrypt
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.pin import wipe
from certd.token.rate import BucketOfEach, TokenBucket
from certd.token.requests import check_key_id, context_of, in_journal, whose
from certd.token.seal import unseal
from certd.token.settings import LEASES_OF_ONE_CONSUMER, MOST_CONSUMERS, TokenSettings
from certd.token.system_roots import SystemRoots

_logger = logging.getLogger(__name__)

_STATEMENTS = 250_000
"""How many statements are remembered, for at most ten minutes each."""


class SeenStatements:
    """What was leased for, as long as its time would still do: nothing is leased for twice. For one thread.

    A restart forgets. What may come twice then is encrypted to the key of the consumer who signed, and to no other.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._digests: set[bytes] = set()
        self._ends: list[tuple[datetime, bytes]] = []
        self._forgotten_until = datetime.min.replace(tzinfo=UTC)

    def check(self, digest: bytes, *, sign_time: datetime, now: datetime) -> None:
        """LEASE_REFUSED for a statement that was seen, or might have been; RATE_LIMITED when no more are remembered."""
        while self._ends and self._ends[0][0] < now:
            self._forgotten_until, forgotten = heapq.heappop(self._ends)
            self._digests.discard(forgotten)
        if digest in self._digests:
            raise refuse("a key was leased for this statement before; sign another, with a new key to encrypt to")
        if sign_time + LONGEST_DEVIATION <= self._forgotten_until:
            # Only after the clock was set back.
            raise refuse("the statement is from a time of which the token process has forgotten; sign another")
        if len(self._ends) >= self._most:
            message = "The token process remembers as many leases as it may; try again in a minute."
            raise CertdError(Reason.RATE_LIMITED, message, retry_after=60.0)

    def add(self, digest: bytes, *, sign_time: datetime) -> None:
        """Remembers a statement."""
        self._digests.add(digest)
        heapq.heappush(self._ends, (sign_time + LONGEST_DEVIATION, digest))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """A lease that the consumer has signed for."""

    statement: bytes
    sign_time: datetime
    serial: int
    """Of the consumer's certificate."""

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.statement).digest()


class Leases:
    """Leases keys. For the thread of the module."""

    def __init__(self, module: Module, settings: TokenSettings, clock: Clock, journal: Journal) -> None:
        self._module = module
        self._journal = journal
        self._clock = clock
        self._roots = SystemRoots(settings.system_roots)
        self._seen = SeenStatements(_STATEMENTS)
        self._all = TokenBucket(settings.leases_per_minute)
        self._of_each = BucketOfEach(LEASES_OF_ONE_CONSUMER, most=MOST_CONSUMERS)

    def lease(self, request: messages.LeaseRequest) -> messages.LeaseResponse:
        """Opens a key and encrypts it to the consumer's key.

        LEASE_REFUSED with the check that failed; RATE_LIMITED; TOKEN_POLICY_FORBIDS when the sealed key does not open.
        """
        check_key_id("wrapping_key_id", request.wrapping_key_id)
        context = context_of(request.context)
        try:
            verified = self._verify(request, context, self._clock.now())
            encrypted_key = self._open(request, context, verified)
        except CertdError as error:
            _logger.warning("not leased the key of %s to %s: %s", whose(context), context.consumer, error)
            raise
        self._journal.record(
            "lease",
            key=request.wrapping_key_id.hex(),
            **in_journal(context),
            consumer_serial=f"{verified.serial:x}",
            sha256=verified.digest.hex(),
            recipient_sha256=hashlib.sha256(request.recipient_public_key).hexdigest(),
        )
        self._seen.add(verified.digest, sign_time=verified.sign_time)
        return messages.LeaseResponse(encrypted_key=encrypted_key)

    def _verify(self, request: messages.LeaseRequest, context: SealContext, now: datetime) -> _Verified:
        """Verifies everything that needs no key, the rates last."""
        if context.purpose is not Purpose.ASSOCIATION or not context.consumer:
            raise refuse("what is leased is a copy that was sealed for a consumer, of purpose association")
        consumer = check_consumer_certificate(
            request.certificate, roots=self._roots.get(), consumer=context.consumer, now=now
        )
        sign_time = time_of(request.sign_time)
        if sign_time is None or abs(now - sign_time) > LONGEST_DEVIATION:
            raise refuse(
                "the statement was signed more than five minutes before or after the time of the token process, "
                f"{now:%Y-%m-%dT%H:%M:%SZ}; set the consumer's clock, or sign another"
            )
        try:
            statement = lease_statement(
                tenant=context.tenant,
                certificate=context.certificate,
                version=context.version,
                consumer=context.consumer,
                public_key=request.recipient_public_key,
                sign_time=sign_time,
            )
            check_recipient(request.recipient_public_key, "recipient_public_key")
        except CertdError as error:
            raise refuse(error.message) from error
        if not verify_lease_signature(consumer.public_key, statement=statement, signature=request.signature):
            raise refuse("the signature over the lease statement is not one by the key of the consumer's certificate")
        verified = _Verified(statement=statement, sign_time=sign_time, serial=consumer.serial)
        self._seen.check(verified.digest, sign_time=sign_time, now=now)
        self._take_place(context.consumer)
        return verified

    def _take_place(self, consumer: str) -> None:
        retry_after = self._of_each.take(consumer)
        if retry_after:
            most = f"{LEASES_OF_ONE_CONSUMER} keys a minute"
            message = f"The consumer leases more than {most}; try again in {retry_after:.1f} s."
            raise CertdError(Reason.RATE_LIMITED, message, retry_after=retry_after)
        retry_after = self._all.take()
        if retry_after:
            message = f"The token process has leased as many keys as it may; try again in {retry_after:.1f} s."
            raise CertdError(Reason.RATE_LIMITED, message, retry_after=retry_after)

    def _open(self, request: messages.LeaseRequest, context: SealContext, verified: _Verified) -> bytes:
        private_key = unseal(self._module, request.sealed_key, wrapping_key_id=request.wrapping_key_id, context=context)
        try:
            return hpke_encrypt(
                bytes(private_key), recipient_public_key=request.recipient_public_key, info=verified.statement
            )
        finally:
            wipe(private_key)
