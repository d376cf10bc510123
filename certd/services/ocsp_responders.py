"""OCSP responders: each authority key has one with a key and a certificate of its own, and has it replaced in time.

A responder comes to be one committed step at a time, and whoever finds it unfinished goes on where it stands:

    1. write: the row, with the key's CKA_ID and policy. Commit.
    2. token: generate the key under that CKA_ID; a second time finds the same key.
    3. write: its public key. Commit.
    4. issue its certificate by the five steps of the issuing loop; the completion makes it the one that answers.

Its certificate is the one thing that an authority still signs which is disabled, or deleted and within its window, and
a key that another one has taken the place of: what they issued has to be answered for.
"""

import logging
import secrets
from datetime import datetime, timedelta
from typing import Final

from certd.clock import Clock
from certd.model.authority import Authority
from certd.model.event import SYSTEM_PRINCIPAL, Event, EventType
from certd.pki import der, distinguished_name
from certd.pki.certificate_request import CertificateRequest, Validity
from certd.pki.description import describe
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profiles import BUILT_IN
from certd.services.issuance import Order, issuance_of, issuer_of, prepare
from certd.services.issuing_loop import IssuingLoop
from certd.services.ocsp_jobs import RESPONDER_PROFILE
from certd.services.ocsp_keys import SHORTEST_USE, Answering, load_answering, responder_key_spec
from certd.services.steps import StepHook
from certd.store import ocsp_responders
from certd.store.ocsp_responders import Responder
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient
from certd.token.policy import SignatureKind, authority_key_policy

LIFETIME: Final = timedelta(days=30)
"""Of a responder's certificate, about whose revocation nobody asks: whoever stole its key could use it that long."""
RENEWED_BEFORE: Final = timedelta(days=10)
"""How long before the end of one the next takes over: longer than most answers hold, and than most holidays."""
_SECOND: Final = timedelta(seconds=1)
_PROFILE: Final = BUILT_IN[RESPONDER_PROFILE]

_log = logging.getLogger("certd.ocsp")


