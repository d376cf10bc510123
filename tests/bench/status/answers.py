"""What is measured of OCSP in a process of its own: signing ahead, answers from memory, from the books, with nonce."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from certd.pki.ocsp_identifiers import HashAlgorithm
from certd.pki.ocsp_response import cert_id
from certd.services.ocsp_jobs import subject_of
from certd.services.ocsp_keys import load_answering
from certd.services.ocsp_presigning import PAGE_LENGTH
from certd.store import ocsp_responses
from certd.web.app import application
from certd.web.ocsp_shortcut import shortcut
from certd.web.server import serve
from tests.bench.status.books import opened, serial_of, uid_of
from tests.bench.status.ocsp_load import Load
from tests.services.conftest import World

_OFTEN = 256
"""Certificates that are asked about again and again."""


def main(
    folder: Path, now: datetime, *, certificates: int, signed: int, clients: int, seconds: float
) -> dict[str, Any]:
    """Returns the figures.

    Args:
        folder: of the books.
        now: the time in them.
        certificates: how many of them are asked about.
        signed: how many answers are signed ahead; at least as many.
        clients: connections that ask, each again when it is answered.
        seconds: of each measurement.
    """
    with opened(folder, now) as world:
        answering = world.core.publication.answering
        uid = uid_of(world)
        ahead = _sign_ahead(world, uid, signed)
        web = serve(
            application(
                chains=world.core.public_certificates,
                lists=world.core.publication.published_lists,
                answers=answering.answers,
                health=world.core.health,
                clock=world.clock,
            ),
            host="127.0.0.1",
            port=0,
            shortcut=shortcut(answering.answers.memory, world.clock),
        )
        with world.core.store.read("bench.authority") as tx:
            found = load_answering(tx, (uid, 1))
        names = [
            cert_id(
                HashAlgorithm.SHA1,
                issuer_name=found.authority.subject,
                issuer_key=found.authority.key.public_key or b"",
                serial=int(serial_of(number), 16),
            ).hex()
            for number in range(1, certificates + 1)
        ]
        load = Load(
            port=web.port, path=f"/ocsp/{uid}/1", names=tuple(names), clients=clients, seconds=seconds, nonce=False
        )
        often = replace(load, names=load.names[:_OFTEN])
        try:
            return {
                "signed_ahead": ahead,
                "from_the_books": _measured(load),
                # All of these are in memory after the first time.
                "from_memory": [_measured(often), _measured(often)][-1],
                "with_nonce": _measured(load.with_nonce()),
                "not_signed_ahead": _forgetting(world, load),
            }
        finally:
            web.stop()


def _sign_ahead(world: World, uid: str, wanted: int) -> dict[str, Any]:
    presigning = world.core.publication.answering.presigning
    began, began_processor, done = time.perf_counter(), time.process_time(), 0
    while done < wanted:
        presigning.advance(subject_of(uid, 1))
        done = world.steps.seen.count("ocsp.page-signed") * PAGE_LENGTH
    return _rate(done, time.perf_counter() - began, time.process_time() - began_processor)


def _forgetting(world: World, load: Load) -> dict[str, Any]:
    """Measures what nobody has signed ahead, as after many revocations at once."""
    uid = uid_of(world)
    world.core.store.write("bench.forget", lambda tx: ocsp_responses.forget_key(tx, uid, 1))
    world.core.publication.answering.answers.memory.clear()
    return _measured(load)


def _measured(load: Load) -> dict[str, Any]:
    began = time.process_time()
    measured = _generate(load)
    return {**_rate(measured["answers"], measured["seconds"], time.process_time() - began), "wrong": measured["wrong"]}


def _generate(load: Load) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.status.ocsp_load"]
    ended = subprocess.run(command, input=load.text(), check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    measured: dict[str, Any] = json.loads(ended.stdout)
    return measured


def _rate(count: int, seconds: float, processor_seconds: float) -> dict[str, Any]:
    return {
        "answers": count,
        "answers_per_second": round(count / seconds),
        "daemon_microseconds_per_answer": round(processor_seconds / max(count, 1) * 1e6),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), **json.loads(sys.argv[3]))))
