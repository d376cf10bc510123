"""How many files a process may have open; connections are files."""

import logging
import resource

_log = logging.getLogger("certd.ipc.open-files")


def allow_open_files(wanted: int) -> int:
    """Lets the process have so many open files, as far as the system lets it; returns how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        _log.warning(
            "the system lets certd have %d open files, and its connections may need %d: raise the limit"
            " (LimitNOFILE in a unit of systemd), or lower [limits] maximum_connections",
            allowed,
            wanted,
        )
    return allowed
