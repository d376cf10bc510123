"""Serial numbers: positive, of one length, never guessed, and those of one moment beside each other."""

from datetime import UTC, datetime, timedelta

import pytest

from certd.services.issuance import new_serial

_NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
_MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    _NOW,
    # The time in them begins again here.
    datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
]


@pytest.mark.parametrize("moment", _MOMENTS, ids=str)
def test_they_are_positive_and_of_sixteen_octets(moment: datetime) -> None:
    """RFC 5280, section 4.1.2.2: the highest bit of the first octet is clear, so that DER adds none."""
    for _ in range(100):
        assert new_serial(moment).bit_length() == 127


def test_those_of_one_moment_differ_in_more_than_sixty_four_bits() -> None:
    serials = [new_serial(_NOW) for _ in range(1000)]
    assert len(set(serials)) == len(serials)
    differing = 0
    for serial in serials:
        differing |= serial ^ serials[0]
    assert differing.bit_count() > 80


def test_those_of_a_later_moment_are_greater() -> None:
    moments = [_NOW + timedelta(milliseconds=4 * number) for number in range(100)]
    serials = [new_serial(moment) for moment in moments]
    assert serials == sorted(serials)
