"""The prepare process as the daemon spawns it: `python -I -m certd.prepare --fd N --parent-process-id P`."""

import argparse
import logging
import os
from pathlib import Path
from typing import get_args

from certd import log
from certd.ipc.child import InheritedSocket
from certd.pki.weak_keys import use_known_keys
from certd.prepare.known_keys import known_keys_of
from certd.prepare.process import run


def main() -> int:
    """Parses the command line and serves; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -I -m certd.prepare", description="Prepares certificates for the daemon that spawned it."
    )
    parser.add_argument("--log-level", choices=get_args(log.Level), default="info", help="events below it are dropped")
    parser.add_argument("--log-format", choices=get_args(log.Format), default="text", help="of the lines of the log")
    parser.add_argument("--known-weak-keys", type=Path, help="list of keys that are refused")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument("--parent-process-id", type=int, required=True, help="whose death ends this process")
    arguments = parser.parse_args()
    log.configure(level=arguments.log_level, style=arguments.log_format)
    if arguments.known_weak_keys is not None:
        use_known_keys(known_keys_of(arguments.known_weak_keys))
    run(InheritedSocket(arguments.fd), parent_process_id=arguments.parent_process_id)
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Whatever else would run at exit could open no file any more, and would complain of it in the daemon's log.
    os._exit(code)
