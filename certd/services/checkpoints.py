"""Checkpoints: a key in the token says how far the record of events goes, and others keep what it said.

One is signed each hour in which something happened, and when somebody asks, once a minute at most. That one was signed
is an event too, after which nothing has happened.
"""

import base64
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from certd.clock import Clock, rfc3339
from certd.errors import CertdError, Reason
from certd.model.access import Caller, Permission
from certd.model.checkpoint import CheckpointKey, SignedCheckpoint
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.model.job import Job, JobKind
from certd.pki import distinguished_name
from certd.pki.checkpoint import Checkpoint, JournalHead, checkpoint_statement
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.services.access import Access
from certd.services.steps import StepHook
from certd.services.system import SystemAuthority
from certd.services.tenants import DEFAULT_TENANT
from certd.store import checkpoints, events, jobs
from certd.store.event_chain import ChainHead
from certd.store.store import Store, Transaction
from certd.token.client import SignItem, TokenClient
from certd.token.policy import SignatureKind, authority_key_policy

_log = logging.getLogger("certd.checkpoints")

SUBJECT: Final = "events"
"""Of the one job."""
SHORTEST_INTERVAL: Final = timedelta(minutes=1)
_RESOURCE: Final = "events"
_KEY_SPEC: Final = KeySpec.EC_P256
_ALGORITHM: Final = SignatureAlgorithm.ECDSA_WITH_SHA256
_SIGN_TIMEOUT: Final = 30.0
_BEHIND_ALL: Final = 1 << 62
"""No journal has as many records."""
_LOOKED_THROUGH: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointView:
    """A checkpoint with all that it takes to verify it."""

    statement: bytes
    signature: bytes
    public_key: bytes
    """DER of the SubjectPublicKeyInfo."""
    signature_algorithm: SignatureAlgorithm
    seq: int
    chain_hash: bytes
    time: datetime