class OcspResponders:
    """Makes responders, and replaces them.

    Args:
        store: where they are.
        token: makes their keys.
        clock: the time.
        loop: issues their certificates.
        step: is called with the name of each numbered step when it is done.
    """

    def __init__(self, *, store: Store, token: TokenClient, clock: Clock, loop: IssuingLoop, step: StepHook) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._loop = loop
        self._step = step

    def ensure(self, answering: Answering) -> datetime | None:
        """Makes a responder, or the next one when it is time; returns when the next is due, None when none follows.

        Raises what the token and the issuing loop raise; the one before, or the authority's own key, answers meanwhile.
        """
        authority, now = answering.authority, self._clock.now()
        end = authority.not_after
        if end is None or end - now < 2 * SHORTEST_USE:
            # It would hardly live; the authority's key signs the last answers itself.
            return None
        with self._store.read("ocsp.responders") as tx:
            found = ocsp_responders.of_key(tx, authority.uid, authority.key.number)
        able = answering.certificates
        # One that begins in the future was made while a clock was ahead.
        finished = [one for one in found if one.number in able and describe(able[one.number]).not_before_time <= now]
        newest = finished[0].not_after if finished else None
        due = None if newest is None else newest - RENEWED_BEFORE
        if newest is not None and due is not None and (now < due or newest >= end):
            self._forget_ended(found[1:], now)
            # One that ends with its authority is the last.
            return due if newest < end else None
        begun = found[0] if found and found[0].not_after is None else self._begin(authority, found, now)
        public_key = begun.public_key or self._make_key(begun, authority)
        not_after = self._issue(begun, authority, public_key)
        _log.info("OCSP responder %d of key %d of %s answers", begun.number, begun.key_number, authority.name)
        return not_after - RENEWED_BEFORE if not_after < end else None

    def wind_up(self, answering: Answering) -> datetime | None:
        """Destroys the keys of responders that have ended, after which none follows; returns when the next one has.

        None: none is left. Raises what the token raises.
        """
        authority, now = answering.authority, self._clock.now()
        with self._store.read("ocsp.responders") as tx:
            found = ocsp_responders.of_key(tx, authority.uid, authority.key.number)
        left = [one.not_after for one in found if one.not_after is not None and one.not_after >= now]
        self._forget_ended(found, now, unfinished=True)
        return min(left) + _SECOND if left else None

    def _begin(self, authority: Authority, found: list[Responder], now: datetime) -> Responder:
        """Step 1."""
        responder = Responder(
            authority_uid=authority.uid,
            key_number=authority.key.number,
            number=found[0].number + 1 if found else 1,
            key_id=secrets.token_bytes(16),
            policy=authority_key_policy(
                kinds={SignatureKind.OCSP_RESPONSE},
                issuer_name=authority.subject,
                path_length=None,
                longest_lifetime=LIFETIME,
                self_signed=False,
            ),
            create_time=now,
        )

        def insert(tx: Transaction) -> None:
            # A purge destroys the keys of those whose rows were written before it began.
            load_answering(tx, (responder.authority_uid, responder.key_number))
            ocsp_responders.insert_responder(tx, responder)

        self._store.write("ocsp.responder-begin", insert)
        self._step("responder.1.begun")
        return responder

    def _make_key(self, responder: Responder, authority: Authority) -> bytes:
        """Steps 2 and 3."""
        public_key = self._token.create_authority_key(
            key_id=responder.key_id, key_spec=responder_key_spec(authority), policy=responder.policy
        )
        self._step("responder.2.key-made")
        self._store.write("ocsp.responder-key", lambda tx: ocsp_responders.set_public_key(tx, responder, public_key))
        self._step("responder.3.key-recorded")
        return public_key

    def _issue(self, responder: Responder, authority: Authority, public_key: bytes) -> datetime:
        """Step 4; returns the end of the certificate."""
        now = self._clock.now()
        # Both ends count.
        end = now.replace(microsecond=0) + LIFETIME - timedelta(seconds=1)
        order = Order(
            origin="responder",
            source=CertificateRequest(
                public_key=public_key,
                subject=responder_name(authority.subject),
                names=SubjectAlternativeNames(),
            ),
            profile=_PROFILE,
            validity=Validity(not_after=min(end, authority.not_after or end)),
        )
        prepared = prepare(order, issuer_of(authority, public_key=authority.key.public_key or b""), now=now)

        def record(tx: Transaction, certificate: bytes) -> None:
            ocsp_responders.set_certificate(tx, responder, certificate, prepared.not_after)
            tx.configuration_changed()
            tx.event(
                Event(
                    time=now,
                    type=EventType.OCSP_RESPONDER_ROTATED,
                    tenant=authority.tenant,
                    principal=SYSTEM_PRINCIPAL,
                    resource=authority.name,
                    details={
                        "key": str(responder.key_number),
                        "responder": str(responder.number),
                        "serial": describe(certificate).serial_number,
                        "not_after": prepared.not_after.isoformat(),
                    },
                )
            )

        self._loop.issue(
            issuance_of(
                prepared,
                order,
                authority,
                principal=SYSTEM_PRINCIPAL,
                now=now,
                by_enabled_authority=False,
                by_current_key=False,
                also=record,
            )
        )
        return prepared.not_after

    def _forget_ended(self, several: list[Responder], now: datetime, *, unfinished: bool = False) -> None:
        """Destroys the keys of responders whose certificates have ended, then their rows; also of those without one."""
        for one in several:
            if one.not_after >= now if one.not_after is not None else not unfinished:
                continue
            self._token.destroy_authority_key(key_id=one.key_id, policy=one.policy)
            self._step("responder.key-destroyed")

            def delete(tx: Transaction, ended: Responder = one) -> None:
                ocsp_responders.delete_responder(tx, ended)
                tx.configuration_changed()

            self._store.write("ocsp.responder-ended", delete)


def responder_name(authority: bytes) -> bytes:
    """Returns the name of the responders of an authority, both in DER: the same with another CN, which stands last.

    It is within what constraints permit wherever the authority's own name is.
    """
    kept = distinguished_name.without_attributes(authority, lambda oid, _: oid == distinguished_name.COMMON_NAME)
    own = distinguished_name.encode((((distinguished_name.COMMON_NAME, "OCSP responder"),),))
    joined = der.encode(der.SEQUENCE, _content(kept) + _content(own))
    fits = len(joined) <= distinguished_name.LONGEST_NAME
    if fits and len(distinguished_name.decode(kept)) < distinguished_name.HIGHEST_RELATIVE_NAMES:
        return joined
    return own


def _content(sequence: bytes) -> bytes:
    return der.Reader(sequence).read(der.SEQUENCE)
