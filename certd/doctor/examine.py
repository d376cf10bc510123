"""Looks a whole server over."""

from collections.abc import Callable, Iterator
from pathlib import Path

from certd.clock import Clock
from certd.config import Config
from certd.doctor import books, machine, token
from certd.doctor.findings import Finding
from certd.errors import CertdError
from certd.ipc.users import become_owner_of
from certd.store.reader import Reader

Progress = Callable[[str, int, int], None]


def examine(
    settings: Config, config_file: Path, *, clock: Clock, everything: bool, progress: Progress
) -> Iterator[Finding]:
    """Yields what is found, beside a daemon that runs or without one; changes nothing but for uses of keys.

    Root becomes the daemon's user once it has looked at the machine.

    Args:
        settings: of the server.
        config_file: from which they come.
        clock: says when.
        everything: whether all that is sealed is opened, and not a sample.
        progress: hears how far it is.
    """
    now = clock.now()
    yield from machine.look(settings, config_file, now)
    # All that is looked at from here on is the daemon's, and the token process that is started for it.
    become_owner_of(settings.token.pin_file if settings.token.socket is None else settings.tls.private_key)
    try:
        reader = Reader.open(settings.database.url)
    except CertdError as failure:
        yield machine.unusable_books(failure)
        return
    try:
        yield from books.look(settings, reader, now)
        yield from token.look(settings, reader, everything=everything, progress=progress)
    except CertdError as failure:
        yield machine.unusable_books(failure)
    finally:
        reader.close()
