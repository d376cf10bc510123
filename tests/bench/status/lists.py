"""What is measured of CRLs in a process of its own: start, revocations, the complete one and one of a partition."""

import json
import statistics
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from certd.model.certificate import RevocationReason
from certd.model.names import CertificateName
from certd.model.revocation_list import RevocationListKey
from certd.services.revocation import NewRevocation
from tests.bench.status.books import CA, measured_memory, opened, serial_of, timed, uid_of
from tests.services.conftest import ADMINISTRATOR, World


def main(folder: Path, now: datetime, *, first: int, revocations: int, partition: int) -> dict[str, Any]:
    """Returns the figures.

    Args:
        folder: of the books.
        now: the time in them.
        first: number of the first certificate that is revoked.
        revocations: how many are, one after the other.
        partition: whose CRL is signed.
    """
    began = time.perf_counter()
    with opened(folder, now) as world:
        started = time.perf_counter() - began
        taken = [timed(partial(_revoke, world, number))[0] for number in range(first, first + revocations)]
        return {
            "start_seconds": round(started, 3),
            "revocation_milliseconds": round(statistics.median(taken) * 1000, 3),
            # The smaller one first: memory is counted at its highest.
            "partition": _sign(world, partition),
            "complete": _sign(world, 0),
        }


def _revoke(world: World, number: int) -> None:
    name = CertificateName(CA.tenant, CA.authority, serial_of(number))
    new = NewRevocation(name=name, reason=RevocationReason.SUPERSEDED, invalidity_time=None)
    world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)


def _sign(world: World, partition: int) -> dict[str, Any]:
    key, before = RevocationListKey(uid_of(world), 1, partition), measured_memory()
    seconds, processor_seconds = timed(lambda: world.core.publication.list_signing.sign(key, ADMINISTRATOR.principal))
    found = world.core.publication.published_lists.find(*key)
    return {
        "entries": found.entry_count,
        "bytes": found.size_bytes,
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor_seconds, 3),
        "more_memory_bytes": measured_memory() - before,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), **json.loads(sys.argv[3]))))
