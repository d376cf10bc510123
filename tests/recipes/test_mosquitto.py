"""Mosquitto: SIGHUP, for the connections to come."""

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from certd.v1.managed_certificate_pb2 import Deployment
from tests.recipes.agents import agent
from tests.recipes.clients import comes, connect, knocking, shown, shown_anew
from tests.recipes.estate import Estate
from tests.recipes.mqtt import Session, publication
from tests.recipes.programs import Program, find_program, free_port, serving
from tests.recipes.recipe import adapted, block
from tests.waiting import eventually


def broker_user() -> str | None:
    """Whom Mosquitto runs as once it has begun as root; None when we are not, and it stays who we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "mosquitto" if "mosquitto" in names else "nobody"


@contextmanager
def mosquitto(place: Path, port: int) -> Iterator[Program]:
    """Runs a broker with the block of the README."""
    conf, run, user = place / "mosquitto.conf", place / "run", broker_user()
    run.mkdir()
    if user is not None:
        shutil.chown(run, user)
    changes = {
        "/etc/ssl/web": str(place / "web"),
        "/run/mosquitto": str(run),
        "listener 8883": f"listener {port} 127.0.0.1",
    }
    own = "" if user is None else f"user {user}\n"
    conf.write_text(own + adapted(block("/etc/mosquitto/mosquitto.conf"), changes))
    with serving([find_program("mosquitto"), "-c", conf], port=port, folder=place) as program:
        yield program


def test_a_renewed_certificate_is_served_and_no_session_is_dropped(estate: Estate, place: Path) -> None:
    port, user = free_port(), broker_user()
    changes = {
        "/etc/ssl/web": str(place / "web"),
        "/run/mosquitto": str(place / "run"),
        ":8883": f":{port}",
        'owner = "mosquitto"\n': "" if user is None else f'owner = "{user}"\n',
    }
    text = adapted(block("/etc/certd-agent/agent.toml: Mosquitto"), changes)

    def knock() -> bytes:
        with connect(port, estate.root) as connection:
            Session(connection).publish(b"knock")
            return shown(connection)

    with agent(estate, place, text) as running:
        # The files are there before Mosquitto can be.
        assert "mosquitto.pid" in estate.reported(Deployment.FAILED).message
        with mosquitto(place, port):
            running.again()
            estate.reported(Deployment.SERVING)
            first = estate.current().certificate.der
            assert shown_anew(port, estate.root) == first
            with connect(port, estate.root) as publisher, connect(port, estate.root) as subscriber:
                publishing, subscribed = Session(publisher), Session(subscriber)
                subscribed.subscribe()
                publishing.publish(b"before")
                assert subscribed.received() == b"before"
                packet = publication(b"across")
                publisher.sendall(packet[:8])
                with knocking(knock) as knocks:
                    second = estate.renew().certificate.der
                    assert estate.reported(Deployment.SERVING).certificate_sha256
                    comes(port, estate.root, second)
                    eventually(lambda: knocks.has_seen(second))
                assert knocks.has_seen(first)
                # It began before the reload and ends after it.
                publisher.sendall(packet[8:])
                publishing.acknowledged()
                received = iter(subscribed.received, b"across")
                assert set(received) == {b"knock"}
                assert shown(subscriber) == first
            # A signal that does not reach it keeps the old one, until that is mended.
            pid = place / "run" / "mosquitto.pid"
            pid.rename(pid.with_suffix(".away"))
            third = estate.renew().certificate.der
            assert "mosquitto.pid" in estate.reported(Deployment.FAILED).message
            assert shown_anew(port, estate.root) == second
            pid.with_suffix(".away").rename(pid)
            running.again()
            estate.reported(Deployment.SERVING)
            comes(port, estate.root, third)
