"""Which change of a managed certificate may follow which, and the state that comes of it: one table."""

import enum

from certd.errors import CertdError, Reason
from certd.model.managed_certificate import ManagedCertificateState as State
from certd.model.names import ManagedCertificateName


class Change(enum.StrEnum):
    """What happens to a managed certificate; in words that follow `cannot be`."""

    REQUESTED = "requested"
    IMPORTED = "imported"
    """For the first time."""
    ISSUED = "issued for the first time"
    FAILED = "given up"
    """Its first version can never be issued as it was asked for."""
    RENEWAL_REQUESTED = "renewed"
    """Somebody wants a new version now."""
    RENEWED = "given a renewed version"
    REIMPORTED = "imported again"
    ROLLED_BACK = "rolled back"
    VERSION_REVOKED = "revoked"
    """A version is, and another lives."""
    REVOKED_ALL = "revoked altogether"
    """Every version is that has not ended."""
    UPDATED = "updated"
    DELETED = "deleted"


_STATES: dict[State | None, dict[Change, State]] = {
    None: {
        Change.REQUESTED: State.PENDING,
        Change.IMPORTED: State.ACTIVE,
    },
    State.PENDING: {
        Change.ISSUED: State.ACTIVE,
        Change.FAILED: State.FAILED,
        Change.UPDATED: State.PENDING,
        Change.DELETED: State.PENDING,
    },
    State.ACTIVE: {
        Change.RENEWAL_REQUESTED: State.ACTIVE,
        Change.RENEWED: State.ACTIVE,
        Change.REIMPORTED: State.ACTIVE,
        Change.ROLLED_BACK: State.ACTIVE,
        Change.VERSION_REVOKED: State.ACTIVE,
        Change.REVOKED_ALL: State.REVOKED,
        Change.UPDATED: State.ACTIVE,
        Change.DELETED: State.ACTIVE,
    },
    # Computed: what is stored of it stays ACTIVE.
    State.EXPIRED: {
        Change.RENEWAL_REQUESTED: State.ACTIVE,
        Change.RENEWED: State.ACTIVE,
        Change.REIMPORTED: State.ACTIVE,
        Change.ROLLED_BACK: State.ACTIVE,
        Change.VERSION_REVOKED: State.ACTIVE,
        Change.REVOKED_ALL: State.REVOKED,
        Change.UPDATED: State.ACTIVE,
        Change.DELETED: State.ACTIVE,
    },
    State.REVOKED: {
        Change.RENEWAL_REQUESTED: State.REVOKED,
        Change.RENEWED: State.ACTIVE,
        Change.REIMPORTED: State.ACTIVE,
        # A second revocation may make the reason a graver one.
        Change.VERSION_REVOKED: State.REVOKED,
        Change.REVOKED_ALL: State.REVOKED,
        Change.UPDATED: State.REVOKED,
        Change.DELETED: State.REVOKED,
    },
    State.FAILED: {
        Change.UPDATED: State.FAILED,
        Change.DELETED: State.FAILED,
    },
}

_REMEDIES: dict[State | None, str] = {
    None: "it is not there: request or import it",
    State.PENDING: "its first version is not issued yet: wait until it is ACTIVE; its conditions say what it waits for",
    State.ACTIVE: "it is ACTIVE already: read it again",
    State.EXPIRED: "its current version has ended: renew it, or import a new version",
    State.REVOKED: "every version that has not ended is revoked: renew it, or import a new version",
    State.FAILED: "it can never be issued as it was asked for: delete it and request another",
}


def after(state: State | None, change: Change, name: ManagedCertificateName | None = None) -> State:
    """Returns the state to store after a change; raises STATE_FORBIDS, which says what to do.

    Args:
        state: as a caller sees it, so EXPIRED once it has; None: it is not there yet.
        change: what is about to happen. Whoever deletes stores no state afterwards.
        name: of the managed certificate, for the message.
    """
    found = _STATES[state].get(change)
    if found is None:
        subject = "the managed certificate" if name is None else str(name)
        raise CertdError(
            Reason.STATE_FORBIDS,
            f"{subject} cannot be {change.value}: {_REMEDIES[state]}",
            resource=None if name is None else str(name),
        )
    return found
