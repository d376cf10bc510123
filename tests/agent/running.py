"""certd-agent as people run it: a process beside a daemon that runs as one."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certd.client.connection import Client
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest, CreateGrantRequest, RevokeIdentityRequest
from certd.v1.association_pb2 import Association
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest
from certd.v1.grant_pb2 import Grant, Role
from certd.v1.managed_certificate_pb2 import Deployment, ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    GetAssociationRequest,
    GetManagedCertificateRequest,
    RenewManagedCertificateRequest,
    RequestManagedCertificateRequest,
)
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    RelativeDistinguishedName,
    SubjectAlternativeNames,
)
from tests.daemon import RunningDaemon, _environment
from tests.system.leasing import credentials_of_administrator
from tests.waiting import eventually

_SECONDS = 60.0
_PROGRAM = "import sys; sys.argv[0] = 'certd-agent'; from certd.agent.program import main; main()"
# The program with another clock, and with a death between two steps.
_BENT_PROGRAM = """
import os, sys
from datetime import timedelta
from certd import clock
from certd.agent import agent
from certd.agent.program import main

hours, deadly, file = float(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv = ["certd-agent", *sys.argv[4:]]
now = clock.SystemClock.now
clock.SystemClock.now = lambda self: now(self) + timedelta(hours=hours)
begin = agent.Agent.__init__

def step(name):
    with open(file, "a") as told:
        told.write(name + "\\n")
    if name == deadly:
        os.kill(os.getpid(), 9)

agent.Agent.__init__ = lambda self, config, **others: begin(self, config, **{**others, "step": step})
main()
"""


class Administrator:
    """Calls a daemon as its first administrator, from this process: a program for each call would take a second."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.client = Client(daemon.grpc, credentials_of_administrator(daemon))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def make_authority(self) -> None:
        self.client.call(
            self.client.stubs.create_authority,
            CreateAuthorityRequest(
                parent="tenants/default",
                authority_id="agents-root",
                authority=Authority(type=Authority.ROOT, subject=_subject("Agents Root")),
            ),
        )

    def request(self, managed: str, *identities: str) -> str:
        """Has a managed certificate made and waits for it; associates identities with it."""
        name = f"{managed}.example.internal"
        self.client.call(
            self.client.stubs.request_managed_certificate,
            RequestManagedCertificateRequest(
                parent="tenants/default",
                managed_certificate_id=managed,
                managed_certificate=ManagedCertificate(
                    authority="tenants/default/authorities/agents-root",
                    subject_alternative_names=SubjectAlternativeNames(dns_names=[name]),
                ),
            ),
        )
        eventually(lambda: self.version(managed))
        for identity in identities:
            self.associate(managed, identity)
        return managed

    def associate(self, managed: str, identity: str) -> None:
        self.client.call(
            self.client.stubs.create_association,
            CreateAssociationRequest(
                parent=_managed(managed), association=Association(consumer=f"tenants/default/identities/{identity}")
            ),
        )

    def renew(self, managed: str) -> None:
        """Has a version made, and waits for it."""
        before = self.version(managed)
        self.client.call(
            self.client.stubs.renew_managed_certificate, RenewManagedCertificateRequest(name=_managed(managed))
        )
        eventually(lambda: self.version(managed) > before)

    def version(self, managed: str) -> int:
        return self._get(managed).current_version

    def current(self, managed: str) -> bytes:
        """Returns the certificate (PEM) that the server has."""
        return self._get(managed).certificate.pem.encode()

    def deployment(self, managed: str, identity: str) -> tuple[str, int, str]:
        """Returns what the server was told: state, version, message."""
        request = GetAssociationRequest(name=f"{_managed(managed)}/associations/{identity}")
        found = self.client.call(self.client.stubs.get_association, request).deployment
        return Deployment.State.Name(found.state), found.version, found.message

    def code(self, identity: str) -> str:
        request = CreateEnrollmentCodeRequest(identity=f"tenants/default/identities/{identity}")
        return self.client.call(self.client.stubs.create_enrollment_code, request).code

    def let_consume(self, identity: str) -> None:
        principal = f"spiffe://certd.internal/tenants/default/identities/{identity}"
        grant = Grant(principal=principal, role=Role.CONSUMER)
        self.client.call(self.client.stubs.create_grant, CreateGrantRequest(parent="tenants/default", grant=grant))

    def revoke(self, identity: str) -> None:
        request = RevokeIdentityRequest(name=f"tenants/default/identities/{identity}")
        self.client.call(self.client.stubs.revoke_identity, request)

    def _get(self, managed: str) -> ManagedCertificate:
        request = GetManagedCertificateRequest(name=_managed(managed))
        return self.client.call(self.client.stubs.get_managed_certificate, request)


def _subject(common_name: str) -> DistinguishedName:
    attribute = AttributeTypeAndValue(type="CN", value=common_name)
    return DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[attribute])])


