"""The job that keeps the responder of an authority key, and what is signed ahead by it: see `ocsp_presigning`."""

from datetime import datetime, timedelta
from typing import Final

from certd.model.authority import Authority
from certd.model.job import JobKind
from certd.store import jobs
from certd.store.transaction import Transaction

RESPONDER_PROFILE: Final = "ocsp-signing"
"""Id of the profile, which is built in, of responders' certificates."""
FIRST_PAUSE: Final = timedelta(minutes=1)
"""After it an authority gets a responder. Until then its own key answers: one that is made and dropped costs none."""


def subject_of(authority_uid: str, key_number: int) -> str:
    """Returns the subject of the job of an authority key."""
    return f"{authority_uid}/{key_number}"


def parse_subject(subject: str) -> tuple[str, int]:
    """Returns what `subject_of` was given."""
    authority_uid, _, key_number = subject.partition("/")
    return authority_uid, int(key_number)


def ensure_responder(tx: Transaction, authority: Authority, now: datetime) -> None:
    """Has the authority's key answered for from now on, for good.

    To be called in the transaction that gives a key its certificate, and in that of new settings; idempotent.
    """
    if authority.tenant is not None and authority.revocation.ocsp.enabled:
        subject = subject_of(authority.uid, authority.key.number)
        jobs.hasten(tx, JobKind.ADVANCE_OCSP_RESPONDER, subject, now + FIRST_PAUSE)
