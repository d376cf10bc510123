"""What is measured of revocations in a process of its own: the start of the daemon, and some, one after the other."""

import json
import statistics
import sys
import time
from datetime import datetime
from functools import partial
from pathlib import Path

from certd.model.certificate import RevocationReason
from certd.model.names import CertificateName
from certd.services.revocation import NewRevocation
from tests.bench.status.books import CA, opened, serial_of, timed
from tests.services.conftest import ADMINISTRATOR, World


def main(folder: Path, now: datetime, *, first: int, revocations: int) -> dict[str, float]:
    """Returns the figures.

    Args:
        folder: of the books.
        now: the time in them.
        first: number of the first certificate that is revoked.
        revocations: how many are.
    """
    began = time.perf_counter()
    with opened(folder, now) as world:
        started = time.perf_counter() - began
        taken = [timed(partial(_revoke, world, number))[0] for number in range(first, first + revocations)]
    return {
        "start_seconds": round(started, 3),
        "revocation_milliseconds": round(statistics.median(taken) * 1000, 3),
    }


def _revoke(world: World, number: int) -> None:
    name = CertificateName(CA.tenant, CA.authority, serial_of(number))
    new = NewRevocation(name=name, reason=RevocationReason.SUPERSEDED, invalidity_time=None)
    world.core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), **json.loads(sys.argv[3]))))