def _managed(managed: str) -> str:
    return f"tenants/default/managedCertificates/{managed}"


@dataclass(slots=True)
class Place:
    """A machine that an agent runs on, for an identity of its own or for that of another machine."""

    administrator: Administrator
    folder: Path
    identity: str
    lines: list[str] = field(default_factory=list)
    """Of the configuration, before its certificates."""
    certificates: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def write_config(self) -> None:
        daemon = self.administrator.daemon
        lines = [
            f'server = "{daemon.grpc}"',
            f'enrollment = "{daemon.enrollment}"',
            f'state_directory = "{self.state}"',
            *self.lines,
            *self.certificates,
        ]
        self.config.write_text("\n".join(lines))

    def add(self, managed: str, *lines: str, files: Sequence[tuple[str, str]] = ()) -> Path:
        """Adds a certificate with its association to the configuration; returns its folder."""
        directory = self.folder / managed
        self.certificates += [
            "[[certificate]]",
            f'name = "{managed}"',
            f'association = "tenants/default/managedCertificates/{managed}/associations/{self.identity}"',
            f'directory = "{directory}"',
            *lines,
        ]
        for path, format_ in files or (("fullchain.pem", "fullchain"), ("key.pem", "private-key")):
            self.certificates += ["[[certificate.file]]", f'path = "{path}"', f'format = "{format_}"']
        self.write_config()
        return directory

    def program(self, *arguments: str | Path, stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
        """Runs a command of certd-agent to its end."""
        ended = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *map(str, arguments), "--config", str(self.config)],
            env=_environment(),
            input=stdin,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def enroll(self, *options: str, grant: bool = True) -> None:
        """Enrolls, and lets the identity play the role consumer."""
        code = self.folder / "code"
        code.touch(mode=0o600)
        code.write_text(self.administrator.code(self.identity))
        ended = self.program("enroll", "--code-file", code, *options)
        assert ended.returncode == 0, ended.stderr
        if grant:
            self.administrator.let_consume(self.identity)

    def status(self) -> dict[str, Any]:
        """What the running agent says of itself, as `certd-agent status` reads it."""
        found: dict[str, Any] = json.loads((self.state / "status.json").read_text())
        return found

    def told(self) -> str:
        """The log."""
        return self.log.read_text() if self.log.exists() else ""

    @contextmanager
    def running(self, *, hours: float = 0, deadly: str = "", ready: bool = True) -> "Iterator[RunningAgent]":
        """Runs an agent; a clean and quick stop is part of every test, unless the test or a step ended it."""
        with self.log.open("ab") as log, (self.folder / "out").open("wb") as out:
            bent = ["-c", _BENT_PROGRAM, str(hours), deadly, str(self.folder / "steps")] if hours or deadly else []
            process = subprocess.Popen(
                [sys.executable, *(bent or ["-c", _PROGRAM]), "run", "--config", str(self.config)],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )
        agent = RunningAgent(self, process)
        try:
            if ready:
                agent.ready()
            yield agent
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, self.told()[-4000:]


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent that runs."""

    place: Place
    process: "subprocess.Popen[bytes]"

    def ready(self) -> Mapping[str, Any]:
        """Waits until it says READY, and returns what it says."""

        def line() -> str:
            assert self.process.poll() is None, self.place.told()[-4000:]
            text = (self.place.folder / "out").read_text()
            return text if text.startswith("READY ") and text.endswith("\n") else ""

        found: Mapping[str, Any] = json.loads(eventually(line, within=_SECONDS).removeprefix("READY "))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)


def served(directory: Path) -> bytes:
    """Returns the certificate (PEM) in the files, which fit together; empty when there are none yet."""
    try:
        chain = (directory / "current" / "fullchain.pem").read_bytes()
        key = load_pem_private_key((directory / "current" / "key.pem").read_bytes(), None)
    except FileNotFoundError:
        return b""
    certificate = x509.load_pem_x509_certificates(chain)[0]
    # Between the two reads the link may have been replaced.
    return certificate.public_bytes(Encoding.PEM) if certificate.public_key() == key.public_key() else b""
