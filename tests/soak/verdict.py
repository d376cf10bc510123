"""What must be true of what agents served, and of what their processes took."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version, as the server has it."""

    number: int
    issued: float
    """When it became current, in seconds since 1970; as are the times below."""
    certificate: bytes = field(repr=False)
    """DER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the files of an agent became at a moment."""

    time: float
    version: int
    certificate: bytes = field(repr=False)
    """DER."""
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an agent served, one thing after the other, up to `end`."""

    name: str
    managed: str
    began: float
    """When it was running; what became current before came late by no fault of anybody."""
    sights: Sequence[Sight]


@dataclass(slots=True)
class Served:
    """What is to be said of all machines."""

    delays: list[float] = field(default_factory=list)
    """Seconds from the issue of a version to the files."""
    least_left: float = float("inf")
    """Seconds that a certificate lived on after it was replaced, or after the end, at the least."""
    wrong: list[str] = field(default_factory=list)


def judge(
    machines: Sequence[Machine], versions: Mapping[str, Sequence[Version]], *, end: float, grace: float
) -> Served:
    """Returns what the machines served of these versions until `end`.

    A version that was current for longer than `grace` must have been in the files. What was in the files must be what
    the server issued, never go back to an earlier version, and have been replaced before its own end.
    """
    served = Served()
    for machine in machines:
        there = versions.get(machine.managed, ())
        served.wrong += _missed(machine, there, end=end, grace=grace)
        served.wrong += _strange(machine, there)
        first = {sight.version: sight.time for sight in reversed(machine.sights)}
        served.delays += [
            first[version.number] - version.issued
            for version in there
            if version.issued >= machine.began and version.number in first
        ]
        for sight, until in _spans(machine.sights, end):
            left = sight.not_after - until
            served.least_left = min(served.least_left, left)
            if left <= 0:
                served.wrong.append(
                    f"{machine.name} served version {sight.version} of {machine.managed} for {-left:.1f} s past its end"
                )
    return served


def _missed(machine: Machine, versions: Sequence[Version], *, end: float, grace: float) -> Iterator[str]:
    shown = {sight.version for sight in machine.sights}
    ends = [version.issued for version in versions[1:]] + [end]
    for version, until in zip(versions, ends, strict=True):
        current = until - max(version.issued, machine.began)
        if current > grace and version.number not in shown:
            yield (
                f"{machine.name} never had version {version.number} of {machine.managed},"
                f" which was current for {current:.1f} s"
            )


def _strange(machine: Machine, versions: Sequence[Version]) -> Iterator[str]:
    certificates = {version.number: version.certificate for version in versions}
    highest = 0
    for sight in machine.sights:
        if certificates.get(sight.version) != sight.certificate:
            yield f"{machine.name} had another certificate in version {sight.version} of {machine.managed} than issued"
        if sight.version < highest:
            yield f"{machine.name} went back from version {highest} of {machine.managed} to {sight.version}"
        highest = max(highest, sight.version)


def _spans(sights: Sequence[Sight], end: float) -> Iterator[tuple[Sight, float]]:
    """Yields each with the moment until which it was served."""
    return zip(sights, [*(sight.time for sight in sights), end][1:], strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a process took at a moment."""

    time: float
    mebibytes: float
    """Resident."""
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """By how much a process may grow."""

    mebibytes: float
    part: float
    """Of the memory that it had before, past those."""
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a process took once it had settled, and at its end."""

    process: str
    seconds: float
    """Between the two."""
    before: Sample
    after: Sample

    def complaints(self, bound: Bound) -> Iterator[str]:
        """Yields what grew that should not."""
        before, after = self.before, self.after
        if after.mebibytes > before.mebibytes * (1 + bound.part) + bound.mebibytes:
            yield self._told("memory", f"{before.mebibytes:.1f} to {after.mebibytes:.1f} MiB")
        if after.descriptors > before.descriptors + bound.descriptors:
            yield self._told("descriptors", f"{before.descriptors} to {after.descriptors}")
        if after.threads > before.threads + bound.threads:
            yield self._told("threads", f"{before.threads} to {after.threads}")

    def _told(self, what: str, how: str) -> str:
        return f"{what} of {self.process} grew from {how} in {self.seconds:.0f} s"


def growth(process: str, samples: Sequence[Sample], *, settle: float, window: float) -> Growth | None:
    """Returns how a process grew from when it had settled to its last moments; None when it lived too shortly.

    Medians of what it took in a window of each: a call that runs holds a descriptor, and it is no growth.
    """
    if not samples:
        return None
    began, ended = samples[0].time, samples[-1].time
    early = [each for each in samples if began + settle <= each.time <= began + settle + window]
    late = [each for each in samples if each.time >= ended - window]
    if not early or ended - window <= began + settle + window:
        return None
    before, after = _median(early), _median(late)
    return Growth(process=process, seconds=after.time - before.time, before=before, after=after)


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(
        time=statistics.median(each.time for each in samples),
        mebibytes=statistics.median(each.mebibytes for each in samples),
        descriptors=round(statistics.median(each.descriptors for each in samples)),
        threads=round(statistics.median(each.threads for each in samples)),
    )