class Checkpoints:
    """The use cases of checkpoints.

    Args:
        store: has the record.
        token: signs.
        clock: says when.
        access: who may have them.
        system_authority: its first one names the installation.
        interval: between two that nobody asks for.
        file: gets every checkpoint as a line of JSON; None: there is none.
        wake_scheduler: says that a job was put.
        step: is called with the name of each step when it is done.
    """

    def __init__(
        self,
        *,
        store: Store,
        token: TokenClient,
        clock: Clock,
        access: Access,
        system_authority: SystemAuthority,
        interval: timedelta,
        file: Path | None,
        wake_scheduler: Callable[[], None],
        step: StepHook,
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._access = access
        self._system_authority = system_authority
        self._interval = interval
        self._file = file
        self._wake_scheduler = wake_scheduler
        self._step = step
        self._signing = threading.Lock()
        self._seen_job = False

    def get(self, caller: Caller) -> CheckpointView:
        """Returns the newest checkpoint, and signs one if something happened and that is a minute old.

        Raises PERMISSION_MISSING, TOKEN_UNAVAILABLE; TOKEN_POLICY_FORBIDS when the record goes less far than it did.
        """
        self._access.require(caller, Permission.EVENT_READ, _RESOURCE)
        with self._signing:
            newest = self._newest()
            if newest is None or self._is_due(newest, SHORTEST_INTERVAL):
                newest = self._sign(put=None) or newest
        if newest is None:
            raise CertdError(Reason.STATE_FORBIDS, "nothing has happened yet on this server; run `certd init`")
        return self._view(newest)

    def look(self) -> None:
        """Puts the job where there is none; called by the scheduler every few seconds."""
        if self._seen_job or self._system_authority.find() is None:
            return
        with self._store.read("checkpoints.look") as tx:
            self._seen_job = jobs.due_time(tx, JobKind.SIGN_CHECKPOINT, SUBJECT) is not None
        if not self._seen_job:
            now = self._clock.now()
            self._store.write(
                "checkpoints.begin", lambda tx: jobs.hasten(tx, JobKind.SIGN_CHECKPOINT, SUBJECT, now + self._interval)
            )
            self._seen_job = True
            self._wake_scheduler()

    def advance(self, subject: str) -> None:
        """Signs a checkpoint if something happened, and puts the job again: the run of SIGN_CHECKPOINT."""
        job = Job(kind=JobKind.SIGN_CHECKPOINT, subject=subject, due_time=self._clock.now() + self._interval)
        with self._signing:
            newest = self._newest()
            if newest is None or self._is_due(newest, timedelta(0)):
                try:
                    self._sign(put=job)
                except CertdError as error:
                    if error.reason is not Reason.TOKEN_POLICY_FORBIDS:
                        raise
                    self._tell_refusal(error, job)
                return
        self._store.write("checkpoints.pause", lambda tx: jobs.put(tx, job))

    def _newest(self) -> SignedCheckpoint | None:
        with self._store.read("checkpoints.newest") as tx:
            return checkpoints.newest(tx)

    def _is_due(self, newest: SignedCheckpoint, interval: timedelta) -> bool:
        """Returns whether a checkpoint is old enough and something happened since."""
        age = self._clock.now() - newest.create_time
        # One of the future is by a clock that was set back.
        if timedelta(0) <= age < interval:
            return False
        with self._store.read("checkpoints.news") as tx:
            since = events.page(tx, after_seq=newest.seq, limit=_LOOKED_THROUGH)
            back = events.head(tx).seq < newest.seq
        return back or any(one.event.type is not EventType.CHECKPOINT_SIGNED for one in since)

    def _sign(self, *, put: Job | None) -> SignedCheckpoint | None:
        """Signs a checkpoint of now; returns None when nothing has ever happened."""
        key = self._key()
        journal = self._journal()
        with self._store.read("checkpoints.head") as tx:
            head = events.head(tx)
        if head.seq == 0:
            if put is not None:
                self._store.write("checkpoints.pause", lambda tx: jobs.put(tx, put))
            return None
        now = self._clock.now()
        statement = checkpoint_statement(self._said(head, now, journal))
        item = SignItem(
            key_id=key.key_id,
            policy=key.policy,
            kind=SignatureKind.CHECKPOINT,
            signature_algorithm=key.signature_algorithm,
            to_be_signed=statement,
        )
        (signature,) = self._token.sign([item], timeout=_SIGN_TIMEOUT)
        if isinstance(signature, CertdError):
            raise signature
        self._step("checkpoint.signed")
        signed = SignedCheckpoint(
            seq=head.seq, statement=statement, signature=signature, key_number=key.number, create_time=now
        )

        def work(tx: Transaction) -> None:
            if checkpoints.insert(tx, signed):
                tx.event(_event(signed, key, now))
            if put is not None:
                jobs.put(tx, put)

        self._store.write("checkpoints.keep", work)
        self._append(self._view(signed))
        return signed

    def _said(self, head: ChainHead, now: datetime, journal: JournalHead) -> Checkpoint:
        installation = self._system_authority.generations()[0].authority.uid
        return Checkpoint(
            installation=installation, seq=head.seq, chain_hash=head.chain_hash, time=now, journal=journal
        )

    def _journal(self) -> JournalHead:
        head, _ = self._token.read_journal(position=_BEHIND_ALL, limit=1)
        return head

    def _key(self) -> CheckpointKey:
        """Returns the key that signs; makes it, or completes one that a crash left unfinished."""
        with self._store.read("checkpoints.key") as tx:
            key = checkpoints.newest_key(tx)
        if key is None:
            new = new_checkpoint_key(1, self._clock.now())
            self._store.write("checkpoints.key", lambda tx: checkpoints.insert_key(tx, new))
            with self._store.read("checkpoints.key") as tx:
                key = checkpoints.key(tx, 1)
            # It was inserted, by this daemon or by another.
            assert key is not None  # noqa: S101
        if key.public_key is None:
            public_key = self._token.create_authority_key(key_id=key.key_id, key_spec=_KEY_SPEC, policy=key.policy)
            number = key.number
            self._store.write("checkpoints.key", lambda tx: checkpoints.set_public_key(tx, number, public_key))
            key = replace(key, public_key=public_key)
        return key

    def _view(self, signed: SignedCheckpoint) -> CheckpointView:
        with self._store.read("checkpoints.key") as tx:
            key = checkpoints.key(tx, signed.key_number)
            at = events.head_at(tx, signed.seq)
        if key is None or key.public_key is None or at is None:
            raise CertdError(
                Reason.STATE_FORBIDS,
                f"the record has no event {signed.seq} any more, of which a checkpoint was signed; run "
                "`certd audit verify`",
            )
        return CheckpointView(
            statement=signed.statement,
            signature=signed.signature,
            public_key=key.public_key,
            signature_algorithm=key.signature_algorithm,
            seq=signed.seq,
            chain_hash=at.chain_hash,
            time=signed.create_time,
        )

    def _tell_refusal(self, error: CertdError, put: Job) -> None:
        """Records that the token contradicts the record, which it does when that was cut or put back."""
        now = self._clock.now()
        _log.error("no checkpoint is signed: %s Run certd audit verify.", error.message)
        event = Event(
            time=now,
            type=EventType.JOURNAL_DIFFERS,
            tenant=None,
            principal=SYSTEM_PRINCIPAL,
            resource=_RESOURCE,
            details={"finding": error.message},
        )

        def work(tx: Transaction) -> None:
            tx.event(event)
            jobs.put(tx, put)

        self._store.write("checkpoints.refused", work)

    def _append(self, view: CheckpointView) -> None:
        """Appends a checkpoint to the file; what fails is logged, for the next one covers this one."""
        if self._file is None:
            return
        line = json.dumps(
            {
                "statement": view.statement.decode(),
                "signature": base64.b64encode(view.signature).decode(),
                "publicKey": base64.b64encode(view.public_key).decode(),
                "signatureAlgorithm": view.signature_algorithm.value,
                "seq": view.seq,
                "chainHash": base64.b64encode(view.chain_hash).decode(),
                "time": rfc3339(view.time),
            }
        )
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{line}\n")
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            _log.error(  # The message says all; a traceback would hide it.
                "a checkpoint was not written to [audit] checkpoint_file, %s: %s", self._file, error.strerror
            )


def new_checkpoint_key(number: int, now: datetime) -> CheckpointKey:
    """Returns a key that the token has yet to make, which signs checkpoints alone once its row is there."""
    policy = authority_key_policy(
        kinds=[SignatureKind.CHECKPOINT],
        issuer_name=distinguished_name.parse_text("CN=certd checkpoints"),
        path_length=None,
        longest_lifetime=timedelta(seconds=1),
        self_signed=False,
    )
    return CheckpointKey(
        number=number,
        key_id=secrets.token_bytes(16),
        policy=policy,
        public_key=None,
        signature_algorithm=_ALGORITHM,
        create_time=now,
    )


def _event(signed: SignedCheckpoint, key: CheckpointKey, now: datetime) -> Event:
    """Returns the event, which is of the first tenant, so that its subscriptions carry it elsewhere."""
    return Event(
        time=now,
        type=EventType.CHECKPOINT_SIGNED,
        tenant=DEFAULT_TENANT,
        principal=SYSTEM_PRINCIPAL,
        resource=f"events/{signed.seq}",
        details={
            "statement": signed.statement.decode(),
            "signature": base64.b64encode(signed.signature).decode(),
            "public_key": base64.b64encode(key.public_key or b"").decode(),
            "signature_algorithm": key.signature_algorithm.value,
        },
    )
