"""Wrong codes: who comes with them waits, nobody else does, and whatever they choose is remembered up to a bound."""

import threading
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.pki.download_code import download_code_invalid
from certd.services.code_guesses import FROM_A_NETWORK, LOOKS, OTHERS, Guesses
from certd.services.source_networks import network_of, site_of, source_of
from tests.fakes import FakeClock

NOW = datetime(2026, 11, 30, 12, 0, 20, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)
CLOCK = FakeClock(NOW)


def _guesses(**limits: int) -> Guesses:
    return Guesses(kind="download codes", reason=Reason.DOWNLOAD_CODE_INVALID, **limits)


def _wrong() -> NoReturn:
    raise download_code_invalid()


def _reason(guesses: Guesses, address: str, clock: Clock = CLOCK) -> Reason:
    """What somebody with a wrong code is told."""
    with pytest.raises(CertdError) as refused:
        guesses.attempt(address, clock, _wrong)
    return refused.value.reason


def _told_to_wait(guesses: Guesses, *addresses: str) -> None:
    for address in addresses:
        for _ in range(FROM_A_NETWORK):
            assert _reason(guesses, address) is Reason.DOWNLOAD_CODE_INVALID
        assert _reason(guesses, address) is Reason.RATE_LIMITED


def test_a_network_is_what_its_owner_chooses_from() -> None:
    assert {network_of(address) for address in ("192.0.2.1", "192.0.2.255", "::ffff:192.0.2.9")} == {"192.0.2.0/24"}
    assert network_of("192.0.3.1") == "192.0.3.0/24"
    assert {network_of(address) for address in ("2001:db8::1", "2001:db8::ffff:0:0:1")} == {"2001:db8::/64"}
    assert [network_of(address) for address in ("2001:db8:0:1::1", "::1", "fe80::1%eth0")] == [
        "2001:db8:0:1::/64",
        "::/64",
        "fe80::/64",
    ]
    assert [
        site_of(address) for address in ("192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:ffff::", "2001:db8:1::", "")
    ] == [*("192.0.2.0/24", "2001:db8::/48", "2001:db8::/48", "2001:db8:1::/48", "unknown")]
    assert [source_of(address) for address in ("192.0.2.1", "::ffff:192.0.2.9", "2001:db8::1", "", "x")] == [
        *("192.0.2.1", "192.0.2.9", "2001:db8::/64", "unknown", "unknown")
    ]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", ""])
def test_a_network_waits_for_the_next_minute(address: str) -> None:
    guesses = _guesses()
    _told_to_wait(guesses, address)
    with pytest.raises(CertdError) as refused:
        guesses.attempt(address, CLOCK, _wrong)
    assert refused.value.retry_after == 40.0
    assert refused.value.__cause__ is None
    assert _reason(guesses, "198.51.100.1") is Reason.DOWNLOAD_CODE_INVALID
    assert _reason(guesses, address, FakeClock(NOW + _MINUTE)) is Reason.DOWNLOAD_CODE_INVALID


def test_a_right_code_lets_in_from_a_network_that_waits() -> None:
    guesses = _guesses()
    _told_to_wait(guesses, "192.0.2.1")
    assert [guesses.attempt("192.0.2.2", CLOCK, lambda: "right") for _ in range(50)] == ["right"] * 50
    # Those do not let a wrong one in.
    assert _reason(guesses, "192.0.2.2") is Reason.RATE_LIMITED


def test_other_errors_are_no_guesses() -> None:
    guesses = _guesses()

    def failing() -> NoReturn:
        raise field_invalid("name", "is none")

    def attempt(address: str) -> None:
        with pytest.raises(CertdError) as failed:
            guesses.attempt(address, CLOCK, failing)
        assert failed.value.reason is Reason.FIELD_INVALID

    for _ in range(FROM_A_NETWORK + 1):
        attempt("192.0.2.1")
    assert _reason(guesses, "192.0.2.1") is Reason.DOWNLOAD_CODE_INVALID
    _told_to_wait(guesses, "198.51.100.1")
    for _ in range(LOOKS + 1):
        attempt("198.51.100.1")


