"""Jobs: rows with a time, claimed with a lease. Every schedule and every retry is one."""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final


class JobKind(enum.StrEnum):
    """What is to be done."""

    ADVANCE_AUTHORITY = "advance-authority"
    ADVANCE_AUTHORITY_KEY = "advance-authority-key"
    """The subject is `{uid of the authority}/{number of the key}`, a key that is being prepared."""
    ADVANCE_MANAGED_CERTIFICATE = "advance-managed-certificate"
    """The subject is the uid of a managed certificate; the job lives as long as that, for the next renewal."""
    ADVANCE_RENEWAL_CAMPAIGN = "advance-renewal-campaign"
    """The subject is the uid of a campaign."""
    RESEAL_KEYS = "reseal-keys"
    """The subject is the resource name of a wrapping key that is no longer primary.

    What is sealed under it is sealed anew; one that is destroyed goes from the token.
    """
    DELIVER_EVENTS = "deliver-events"
    """The subject is the uid of a subscription."""
    CHECK_DEPLOYMENT = "check-deployment"
    """The subject is the uid of a managed certificate, whose consumers should serve its current version by now."""

    GENERATE_REVOCATION_LIST = "generate-revocation-list"
    """The subject is `{uid of the authority}/{number of the key}/{partition}`; it lives as long as that CRL."""
    ADVANCE_OCSP_RESPONDER = "advance-ocsp-responder"
    """The subject is `{uid of the authority}/{number of the key}`: responder, and answers that are signed ahead."""
    ADVANCE_REVOCATION_CAMPAIGN = "advance-revocation-campaign"
    """The subject is the uid of a campaign."""
    PURGE_AUTHORITY = "purge-authority"
    """The subject is the uid of an authority that was deleted, when its window has ended."""
    SIGN_CHECKPOINT = "sign-checkpoint"
    """The subject is `events`."""


APART: Final = frozenset({JobKind.DELIVER_EVENTS})
"""Kinds that wait for strangers. They have workers of their own, so that renewals do not wait for strangers too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to do at a time. One job at most per kind and subject."""

    kind: JobKind
    subject: str
    """Uid of what it is about."""
    due_time: datetime
    attempt: int = 0
    """How often it was tried."""
