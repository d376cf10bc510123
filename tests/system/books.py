"""What a daemon's books hold, read past the daemon, and calls to it with no client between that would try again."""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certd.client.failure import CallFailed, decode
from certd.client.stubs import Stubs
from tests.daemon import Installation, RunningDaemon

_TABLES = (
    "tenants",
    "grants",
    "authorities",
    "authority_keys",
    "certificates",
    "wrapping_keys",
    "managed_certificates",
    "managed_certificate_versions",
    "sealed_keys",
    "request_records",
    "jobs",
    "events",
)
_CALL_SECONDS = 60.0


def rows(database: Path, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Returns what a query finds in the database of a daemon, which may run."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        return connection.execute(statement, parameters).fetchall()


def database_of(installation: Installation) -> Path:
    """Returns the file that `certd init` makes unless told otherwise."""
    return installation.data / "certd.db"


def books(database: Path) -> dict[str, tuple[int, str]]:
    """Returns how many rows each table has, and a hash over them: equal when nothing was changed."""
    found = {}
    for table in _TABLES:
        # In the order of all columns: tables without a row number have no other that is sure.
        content = sorted(map(repr, rows(database, f"SELECT * FROM {table}")))
        found[table] = (len(content), hashlib.sha256("\n".join(content).encode()).hexdigest())
    return found


@contextmanager
def unchanged(database: Path) -> Iterator[None]:
    """Fails when what happens inside leaves a trace in the books."""
    before = books(database)
    yield
    assert books(database) == before


class Caller:
    """A caller over mutual TLS that tries once.

    Args:
        address: host:port.
        root: PEM of the root that vouches for the server.
        certificate: PEM, the caller's; None shows none.
        private_key: PEM.
    """

    def __init__(
        self, address: str, *, root: bytes, certificate: bytes | None = None, private_key: bytes | None = None
    ) -> None:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=root, private_key=private_key, certificate_chain=certificate
        )
        self._channel = grpc.secure_channel(address, credentials, options=[("grpc.enable_retries", 0)])
        self.stubs = Stubs(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def serving(self, service: str = "") -> bool:
        """Asks grpc.health.v1."""
        answer = self._health.Check(health_pb2.HealthCheckRequest(service=service), timeout=_CALL_SECONDS)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def administrator(daemon: RunningDaemon) -> Caller:
    """Returns a caller with the first administrator's credentials."""
    made = daemon.installation
    return Caller(
        daemon.grpc,
        root=made.trust_bundle.read_bytes(),
        certificate=made.certificate.read_bytes(),
        private_key=made.private_key.read_bytes(),
    )


@contextmanager
def calling(caller: Caller) -> Iterator[Caller]:
    """Closes the caller at the end."""
    with closing(caller):
        yield caller


def refused(method: Callable[..., Any], request: Message) -> CallFailed:
    """Makes a call that must fail and returns how; a defect of the server is never the answer."""
    try:
        answer = method(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        failure = decode(error)
        assert failure.code not in {"INTERNAL", "UNKNOWN"}, failure
        return failure
    raise AssertionError(f"the call succeeded: {answer}")


def defects(log: str) -> list[str]:
    """Returns the lines of a daemon's log that tell of a defect."""
    return [line for line in log.splitlines() if "Traceback" in line or " defect" in line or "INTERNAL" in line]
