"""A receiver of webhooks or mail as a program of its own, to be killed: `KIND FOLDER PORT REFUSED`.

Before it answers that it has taken something it writes that down. Of what comes it refuses a share, or says that it
takes nothing now. It prints its port when it serves.
"""

import base64
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.mail_server import Mailed, running_mail_server
from tests.webhooks import Received, running_receiver, send

WEBHOOK, MAIL = "webhook", "mail"


class Log:
    """What was taken, a line each; a line is written at once or not at all."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def write(self, **entry: Any) -> None:
        os.write(self._descriptor, json.dumps(entry).encode() + b"\n")


def log_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.log"


@contextmanager
def _running(kind: str, folder: Path, port: int, refused: float) -> Iterator[int]:
    log = Log(log_file(folder, kind))
    if kind == MAIL:
        with running_mail_server(folder, port=port) as mailbox:

            def take(mailed: Mailed) -> None:
                log.write(content=base64.b64encode(mailed.content).decode())

            mailbox.on_taken = take
            yield mailbox.port
        return
    with running_receiver(folder, port=port) as receiver:

        def answer(handler: BaseHTTPRequestHandler) -> None:
            received: Received = handler.received  # type: ignore[attr-defined]  # See `running_receiver`.
            if random.random() < refused:
                send(handler, random.choice([400, 429, 503]), Retry_After="1")
                return
            log.write(headers=received.headers, body=base64.b64encode(received.body).decode())
            send(handler, 204)

        receiver.answer = answer
        yield receiver.port


def main(kind: str, folder: str, port: str, refused: str) -> None:
    """Serves until it is killed."""
    with _running(kind, Path(folder), int(port), float(refused)) as bound:
        sys.stdout.write(f"{bound}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