def test_one_network_that_waits_has_one_code_looked_up_at_once() -> None:
    guesses = _guesses()
    _told_to_wait(guesses, "192.0.2.1", "198.51.100.1")

    def look() -> str:
        with pytest.raises(CertdError) as shed:
            guesses.attempt("192.0.2.2", CLOCK, lambda: "right")
        assert shed.value.reason is Reason.RATE_LIMITED
        assert 1.0 <= (shed.value.retry_after or 0) <= 2.0
        # Another one, and one from which nothing wrong came, go on meanwhile.
        return guesses.attempt("198.51.100.2", CLOCK, lambda: guesses.attempt("203.0.113.1", CLOCK, lambda: "right"))

    assert guesses.attempt("192.0.2.1", CLOCK, look) == "right"
    assert guesses.attempt("192.0.2.2", CLOCK, lambda: "right") == "right"


def test_few_networks_that_wait_are_looked_up_at_once_and_others_without_limit() -> None:
    guesses = _guesses()
    networks = [f"192.0.{number}.1" for number in range(LOOKS + 1)]
    _told_to_wait(guesses, *networks)
    inside, leave = threading.Barrier(LOOKS + 1), threading.Event()

    def look() -> str:
        inside.wait(60)
        assert leave.wait(60)
        return "right"

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda address=address: found.append(guesses.attempt(address, CLOCK, look)))
        for address in networks[:LOOKS]
    ]
    for thread in threads:
        thread.start()
    try:
        inside.wait(60)
        with pytest.raises(CertdError) as shed:
            guesses.attempt(networks[-1], CLOCK, lambda: "right")
        assert shed.value.reason is Reason.RATE_LIMITED
        assert guesses.attempt("203.0.113.1", CLOCK, lambda: "right") == "right"
    finally:
        leave.set()
        for thread in threads:
            thread.join(60)
    assert found == ["right"] * LOOKS
    assert guesses.attempt(networks[-1], CLOCK, lambda: "right") == "right"


def test_so_many_networks_are_remembered_and_the_last_ones_stay() -> None:
    guesses = _guesses(networks=3)
    _told_to_wait(guesses, "192.0.0.1", "192.0.1.1", "192.0.2.1")
    # It comes again, so that another one is the longest ago.
    assert _reason(guesses, "192.0.0.1") is Reason.RATE_LIMITED
    assert _reason(guesses, "192.0.9.1") is Reason.DOWNLOAD_CODE_INVALID
    assert len(guesses._wrong) == 3
    assert _reason(guesses, "192.0.0.1") is Reason.RATE_LIMITED
    assert _reason(guesses, "192.0.1.1") is Reason.DOWNLOAD_CODE_INVALID


def test_so_many_addresses_are_told_by_their_names() -> None:
    guesses = _guesses(told=2)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "192.0.2.1"):
        _reason(guesses, address)
    assert not guesses.take(NOW)
    taken = guesses.take(NOW + _MINUTE)
    assert [(one.address, one.count) for one in taken] == [("192.0.2.1", 2), ("192.0.2.2", 1), (OTHERS, 2)]
    assert not guesses.take(NOW + _MINUTE)
    guesses.give_back(taken)
    assert guesses.take(NOW + _MINUTE) == taken


def test_a_look_that_began_in_the_minute_before_forgets_nothing_of_this_one() -> None:
    guesses, clock = _guesses(), FakeClock(NOW)

    def slow() -> NoReturn:
        clock.advance(_MINUTE)
        for _ in range(FROM_A_NETWORK - 1):
            assert _reason(guesses, "192.0.2.1", clock) is Reason.DOWNLOAD_CODE_INVALID
        raise download_code_invalid()

    with pytest.raises(CertdError) as refused:
        guesses.attempt("192.0.2.1", clock, slow)
    assert refused.value.reason is Reason.DOWNLOAD_CODE_INVALID
    assert _reason(guesses, "192.0.2.1", clock) is Reason.RATE_LIMITED
