"""The verdict over a soak: what it finds, and what it lets pass."""

from collections.abc import Sequence

from tests.soak.run import Plan
from tests.soak.server import DAEMON, TOKEN
from tests.soak.verdict import Bound, Machine, Sample, Served, Sight, Version, growth, judge

BOUND = Bound(mebibytes=4, part=0.1, descriptors=3, threads=4)


def version(number: int, issued: float) -> Version:
    return Version(number=number, issued=issued, certificate=b"%d" % number)


def sight(number: int, time: float, *, not_after: float = 1000, certificate: bytes = b"") -> Sight:
    return Sight(time=time, version=number, certificate=certificate or b"%d" % number, not_after=not_after)


def verdict(*sights: Sight, began: float = 5, end: float = 100, versions: Sequence[Version] = ()) -> Served:
    machine = Machine(name="one", managed="web", began=began, sights=sights)
    issued = versions or [version(1, 0), version(2, 20), version(3, 60)]
    return judge([machine], {"web": issued}, end=end, grace=10)


def test_every_version_that_came_is_right_and_its_delay_told() -> None:
    served = verdict(sight(1, 1, not_after=30), sight(2, 21, not_after=70), sight(3, 64, not_after=120))
    # The first was issued before the machine was there.
    assert (served.wrong, served.delays, served.least_left) == ([], [1, 4], 6)


def test_a_version_that_never_came_is_found() -> None:
    served = verdict(sight(1, 1), sight(3, 64))
    assert served.wrong == ["one never had version 2 of web, which was current for 40.0 s"]
    assert verdict().wrong == [
        f"one never had version {number} of web, which was current for {seconds:.1f} s"
        for number, seconds in ((1, 15), (2, 40), (3, 40))
    ]


def test_a_version_that_was_current_for_a_moment_need_not_come() -> None:
    assert verdict(sight(2, 21), sight(3, 64), began=11).wrong == []
    assert verdict(sight(1, 1), sight(2, 21), end=69).wrong == []
    assert verdict(sight(1, 1), sight(2, 21), end=71).wrong != []


def test_a_certificate_past_its_end_is_found() -> None:
    served = verdict(sight(1, 1, not_after=20), sight(2, 21.5), sight(3, 64))
    assert served.wrong == ["one served version 1 of web for 1.5 s past its end"]
    assert served.least_left == -1.5
    at_the_end = verdict(sight(1, 1), sight(2, 21), sight(3, 64, not_after=99))
    assert at_the_end.wrong == ["one served version 3 of web for 1.0 s past its end"]


def test_another_certificate_and_an_earlier_version_are_found() -> None:
    served = verdict(sight(1, 1), sight(2, 21, certificate=b"other"), sight(3, 64))
    assert served.wrong == ["one had another certificate in version 2 of web than issued"]
    assert verdict(sight(1, 1), sight(2, 21), sight(3, 64), sight(2, 70)).wrong == [
        "one went back from version 3 of web to 2"
    ]


def samples(values: Sequence[float]) -> list[Sample]:
    return [
        Sample(time=second, mebibytes=value, descriptors=round(value), threads=round(value))
        for second, value in enumerate(values)
    ]


def test_growth_counts_from_when_a_process_has_settled() -> None:
    found = growth("it", samples([*range(30), *[30] * 70]), settle=30, window=10)
    assert found is not None
    assert list(found.complaints(BOUND)) == []
    assert found.seconds == 59
    # A moment in which it took more is none.
    assert growth("it", samples([30] * 95 + [99] + [30] * 4), settle=30, window=10) == growth(
        "it", samples([30] * 100), settle=30, window=10
    )


def test_growth_is_told() -> None:
    found = growth("it", samples(range(100)), settle=20, window=10)
    assert found is not None
    assert list(found.complaints(BOUND)) == [
        "memory of it grew from 25.0 to 94.0 MiB in 69 s",
        "descriptors of it grew from 25 to 94 in 69 s",
        "threads of it grew from 25 to 94 in 69 s",
    ]


def test_who_lived_too_shortly_is_not_compared() -> None:
    assert growth("it", [], settle=20, window=10) is None
    assert growth("it", samples(range(40)), settle=20, window=10) is None
    assert growth("it", samples(range(42)), settle=20, window=10) is not None


def test_deaths_come_at_moments_of_their_own_and_again_with_the_same_seed() -> None:
    def plan(seed: int) -> Plan:
        return Plan(agents=1, certificates=1, seconds=600, lifetime=120, remaining_percent=33, kills=2, seed=seed)

    deaths = plan(1).deaths()
    assert deaths == plan(1).deaths() != plan(2).deaths()
    assert sorted(victim for _, victim in deaths) == [DAEMON, DAEMON, TOKEN, TOKEN]
    times = [time for time, _ in deaths]
    assert times == sorted(times)
    assert times[0] >= 120
    assert times[-1] <= 360
