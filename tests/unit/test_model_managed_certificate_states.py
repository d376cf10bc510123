"""Every cell of the table: each change in each state, what comes of it or why it cannot be."""

from typing import Final

import pytest

from certd.errors import CertdError, Reason
from certd.model.managed_certificate import ManagedCertificateState
from certd.model.managed_certificate_states import Change, after
from certd.model.names import ManagedCertificateName

# Written as a picture, not derived from the code: a row for each change, a column for each state.
# P pending, A active, R revoked, F failed, - forbidden.
_PICTURE: Final = """
                   absent PENDING ACTIVE EXPIRED REVOKED FAILED
REQUESTED          P      -       -      -       -       -
IMPORTED           A      -       -      -       -       -
ISSUED             -      A       -      -       -       -
FAILED             -      F       -      -       -       -
RENEWAL_REQUESTED  -      -       A      A       R       -
RENEWED            -      -       A      A       A       -
REIMPORTED         -      -       A      A       A       -
ROLLED_BACK        -      -       A      A       -       -
VERSION_REVOKED    -      -       A      A       R       -
REVOKED_ALL        -      -       R      R       R       -
UPDATED            -      P       A      A       R       F
DELETED            -      P       A      A       R       F
"""
_LETTERS: Final = {state.value[0]: state for state in ManagedCertificateState}
NAME = ManagedCertificateName("default", "web")


def cells() -> list[tuple[ManagedCertificateState | None, Change, ManagedCertificateState | None]]:
    header, *rows = _PICTURE.strip().splitlines()
    states = [None if state == "absent" else ManagedCertificateState(state) for state in header.split()]
    return [
        (state, Change[change], None if letter == "-" else _LETTERS[letter])
        for change, *letters in (row.split() for row in rows)
        for state, letter in zip(states, letters, strict=True)
    ]


def test_the_picture_shows_every_pair() -> None:
    shown = [(state, change) for state, change, _ in cells()]
    assert len(shown) == len(set(shown))
    assert set(shown) == {(state, change) for state in (None, *ManagedCertificateState) for change in Change}


@pytest.mark.parametrize(("state", "change", "expected"), cells())
def test_each_change_in_each_state(
    state: ManagedCertificateState | None, change: Change, expected: ManagedCertificateState | None
) -> None:
    if expected is not None:
        assert after(state, change, NAME) is expected
        return
    with pytest.raises(CertdError) as refused:
        after(state, change, NAME)
    assert refused.value.reason is Reason.STATE_FORBIDS
    assert refused.value.resource == str(NAME)
    # What cannot be, and what to do.
    assert refused.value.message.startswith(f"{NAME} cannot be {change.value}: ")
    assert len(refused.value.message.split(": ")) >= 3


def test_what_is_computed_is_never_stored() -> None:
    assert ManagedCertificateState.EXPIRED not in {expected for _, _, expected in cells()}
