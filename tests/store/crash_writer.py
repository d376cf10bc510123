"""A process that writes in a loop until it is killed; a line on stdout for every write that was acknowledged.

Arguments: the URL of the database, and a prefix for what it writes.
"""

import itertools
import os
import sys
import threading

from certd.clock import SystemClock
from certd.store import tenants
from certd.store.store import Store, Transaction
from tests.store.samples import event, tenant

THREADS = 4


def write_forever(store: Store, prefix: str) -> None:
    for number in itertools.count():
        name = f"{prefix}-{number}"

        def work(tx: Transaction, name: str = name) -> None:
            tenants.insert(tx, tenant(name))
            tx.event(event(name, details={"half": "first"}))
            tx.event(event(name, details={"half": "second"}))

        store.write("crash", work)
        # One call for the whole line, so that lines of two threads do not mix.
        os.write(sys.stdout.fileno(), f"{name}\n".encode())


def main() -> None:
    url, prefix = sys.argv[1:]
    store = Store.open(url, clock=SystemClock())
    threads = [
        threading.Thread(target=write_forever, args=(store, f"{prefix}-{i}"), daemon=True) for i in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
