"""A machine with one certificate, and a server that gives what the test puts there."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certd.agent.bundle import Bundle
from certd.agent.config import Certificate, Command, File
from certd.agent.deployment import Deployment
from certd.agent.keeper import Keeper
from certd.agent.kept import Kept
from certd.agent.target import Target
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment as Reported
from tests.agent.bundles import Minter
from tests.fakes import FakeClock

ASSOCIATION = "tenants/default/managedCertificates/web/associations/web-1"
FILES = (
    File(path="fullchain.pem", format="fullchain", mode=0o644),
    File(path="key.pem", format="private-key", mode=0o600),
    File(path="combined.pem", format="combined", mode=0o640),
)


class Died(BaseException):
    """The agent died here."""


@dataclass(slots=True)
class Stranger:
    """The server, as one consumer sees it."""

    minter: Minter = field(default_factory=Minter)
    bundles: dict[int, Bundle] = field(default_factory=dict)
    current: int = 0
    leases: list[int] = field(default_factory=list)
    asked: int = 0
    reports: list[Reported] = field(default_factory=list)
    uid: str = "1"
    """Of the managed certificate."""
    problem: Exception | None = None
    """Raised instead of an answer."""
    report_problem: Exception | None = None
    is_old: bool = False
    """Whether it is of a release that tells nothing of certificates."""
    revoked: list[bytes] = field(default_factory=list)
    """SHA-256 of certificates, as it tells them."""

    def renew(self, bundle: Bundle | None = None) -> Bundle:
        """Makes a version current: the next one, or one of the test's own."""
        made = bundle or self.minter.bundle(version=self.current + 1)
        self.bundles[made.version] = made
        self.current = made.version
        return made

    def revoke(self, bundle: Bundle) -> None:
        """Revokes the certificate of a version, whatever its number means by now."""
        self.revoked.insert(0, bundle.certificate_sha256)

    def told(self) -> Association:
        """The association as the stream tells it."""
        found = Association(name=ASSOCIATION, managed_certificate_uid=self.uid, current_version=self.current)
        if not self.is_old:
            found.revoked_certificate_sha256.extend(self.revoked)
            if self.current in self.bundles:
                found.current_certificate_sha256 = self.bundles[self.current].certificate_sha256
        if self.reports:
            found.deployment.CopyFrom(self.reports[-1])
        return found

    def association(self, name: str) -> Association:
        assert name == ASSOCIATION
        if self.problem is not None:
            raise self.problem
        self.asked += 1
        return self.told()

    def lease(self, association: Association, version: int, *, name: str, roots: tuple[bytes, ...]) -> Bundle:
        assert association.name == ASSOCIATION
        self.leases.append(version)
        found = self.bundles[version]
        return replace(found, name=name, roots=roots or found.roots)

    def report(self, name: str, deployment: Reported) -> None:
        assert name == ASSOCIATION
        if self.report_problem is not None:
            raise self.report_problem
        self.reports.append(deployment)

    @property
    def states(self) -> list[tuple[str, int]]:
        """What was reported."""
        return [(Reported.State.Name(each.state), each.version) for each in self.reports]


class Machine:
    """Where agents run, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.directory = folder / "web"
        self.log = folder / "log"
        self.clock = FakeClock(datetime.now(UTC))
        self.stop = threading.Event()
        folder.mkdir(exist_ok=True)
        self.state.mkdir(mode=0o700, exist_ok=True)
        # Its clock stands still, and most tests have one version follow the other at once.
        self.certificate = Certificate(
            name="web",
            association=ASSOCIATION,
            directory=self.directory,
            files=FILES,
            reload=self.logging("reload"),
            reload_interval=0,
        )

    def logging(self, word: str, *, then: str = "true") -> Command:
        """A command that says that it ran, and for which version."""
        script = f'echo "{word} $CERTD_VERSION" >> "{self.log}"; {then}'
        return Command(arguments=("sh", "-c", script), timeout=10)

    def logged(self) -> list[str]:
        """What ran."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def agent(
        self,
        *,
        step: Callable[[str], None] = lambda _: None,
        targets: Sequence[Target] = (),
        certificate: Certificate | None = None,
    ) -> Keeper:
        """Starts an agent: it sees to what was deployed before."""
        made = certificate or self.certificate
        keeper = Keeper(
            made,
            kept=Kept(self.state, made.name),
            deployment=Deployment(made.directory, made.files, step=step),
            targets=targets,
            clock=self.clock,
            stop=self.stop,
            step=step,
        )
        keeper.restore()
        return keeper

    def current(self) -> Path:
        """The folder that programs read."""
        return self.directory / "current"

    def served(self) -> bytes:
        """The certificate (DER) in the files, all of which must be of one version, and whole."""
        current = self.current()
        chain = x509.load_pem_x509_certificates((current / "fullchain.pem").read_bytes())
        combined = (current / "combined.pem").read_bytes()
        assert x509.load_pem_x509_certificates(combined)[0] == chain[0]
        for content in (combined, (current / "key.pem").read_bytes()):
            key = load_pem_private_key(content[content.index(b"-----BEGIN PRIVATE") :], None)
            assert key.public_key() == chain[0].public_key()
        return chain[0].public_bytes(Encoding.DER)

    def modes(self) -> dict[str, str]:
        """The modes of the files."""
        return {each.name: f"{each.stat().st_mode & 0o7777:04o}" for each in self.current().iterdir()}

    def versions(self) -> list[str]:
        """What is in the folder of versions."""
        return sorted(each.name for each in (self.directory / "versions").iterdir())
