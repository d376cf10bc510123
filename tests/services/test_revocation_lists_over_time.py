"""Whatever is issued, revoked, upgraded and ends, in whatever order: the right CRL says the right thing.

A seed decides what happens. A model, which knows nothing of rows, says what must and what must not stand on each CRL.
"""

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, CertificateName, ProfileName
from certd.services.certificates import CertificateView, NewCertificate
from certd.services.revocation import NewRevocation
from tests.services.conftest import ADMINISTRATOR, World, csr_for
from tests.services.revocation_books import Entry, entries, generated, number_of, partitioned

PARTITIONS = 2
GRACE = timedelta(minutes=10)
REASONS = [reason for reason in RevocationReason if reason is not RevocationReason.KEY_COMPROMISE]
EXPIRED_CERTIFICATES = x509.ObjectIdentifier("2.5.29.60")


@dataclass
class Known:
    """What the model knows of a certificate."""

    serial: str
    view: CertificateView
    partition: int
    code: bool
    entry: Entry | None = None

    @property
    def end(self) -> datetime:
        return self.view.certificate.not_after


@dataclass
class Model:
    """All certificates, and when each CRL was made last."""

    world: World
    draw: random.Random
    known: list[Known] = field(default_factory=list)
    made: dict[int, datetime] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    checked: int = 0

    def issue(self) -> None:
        code = self.draw.random() < 0.3
        new = NewCertificate(
            authority=AuthorityName("default", "ca"),
            csr=csr_for(subject="Example Code") if code else csr_for("www.example.internal"),
            profile=ProfileName("default", "code-signing") if code else None,
            lifetime=timedelta(hours=self.draw.randint(1, 100)),
        )
        view = self.world.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=60)
        serial = view.name.rpartition("/")[2]
        self.known.append(Known(serial, view, view.certificate.crl_partition or 0, code))

    def revoke(self) -> None:
        candidates = [one for one in self.known if one.entry is None and self.world.clock.now() <= one.end]
        if candidates:
            one = self.draw.choice(candidates)
            reason = self.draw.choice(REASONS)
            self._revoke(one, reason, None)
            told = None if reason is RevocationReason.UNSPECIFIED else reason.value
            one.entry = Entry(self._second(self.world.clock.now()), told, None)

    def upgrade(self) -> None:
        candidates = [one for one in self.known if one.entry is not None and one.entry.reason != "keyCompromise"]
        if candidates:
            one = self.draw.choice(candidates)
            begin, now = one.view.certificate.not_before, self.world.clock.now()
            since = begin + (now - begin) * self.draw.random()
            self._revoke(one, RevocationReason.KEY_COMPROMISE, since)
            assert one.entry is not None
            revoked = min(one.entry.revoke_time, self._second(since))
            one.entry = Entry(revoked, "keyCompromise", self._second(since))

    def _revoke(self, one: Known, reason: RevocationReason, since: datetime | None) -> None:
        new = NewRevocation(name=CertificateName.parse("name", one.view.name), reason=reason, invalidity_time=since)
        self.world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)

    def wait(self) -> None:
        self.world.clock.advance(timedelta(minutes=self.draw.choice([1, 7, 30, 60, 600, 3000])))

    def look(self) -> None:
        self.look_at(self.draw.randint(0, PARTITIONS))

    def look_at(self, partition: int) -> None:
        crl = generated(self.world, partition)
        found, before = entries(crl), self.made.get(partition, crl.last_update_utc)
        of_it = [one for one in self.known if partition in {0, one.partition}]
        assert set(found) <= {one.serial for one in of_it if one.entry is not None}
        for one in of_it:
            if one.entry is None:
                continue
            if one.code or one.end >= before:
                assert found[one.serial] == one.entry
            elif one.end < before - GRACE:
                assert one.serial not in found
        self._check_promise(crl, of_it, set(found))
        assert number_of(crl) > self.numbers.get(partition, 0)
        self.numbers[partition] = number_of(crl)
        self.made[partition] = crl.last_update_utc
        self.checked += len(found)

    @staticmethod
    def _check_promise(crl: x509.CertificateRevocationList, of_it: list[Known], found: set[str]) -> None:
        """What the CRL says of ended certificates is true: what ended since then and was revoked stands there."""
        promises = [one for one in crl.extensions if one.oid == EXPIRED_CERTIFICATES]
        assert bool(promises) == any(one.code and one.entry is not None for one in of_it)
        for promise in promises:
            assert isinstance(promise.value, x509.UnrecognizedExtension)
            since = datetime.strptime(promise.value.value[2:].decode() + "+0000", "%Y%m%d%H%M%SZ%z")
            assert {one.serial for one in of_it if one.entry is not None and one.end >= since} <= found

    @staticmethod
    def _second(moment: datetime) -> datetime:
        return moment.replace(microsecond=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_crl_says_what_happened(world: World, seed: int) -> None:
    world.core.scheduler.stop()
    world.create_root()
    world.create_subordinate(revocation=partitioned(PARTITIONS))
    model = Model(world, random.Random(seed))
    for _ in range(150):
        model.draw.choices([model.issue, model.revoke, model.upgrade, model.wait, model.look], weights=[6, 4, 1, 3, 4])[
            0
        ]()
    for partition in range(PARTITIONS + 1):
        model.look_at(partition)
    assert model.checked
