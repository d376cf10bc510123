"""The end of an authority whose window has passed: nobody can bring it back, and nobody can sign in its name.

It goes one committed step at a time, and whoever finds it unfinished goes on where it stands:

    1. write: the authority is PURGED and its keys are RETIRED: nothing of it is undeleted, revoked or made any more.
       Commit.
    2. for each key, a last CRL and one of each partition: signed and published by the steps of their own. They hold
       until a day after all that the key signed has ended.
    3. token: destroy the keys of its responders, and its own; a second time finds none.
    4. write: its id is free, `purged-` and its uid in place of that, and so is its place in the quota; event. Commit.

Its row, certificates and CRLs stay: public URLs, which are made of the uid, go on serving what they served last, and
what it issued is read under its new name.
"""

from datetime import datetime

from certd.clock import Clock
from certd.model.authority import Authority, AuthorityKey, AuthorityKeyState, AuthorityState
from certd.model.event import SYSTEM_PRINCIPAL, EventType
from certd.model.job import Job, JobKind
from certd.model.names import AuthorityName, purged_id
from certd.services.authority_views import event_of
from certd.services.issuing_refusals import token_unavailable
from certd.services.revocation_list_signing import RevocationListSigning
from certd.services.steps import StepHook
from certd.store import authorities, authority_deletion, authority_keys, jobs, ocsp_responders
from certd.store.ocsp_responders import Responder
from certd.store.store import Store, Transaction
from certd.token.client import TokenClient


class AuthorityPurge:
    """Does the job PURGE_AUTHORITY.

    Args:
        store: the books.
        token: where the keys are.
        clock: the time.
        lists: signs the last CRLs.
        step: is called with the name of each numbered step when it is done.
    """

    def __init__(
        self, *, store: Store, token: TokenClient, clock: Clock, lists: RevocationListSigning, step: StepHook
    ) -> None:
        self._store = store
        self._token = token
        self._clock = clock
        self._lists = lists
        self._step = step

    def run(self, uid: str) -> None:
        """Purges an authority if it is time; raises what signing the CRLs does, and what the token does."""
        now = self._clock.now()
        found = self._store.write("authorities.purge", lambda tx: _begun(tx, uid, now))
        if found is None:
            return
        self._step("purge.1.begun")
        with self._store.read("authorities.purge-keys") as tx:
            keys = authorities.keys(tx, uid)
        for key in keys:
            self._lists.sign_last(uid, key.number, SYSTEM_PRINCIPAL)
        self._step("purge.2.published")
        responders = self._destroy(uid, keys)
        self._step("purge.3.destroyed")
        self._store.write("authorities.purged", lambda tx: self._record(tx, found, keys, responders))
        self._step("purge.4.recorded")

    def _destroy(self, uid: str, keys: list[AuthorityKey]) -> list[Responder]:
        """Step 3; returns the responders whose keys are gone."""
        if not self._token.ready:
            raise token_unavailable(self._token.problem)
        with self._store.read("authorities.purge-responders") as tx:
            responders = [one for key in keys for one in ocsp_responders.of_key(tx, uid, key.number)]
        doomed = [(one.key_id, one.policy) for one in responders] + [(key.key_id, key.policy) for key in keys]
        for key_id, policy in doomed:
            self._token.destroy_authority_key(key_id=key_id, policy=policy)
        return responders

    def _record(self, tx: Transaction, found: Authority, keys: list[AuthorityKey], responders: list[Responder]) -> None:
        """Step 4."""
        now = self._clock.now()
        current = authorities.get_by_uid(tx, found.uid)
        jobs.finish(tx, JobKind.PURGE_AUTHORITY, found.uid)
        if current is None or current.authority_id == purged_id(found.uid):
            # Another daemon, which took this one for dead, has done it.
            return
        for responder in responders:
            ocsp_responders.delete_responder(tx, responder)
        authority_deletion.set_purged(tx, current, now)
        tx.configuration_changed()
        new_name = AuthorityName(current.tenant or "", purged_id(current.uid))
        told = {"new_name": str(new_name), "keys": ", ".join(key.key_id.hex() for key in keys)}
        tx.event(event_of(EventType.AUTHORITY_PURGED, current, SYSTEM_PRINCIPAL, now, **told))


def _begun(tx: Transaction, uid: str, now: datetime) -> Authority | None:
    """Step 1. Returns the authority to purge; None, with the job ended or put off, when there is nothing to do."""
    found = authorities.get_by_uid(tx, uid)
    if found is None or found.purge_time is None or found.authority_id == purged_id(uid):
        jobs.finish(tx, JobKind.PURGE_AUTHORITY, uid)
        return None
    if found.state is AuthorityState.PURGED:
        return found
    if now < found.purge_time:
        jobs.put(tx, Job(kind=JobKind.PURGE_AUTHORITY, subject=uid, due_time=found.purge_time))
        return None
    authorities.set_state(tx, uid, AuthorityState.PURGED, now)
    for key in authorities.keys(tx, uid):
        if key.state is not AuthorityKeyState.RETIRED:
            authority_keys.set_state(tx, uid, key.number, AuthorityKeyState.RETIRED, now)
    tx.configuration_changed()
    return authorities.get_by_uid(tx, uid)
