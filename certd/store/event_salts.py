"""Salts of events: what makes a hash of the chain impossible to guess for those who know all else that it contains."""

import os

from certd.store.event_chain import SALT_OCTETS


def new_salts(count: int) -> list[bytes]:
    """Returns so many salts, drawn from the system's source of secrets in one call."""
    octets = os.urandom(SALT_OCTETS * count)
    return [octets[start : start + SALT_OCTETS] for start in range(0, len(octets), SALT_OCTETS)]
