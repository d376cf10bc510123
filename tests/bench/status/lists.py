"""What is measured of CRLs in a process of its own: the complete one and one of a partition."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from certd.model.revocation_list import RevocationListKey
from tests.bench.status.books import measured_memory, opened, timed, uid_of
from tests.services.conftest import ADMINISTRATOR, World


def main(folder: Path, now: datetime, *, partition: int) -> dict[str, Any]:
    """Returns the figures of the CRL of `partition` and of the complete one, of the books in `folder` as of `now`."""
    with opened(folder, now) as world:
        # The smaller one first: memory is counted at its highest.
        return {"partition": _sign(world, partition), "complete": _sign(world, 0)}


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
