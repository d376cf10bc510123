"""openssl as a TLS server with an exported certificate and its key."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.interop.hierarchy import Exported
from tests.waiting import eventually


@contextmanager
def serving(exported: Exported, folder: Path) -> Iterator[int]:
    """Serves on a free port of the loopback, with the key as it was exported, and yields the port."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("openssl", "s_server", "-accept", "127.0.0.1:0", "-www"),
                *("-cert", str(exported.certificate), "-cert_chain", str(exported.chain)),
                *("-key", str(exported.encrypted_key), "-pass", f"file:{exported.passphrase}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def port() -> int | None:
        assert process.poll() is None, log.read_text()
        found = re.search(r"^ACCEPT .*:(\d+)$", log.read_text(), re.MULTILINE)
        return int(found.group(1)) if found else None

    try:
        yield eventually(port)
    finally:
        process.kill()
        process.wait()
