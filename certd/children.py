"""The processes beside the daemon, as the configuration wants them: token process and prepare processes."""

from certd.config import Config, token_settings
from certd.pki.weak_keys import use_known_keys
from certd.prepare.client import Preparer, default_workers
from certd.prepare.known_keys import known_keys_of
from certd.token.client import TokenClient, connect, start_child


def token_client(config: Config) -> TokenClient:
    """Returns the client of a token process that runs by itself, or of one that is started as a child."""
    if config.token.socket is not None:
        return connect(config.token.socket)
    return start_child(token_settings(config))


def use_known_keys_of(config: Config) -> None:
    """Reads the list of weak keys while nothing is open yet. FIELD_INVALID when it is none."""
    known_weak_keys = config.prepare.known_weak_keys
    if known_weak_keys is not None:
        # The daemon looks too: at what it prepares itself, and at the CSRs that profiles are tried with.
        use_known_keys(known_keys_of(known_weak_keys))


def start_preparer(config: Config) -> Preparer:
    """Starts the prepare processes."""
    processes = config.prepare.processes
    known_weak_keys = config.prepare.known_weak_keys
    arguments = [f"--log-level={config.log.level}", f"--log-format={config.log.format}"]
    if known_weak_keys is not None:
        arguments.append(f"--known-weak-keys={known_weak_keys}")
    preparer = Preparer(default_workers() if processes is None else processes, arguments)
    preparer.start()
    return preparer
