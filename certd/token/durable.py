"""Files that are still there after a power cut."""

import os
from pathlib import Path


def sync_softhsm(configuration: Path | None) -> None:
    """Writes to disk what SoftHSM has in files: it does not do so itself when it has made a key.

    A key that a certificate was made for must not be lost with the page cache. Does nothing for other tokens, which
    have no such configuration and keep what they have answered for.
    """
    for line in configuration.read_text().splitlines() if configuration is not None else ():
        key, _, value = line.partition("=")
        if key.strip() == "directories.tokendir":
            make_durable(Path(value.strip()))


def make_durable(directory: Path, *, deep: bool = True) -> None:
    """Writes a directory to disk, with `deep` everything below it as well."""
    for path in [directory, *(directory.rglob("*") if deep else ())]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
