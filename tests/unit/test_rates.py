"""How often callers may call, and how the callers of a tenant share what it may."""

import pytest

from certd.errors import CertdError, Reason
from certd.services.rates import Rates, tenant_of

ALICE = "spiffe://certd.test/identities/alice"
BOB = "spiffe://certd.test/identities/bob"


class Seconds:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def of_tenant(tenant: str, name: str) -> str:
    return f"spiffe://certd.test/tenants/{tenant}/identities/{name}"


def taken(rates: Rates, principal: str, *, tries: int) -> int:
    """How many of so many calls at once are let in."""
    return sum(refusal(rates, principal) is None for _ in range(tries))


def refusal(rates: Rates, principal: str) -> CertdError | None:
    try:
        rates.take(principal)
    except CertdError as error:
        return error
    return None


def test_a_burst_and_then_the_rate() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=10, burst=5, clock=seconds)
    assert taken(rates, ALICE, tries=20) == 5
    seconds.now += 0.3001
    assert taken(rates, ALICE, tries=20) == 3
    seconds.now += 3600
    assert taken(rates, ALICE, tries=20) == 5, "a pause earns a burst and no more"


def test_over_a_long_time_the_rate_is_what_was_set_however_often_is_asked() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=10, burst=1, clock=seconds)
    let_in = 0
    for _ in range(10_000):
        seconds.now += 0.001
        let_in += taken(rates, ALICE, tries=1)
    assert 99 <= let_in <= 101


def test_a_refusal_names_the_caller_and_when_a_call_is_let_in_again() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=2, burst=1, clock=seconds)
    rates.take(ALICE)
    refused = refusal(rates, ALICE)
    assert refused is not None
    assert (refused.reason, refused.resource) == (Reason.RATE_LIMITED, ALICE)
    assert refused.retry_after is not None
    assert 0.5 <= refused.retry_after <= 1.0
    seconds.now += refused.retry_after
    assert refusal(rates, ALICE) is None


def test_callers_have_a_rate_each() -> None:
    rates = Rates(calls_per_second=10, burst=5, clock=Seconds())
    assert taken(rates, ALICE, tries=20) == 5
    assert taken(rates, BOB, tries=20) == 5


def test_the_callers_of_a_tenant_have_its_rate_together_and_others_do_not_pay_for_it() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=1000, burst=1000, of_tenant=lambda _tenant: 8, clock=seconds)
    names = [of_tenant("acme", f"c{number}") for number in range(16)]
    assert sum(taken(rates, name, tries=1) for name in names) == 16, "two seconds' worth at once"
    refused = refusal(rates, names[0])
    assert refused is not None
    assert (refused.reason, refused.resource) == (Reason.RATE_LIMITED, "tenants/acme")
    assert taken(rates, of_tenant("other", "c0"), tries=1) == 1
    assert taken(rates, ALICE, tries=100) == 100
    seconds.now += 0.126
    assert sum(taken(rates, name, tries=1) for name in names) == 1


def test_who_takes_all_of_a_tenants_rate_does_not_shut_out_the_others() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=10_000, burst=10_000, of_tenant=lambda _tenant: 80, clock=seconds)
    greedy, modest = of_tenant("acme", "greedy"), of_tenant("acme", "modest")
    let_in = {greedy: 0, modest: 0}
    for tick in range(10_000):
        seconds.now += 0.001
        let_in[greedy] += taken(rates, greedy, tries=3)
        if tick % 200 == 199:
            let_in[modest] += taken(rates, modest, tries=1)
    assert let_in[modest] == 50, "five calls in a second, each let in"
    assert let_in[greedy] + let_in[modest] >= 80 * 10, "nothing of the rate is left unused"
    assert let_in[greedy] + let_in[modest] <= 80 * (10 + 2)


def test_the_rate_of_a_tenant_may_change_at_any_time() -> None:
    seconds, allowed = Seconds(), {"acme": 8.0}
    rates = Rates(calls_per_second=1000, burst=1000, of_tenant=allowed.get, clock=seconds)
    caller = of_tenant("acme", "c")
    assert taken(rates, caller, tries=100) < 20
    del allowed["acme"]
    assert taken(rates, caller, tries=100) == 100


def test_what_the_tenant_is_read_with_may_fail_and_counts_nothing() -> None:
    def fails(_tenant: str) -> float | None:
        raise CertdError(Reason.STORE_UNAVAILABLE, "the store is away")

    rates = Rates(of_tenant=fails)
    with pytest.raises(CertdError):
        rates.take(of_tenant("acme", "c"))
    rates.take(ALICE)


def test_the_table_is_bounded_and_keeps_who_called_lately() -> None:
    seconds = Seconds()
    rates = Rates(calls_per_second=1, burst=2, clock=seconds, most=10)
    assert taken(rates, ALICE, tries=9) == 2
    for number in range(9):
        rates.take(f"spiffe://certd.test/oidc/ci/{number}")
    seconds.now += 1.5
    for number in range(9, 1000):
        rates.take(f"spiffe://certd.test/oidc/ci/{number}")
    assert len(rates._spent) <= 10
    seconds.now = 1000.0
    rates = Rates(calls_per_second=1, burst=2, clock=seconds, most=10)
    for number in range(9):
        rates.take(f"spiffe://certd.test/oidc/ci/{number}")
    seconds.now += 5
    assert taken(rates, ALICE, tries=9) == 2
    for number in range(3):
        rates.take(f"spiffe://certd.test/oidc/new/{number}")
    assert taken(rates, ALICE, tries=9) == 0, "who called lately is remembered"


@pytest.mark.parametrize(
    ("principal", "tenant"),
    [
        (of_tenant("acme", "web"), "acme"),
        (ALICE, None),
        ("spiffe://certd.test/oidc/ci/tenants/acme/identities/x", None),
        ("spiffe://certd.test/tenants/acme/agents/x", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_the_tenant_of_a_principal(principal: str, tenant: str | None) -> None:
    assert tenant_of(principal) == tenant
