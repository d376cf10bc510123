"""Files that are still there after a power cut."""

import os
from pathlib import Path


def sync_softhsm(configuration: Path | None) -> None:
    """Writes to disk what SoftHSM has in files: it does not do so itself when it has made a key.

    A key that a certificate was made for must not be lost with the page cache. Does nothing for other tokens, which
    have no such configuration and keep what they have answered for.
    """
    for folder in _softhsm_folders(configuration) if configuration is not None else ():
        make_durable(folder)


def missing_softhsm(configuration: Path | None) -> Path | None:
    """Returns what SoftHSM keeps its token in and is not there, the outermost folder of it; None when all is there.

    What cannot be read is for the module to complain of, and so is the storage of other tokens.
    """
    if configuration is None:
        return None
    try:
        needed = [configuration]
        if configuration.exists():
            needed += _softhsm_folders(configuration)
        lacking = (one for path in needed for one in (*reversed(path.parents), path) if not one.exists())
        return next(lacking, None)
    except (OSError, ValueError):
        return None


def _softhsm_folders(configuration: Path) -> list[Path]:
    entries = (line.partition("=") for line in configuration.read_text().splitlines())
    return [Path(value.strip()) for key, _, value in entries if key.strip() == "directories.tokendir"]


def make_durable(directory: Path, *, deep: bool = True) -> None:
    """Writes a directory to disk, with `deep` everything below it as well."""
    for path in [directory, *(directory.rglob("*") if deep else ())]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
