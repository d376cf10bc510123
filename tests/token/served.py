"""A token process behind a unix socket: `served.py '{json}'`. As root it becomes another user first.

Everything is imported before, because that user may not read the interpreter's directory.
"""

import json
import logging
import os
import sys
from pathlib import Path

import pkcs11._pkcs11  # noqa: F401  # Loaded before the change of user; the module is loaded after.

from certd.ipc.child import UnixListener
from certd.token.process import run
from certd.token.settings import TokenSettings


def main() -> None:
    options = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO)
    if "user_id" in options:
        os.setgroups([])
        os.setgid(options["user_id"])
        os.setuid(options["user_id"])
    settings = TokenSettings(
        module=Path(options["module"]),
        label=options["label"],
        pin_file=Path(options["pin_file"]),
        softhsm_conf=Path(options["softhsm_conf"]),
    )
    listener = UnixListener(
        path=Path(options["socket"]),
        allowed_user_ids=frozenset(options["allowed"]),
        mode=options["mode"],
        maximum_connections=options.get("connections", 16),
    )
    run(settings, listener)


if __name__ == "__main__":
    main()
