"""Why the issuing loop refuses what it is handed, each told with what to do about it."""

import logging

from certd.errors import CertdError, Reason, Violation
from certd.model.authority import AuthorityState
from certd.services.issuance import Issuance

_log = logging.getLogger("certd.issuing")

QUEUE_LENGTH = 1024
"""Certificates that may be on their way at once, unless configured otherwise."""
_COMPROMISED = "compromised"
RETRY_AFTER = 0.5
"""Seconds."""


def queue_full(length: int) -> CertdError:
    """Returns the error of a call that finds no place among `length`."""
    return CertdError(
        Reason.SIGNING_QUEUE_FULL,
        f"{length} certificates wait for the token already; try again",
        retry_after=RETRY_AFTER,
    )


def key_blocked() -> CertdError:
    """Returns the error of a key that was reported as compromised."""
    problem = "was reported as compromised by a revocation and is never certified again; make another one"
    return CertdError(
        Reason.KEY_TOO_WEAK,
        f"the subject's key {problem}",
        metadata={"finding": _COMPROMISED},
        violations=(Violation("public_key", problem),),
    )


def is_key_blocked(error: CertdError) -> bool:
    """Returns whether an error is that of a key that was reported as compromised."""
    return error.metadata.get("finding") == _COMPROMISED


def signs_no_more(issuance: Issuance, standing: tuple[AuthorityState, int] | None) -> CertdError | None:
    """Returns why an authority that would have signed a moment ago does not; None when it does.

    Args:
        issuance: what it would sign.
        standing: state of the authority, and the number of the key that signs, in the transaction of the intent.
    """
    authority = issuance.resource.partition("/certificates/")[0]
    state, key_number = standing or (None, None)
    if issuance.by_enabled_authority and state is not AuthorityState.ENABLED:
        return _not_enabled(authority)
    if issuance.by_current_key and key_number != issuance.intent.key_number:
        return _key_superseded(authority)
    return None


def _not_enabled(authority: str) -> CertdError:
    return CertdError(
        Reason.AUTHORITY_NOT_ENABLED,
        f"{authority} was disabled meanwhile and issues nothing; enable it or choose another",
        resource=authority,
    )


def _key_superseded(authority: str) -> CertdError:
    return CertdError(
        Reason.OWNERSHIP_LOST,
        f"another key signs in the name of {authority} by now; try again",
        retry_after=RETRY_AFTER,
        resource=authority,
    )


def token_unavailable(problem: str) -> CertdError:
    """Returns the error of a call that needs a token that is away; `problem` as the token's client tells it."""
    return CertdError(
        Reason.TOKEN_UNAVAILABLE,
        f"the token does not answer ({problem or 'starting'}); try again",
        retry_after=RETRY_AFTER,
    )


def books_behind(length: int) -> CertdError:
    """Returns the error of what would be kept in memory only, with `length` others, as the database takes nothing."""
    return CertdError(
        Reason.STORE_UNAVAILABLE,
        f"{length} certificates wait for the database, which takes nothing; try again",
        retry_after=RETRY_AFTER,
    )


def ownership_lost(resource: str) -> CertdError:
    """Returns the error of a certificate that another daemon, or recovery, has taken for lost."""
    return CertdError(
        Reason.OWNERSHIP_LOST,
        f"{resource} was taken over by recovery before it was complete and counts as lost; try again",
        retry_after=RETRY_AFTER,
        resource=resource,
    )


def never_begun() -> CertdError:
    """Returns the error of a call whose deadline passed before its round."""
    return CertdError(Reason.DEADLINE_EXCEEDED, "the deadline passed in the queue; try again")


def token_late() -> CertdError:
    """Returns the error of what the token should have signed by now."""
    return CertdError(
        Reason.DEADLINE_EXCEEDED, "the token process did not sign in time; look at its log, then try again"
    )


def still_issuing() -> CertdError:
    """Returns the error of a call whose deadline passed while its certificate is on its way."""
    return CertdError(
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed before the certificate was issued; repeat the call with the same request_id",
    )


def shutting_down() -> CertdError:
    """Returns the error of a call that comes after the end."""
    return CertdError(Reason.SHUTTING_DOWN, "the server is stopping; try again", retry_after=1.0)


def senseless(error: Exception | None) -> CertdError:
    """Returns the error of an answer that is none; the log has why."""
    _log.error("the token process answered what makes no sense", exc_info=error)
    return CertdError(Reason.INTERNAL, "the token process answered what makes no sense")
