"""What systemd is told (sd_notify(3))."""

import os
import socket
from contextlib import suppress

from certd.agent.log import printable


def notify(*lines: str) -> None:
    """Sends lines such as `READY=1` to the manager that started this process, if it asked for them.

    Each stays one line, whatever is in it: the next would be another assignment.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect("\0" + address[1:] if address.startswith("@") else address)
        out.send("\n".join(map(printable, lines)).encode())
