"""Books with very many certificates, which nobody issued: rows in the number that is wanted, made by the database."""

import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from certd import main
from certd.model.names import AuthorityName, CertificateName
from certd.services.authorities import existing_authority
from certd.token.settings import TokenSettings
from certd.token.softhsm import find_module
from tests.fakes import FakeClock
from tests.services.conftest import Steps, World, configuration, running_world
from tests.services.revocation_books import partitioned
from tests.softhsm import make_token

CA = AuthorityName("default", "ca")
PARTITIONS = 16
_CERTIFICATES = """
    WITH RECURSIVE counted(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :count)
    INSERT INTO certificates (
        authority_uid, serial, issuer_name_sha256, key_number, state, tbs, der, profile, subject_text, not_before,
        not_after, public_key_sha256, labels, owner_epoch, create_time, profile_version, key_spec, crl_partition
    )
    SELECT authority_uid, '5b' || substr('000000000000000000000000000000' || number, -30), issuer_name_sha256,
           key_number, 'ISSUED', NULL, der, profile, subject_text, not_before,
           not_after + number * 1000000, randomblob(32), labels, owner_epoch, create_time + number, profile_version,
           key_spec, 1 + number % :partitions
    FROM counted, (SELECT * FROM certificates WHERE serial = :serial)
"""
_REVOKE = """
    UPDATE certificates
    SET state = 'REVOKED', revocation_reason = 'superseded', revoke_time = create_time + 1000000
    WHERE serial BETWEEN '5b000000000000000000000000000000' AND :last
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A folder with the database and the token of a server that was stopped."""

    folder: Path
    now: datetime

    def run(self, part: str, **arguments: object) -> dict[str, Any]:
        """Runs a part in a process of its own, whose memory is its own; returns what it prints."""
        command = [sys.executable, "-m", f"tests.bench.status.{part}", str(self.folder), self.now.isoformat()]
        command += [json.dumps(arguments)]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        measured: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        return measured


def make_books(folder: Path, *, certificates: int) -> Books:
    """Makes an authority with so many certificates, none of them revoked."""
    clock = FakeClock(datetime.now(UTC))
    config = configuration(folder, make_token(folder))
    with running_world(config, clock) as world:
        world.create_root()
        world.create_subordinate(revocation=partitioned(PARTITIONS))
        issued = world.issue("www.example.internal")
    serial = CertificateName.parse("name", issued.name).serial
    _execute(folder, _CERTIFICATES, count=certificates, partitions=PARTITIONS, serial=serial)
    return Books(folder=folder, now=clock.now())


def copied(books: Books, folder: Path) -> Books:
    """Returns a copy of books, in a folder that is made. Both use the token of the first, one at a time."""
    shutil.copytree(books.folder, folder)
    return replace(books, folder=folder)


def _execute(folder: Path, statement: str, **values: object) -> None:
    """Executes a statement on the database of a server that is stopped, as fast as it goes: nothing of it is missed."""
    with closing(sqlite3.connect(folder / "certd.db")) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute(statement, values)
        connection.commit()


def revoke_rows(books: Books, count: int) -> None:
    """Has the first `count` certificates revoked, without any of what follows from a revocation."""
    _execute(books.folder, _REVOKE, last=serial_of(count))


def serial_of(number: int) -> str:
    """Returns the serial of a certificate, counted from 1."""
    return f"5b{number:030}"


@contextmanager
def opened(folder: Path, now: datetime) -> Iterator[World]:
    """Runs the server; without its scheduler, so that nothing happens but what is measured."""
    place = folder / "token"
    token = TokenSettings(
        module=find_module(), label="certd test", pin_file=place / "pin", softhsm_conf=place / "softhsm2.conf"
    )
    clock, steps = FakeClock(now), Steps()
    core = main.assemble(configuration(folder, token), clock=clock, step=steps)
    core.start()
    try:
        core.scheduler.stop()
        yield World(core=core, clock=clock, steps=steps)
    finally:
        core.stop()


def uid_of(world: World) -> str:
    """Returns the uid of the authority."""
    with world.core.store.read("bench.authority") as tx:
        return existing_authority(tx, CA).uid


def measured_memory() -> int:
    """Returns the most bytes that this process had at once."""
    # What getrusage tells is that of the parent, too, while it was larger.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Returns how many seconds a call takes by the clock, and how many of this process."""
    began, began_processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_processor
