"""The token process as the daemon spawns it: `python -I -m certd.token --fd N --parent-process-id P …`."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from certd import log
from certd.clock import Clock
from certd.errors import CertdError
from certd.ipc.child import InheritedSocket
from certd.token.module import Module
from certd.token.process import run
from certd.token.settings import TokenSettings


def main(make_module: Callable[[TokenSettings], Module] = Module, clock: Clock | None = None) -> int:
    """Parses the command line and serves; returns the exit code. Tests give a module that fails, or a clock."""
    parser = argparse.ArgumentParser(
        prog="python -I -m certd.token", description="The only program that holds the PIN."
    )
    parser.add_argument("--module", type=Path, required=True, help="the PKCS#11 module")
    parser.add_argument("--label", required=True, help="label of the token")
    parser.add_argument("--pin-file", type=Path, required=True, help="file with the user's PIN, mode 0600")
    parser.add_argument("--softhsm-conf", type=Path, help="configuration of SoftHSM")
    parser.add_argument("--lock-file", type=Path, help="lock shared by every certd program on the host")
    parser.add_argument("--exports-per-minute", type=int, default=600, help="keys that may leave in a minute")
    parser.add_argument("--system-roots", type=Path, help="PEM of the roots by which consumers are known")
    parser.add_argument("--leases-per-minute", type=int, default=6000, help="keys that consumers may get in a minute")
    parser.add_argument("--imports-per-minute", type=int, default=6000, help="keys that may be imported in a minute")
    parser.add_argument("--queue-length", type=int, default=1024, help="calls that may wait")
    parser.add_argument("--journal", type=Path, help="folder of the journal, of this process's user alone")
    parser.add_argument("--recovery-public-key", type=Path, help="PEM of the key to which wrapping keys are in escrow")
    parser.add_argument("--log-level", choices=get_args(log.Level), default="info", help="events below it are dropped")
    parser.add_argument("--log-format", choices=get_args(log.Format), default="text", help="of the lines of the log")
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket")
    parser.add_argument("--parent-process-id", type=int, required=True, help="whose death ends this process")
    arguments = parser.parse_args()
    settings = TokenSettings(
        module=arguments.module,
        label=arguments.label,
        pin_file=arguments.pin_file,
        softhsm_conf=arguments.softhsm_conf,
        lock_file=arguments.lock_file,
        exports_per_minute=arguments.exports_per_minute,
        system_roots_file=arguments.system_roots,
        leases_per_minute=arguments.leases_per_minute,
        imports_per_minute=arguments.imports_per_minute,
        queue_length=arguments.queue_length,
        journal_folder=arguments.journal,
        recovery_public_key_file=arguments.recovery_public_key,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
    )
    log.configure(level=settings.log_level, style=settings.log_format)
    try:
        run(
            settings,
            InheritedSocket(arguments.fd),
            parent_process_id=arguments.parent_process_id,
            make_module=make_module,
            clock=clock,
        )
    except CertdError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400  # The message says all; a traceback would hide it.
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
