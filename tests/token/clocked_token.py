"""A token process with a clock that a test moves: a file holds its time, in RFC 3339; without the file it is now.

clocked_token.py CLOCK_FILE  then the arguments of certd.token
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from certd.ipc.channel import Channel, SpawnedChild
from certd.token.__main__ import main
from certd.token.client import TokenClient
from certd.token.settings import TokenSettings


class FileClock:
    """The time in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> datetime:
        return datetime.fromisoformat(self._file.read_text()) if self._file.exists() else datetime.now(UTC)


def set_clock(file: Path, now: datetime) -> None:
    unfinished = file.with_suffix(".new")
    unfinished.write_text(now.isoformat())
    unfinished.rename(file)


def start_clocked(settings: TokenSettings, clock_file: Path) -> TokenClient:
    """Starts a token process that takes its time from the file; `wait_ready` waits for the token."""
    channel = Channel(
        SpawnedChild((sys.executable, __file__, str(clock_file), *settings.arguments())), name="token process"
    )
    channel.start()
    return TokenClient(channel)


if __name__ == "__main__":
    clock_file = Path(sys.argv.pop(1))
    sys.exit(main(clock=FileClock(clock_file)))
