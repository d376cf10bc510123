"""No private key in the daemon and its prepare processes, in the whole life of managed certificates.

Renewal, sealed import, roll-back, lease, rotation of the wrapping key, export to a key and under a passphrase in every
form: while they go on and after them the memory is searched for every key. `test_isolation` does so with the token's
own. What is imported in plaintext is left out: gRPC and protobuf read it before the daemon does and wipe nothing, and
what they freed stays in memory until that is used again, which may be soon or never.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from certd.client.connection import Client
from certd.client.export import export_to_one_time_key, export_under_passphrase
from certd.client.lease import lease
from certd.client.managed_import import import_sealed
from certd.pki.export_form import ExportForm
from certd.pki.key_spec import KeySpec
from certd.prepare import process as prepare_process
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    GetAssociationRequest,
    GetManagedCertificateRequest,
    ImportManagedCertificateRequest,
    RenewManagedCertificateRequest,
    RollBackManagedCertificateRequest,
)
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import (
    GetWrappingKeyRequest,
    RotateWrappingKeyRequest,
)
from tests.daemon import RunningDaemon, installed, running
from tests.imports import Pair, PairKey, pair
from tests.outside_parent import OutsideAuthority, outside_authority
from tests.system.books import defects
from tests.system.calls import NAME, must
from tests.system.leasing import credentials_of_administrator
from tests.system.memory import line_needles, number_needles, private_key_needles, scan
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="reading the memory of another process takes root on Linux",
)

_TENANT = "tenants/default"
_PASSPHRASE = b"correct horse battery staple"
_PEM_LINES = 3
"""Of a private key: whoever holds it as PEM holds each of its lines."""
REQUESTED = {"life-ec": KeySpec.EC_P256, "life-rsa": KeySpec.RSA_2048, "life-ed": KeySpec.ED25519}
KEPT = "life-kept"
"""The one that is not exportable: only leases show its keys."""
FORMATS = {
    "PKCS#8 as PEM": (Encoding.PEM, PrivateFormat.PKCS8),
    "PKCS#8 as DER": (Encoding.DER, PrivateFormat.PKCS8),
    "the older form as PEM": (Encoding.PEM, PrivateFormat.TraditionalOpenSSL),
    "OpenSSH": (Encoding.PEM, PrivateFormat.OpenSSH),
}


@dataclass(slots=True)
class Life:
    """A daemon whose managed certificates live, and every key that was seen of them."""

    daemon: RunningDaemon
    client: Client
    issuer: OutsideAuthority
    keys: dict[str, bytes] = field(default_factory=dict)
    """DER of the PKCS#8 PrivateKeyInfo of each version, by a name of it."""
    pairs: dict[str, Pair] = field(default_factory=dict)
    """What was imported."""
    sent: dict[str, bytes] = field(default_factory=dict)
    """Their private keys as they were sealed, by name of the form."""

    @property
    def exportable(self) -> list[str]:
        return [*REQUESTED, *self.pairs]

    @property
    def prepare_processes(self) -> list[int]:
        children = psutil.Process(self.daemon.pid).children()
        return [child.pid for child in children if "certd.prepare" in child.cmdline()]

    def begin(self) -> None:
        """Requests, associates and imports."""
        for managed, spec in {**REQUESTED, KEPT: KeySpec.EC_P256}.items():
            kept = ["--not-exportable"] if managed == KEPT else []
            must(
                self.daemon,
                *("managed", "request", managed, "--authority", "life-ca"),
                "--dns",
                NAME,
                "--key",
                spec,
                *kept,
            )
            self._associate(managed)
        for number, form in enumerate(FORMATS):
            managed = f"imported-{number}"
            key: PairKey = (
                rsa.generate_private_key(65537, 2048) if number % 2 else ec.generate_private_key(ec.SECP256R1())
            )
            self.pairs[managed] = pair(self.issuer, f"{managed}.example", now=_now(), key=key)
            self.import_(managed, form, replace=False)
            self._associate(managed)

    def go_on(self) -> None:
        """Renews, imports again, rotates, rolls back, exports and leases everything."""
        for managed in (*REQUESTED, KEPT):
            self._renew(managed)
        for managed, form in zip(self.pairs, FORMATS, strict=True):
            self.import_(managed, form, replace=True)
        self.look()
        self._rotate()
        for managed in self.pairs:
            self._roll_back(managed)
        self.look()

    def look(self) -> None:
        """Leases the current versions, and exports each to a key and in one of the forms under a passphrase."""
        for managed in (*self.exportable, KEPT):
            self._lease(managed)
        for managed, form in zip(self.exportable, itertools.cycle(ExportForm), strict=False):
            exported = export_to_one_time_key(self.client, _name(managed))
            self._seen(managed, exported.response.version, exported.private_key_info)
            export_under_passphrase(self.client, _name(managed), passphrase=_PASSPHRASE, form=form)

    def import_(self, managed: str, form: str, *, replace: bool) -> None:
        """Imports a key that is known, sealed."""
        made = self.pairs[managed]
        request = ImportManagedCertificateRequest(
            parent=_TENANT,
            managed_certificate_id=managed,
            certificate=made.pem,
            certificate_chain=made.chain_pem,
            export_policy=ManagedCertificate.EXPORTABLE,
            replace=replace,
        )
        self.sent[form] = made.key.private_bytes(*FORMATS[form], NoEncryption())
        answer = import_sealed(self.client, request, self.sent[form])
        self._seen(managed, answer.current_version, made.key_der)

    def _associate(self, managed: str) -> None:
        request = CreateAssociationRequest(parent=_name(managed), association=Association(consumer="identities/admin"))
        self.client.call(self.client.stubs.create_association, request)

    def _lease(self, managed: str) -> None:
        name = f"{_name(managed)}/associations/admin"
        association = self.client.call(self.client.stubs.get_association, GetAssociationRequest(name=name))
        leased = lease(self.client, association, 0, credentials_of_administrator(self.daemon))
        self._seen(managed, leased.response.version, leased.private_key_info)

    def _renew(self, managed: str) -> None:
        request = RenewManagedCertificateRequest(name=_name(managed))
        before = self.client.call(self.client.stubs.renew_managed_certificate, request).current_version

        def renewed() -> bool:
            read = GetManagedCertificateRequest(name=_name(managed))
            return self.client.call(self.client.stubs.get_managed_certificate, read).current_version > before

        eventually(renewed, within=60)

    def _roll_back(self, managed: str) -> None:
        request = RollBackManagedCertificateRequest(name=_name(managed))
        self.client.call(self.client.stubs.roll_back_managed_certificate, request)

    def _rotate(self) -> None:
        new = self.client.call(self.client.stubs.rotate_wrapping_key, RotateWrappingKeyRequest(parent=_TENANT))
        old = GetWrappingKeyRequest(name=f"{_TENANT}/wrappingKeys/{int(new.name.rpartition('/')[2]) - 1}")
        eventually(
            lambda: self.client.call(self.client.stubs.get_wrapping_key, old).state == WrappingKey.RETIRED, within=60
        )

    def _seen(self, managed: str, version: int, key: bytes) -> None:
        assert self.keys.setdefault(f"{managed} {version}", key) == key

    def needles(self) -> dict[str, bytes]:
        """Returns what would give the keys away that are known by now."""
        found: dict[str, bytes] = {}
        for name, key in dict(self.keys).items():
            needles = private_key_needles(name, key)
            lines = [each for each in needles if "PEM line" in each]
            found |= {each: needle for each, needle in needles.items() if each not in lines[_PEM_LINES:]}
        for form, sent in dict(self.sent).items():
            found |= line_needles(form, sent)
        return found


def _name(managed: str) -> str:
    return f"{_TENANT}/managedCertificates/{managed}"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    made = installed(tmp_path_factory.mktemp("life"))
    made.config.write_text(made.config.read_text().replace("# processes = 1\n", "processes = 1\n"))
    with running(made) as daemon, Client(daemon.grpc, credentials_of_administrator(daemon)) as client:
        root = ("authority", "create", "life-root", "--type", "root", "--subject", "CN=Life Root")
        must(daemon, *root)
        below = ("--issuer", "life-root", "--subject", "CN=Life CA", "--lifetime", "1y")
        must(daemon, *("authority", "create", "life-ca", "--type", "subordinate"), *below)
        began = Life(daemon, client, outside_authority("Elsewhere", now=_now()))
        began.begin()
        began.look()
        yield began
    assert not defects(made.log.read_text())


@dataclass(frozen=True, slots=True)
class Searched:
    """What was found while all went on."""

    found: frozenset[str]
    scans: int


@pytest.fixture(scope="module")
def searched(life: Life) -> Searched:
    """Searches daemon and prepare process again and again, for what is known by then, while all goes on."""
    found: set[str] = set()
    scans = 0
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(life.go_on)
        while not work.done():
            for process in (life.daemon.pid, *life.prepare_processes):
                found |= scan(process, life.needles()).found
            scans += 1
        work.result()
    return Searched(frozenset(found), scans)


def test_while_all_goes_on_no_private_key_is_in_the_daemon_or_its_prepare_process(searched: Searched) -> None:
    assert searched.scans > 2
    assert not searched.found


def test_after_it_none_of_any_version_is(life: Life, searched: Searched) -> None:
    assert searched.scans
    # Two versions of each, and those that were imported are the same key twice.
    assert len(life.keys) == 2 * (len(REQUESTED) + 1 + len(FORMATS))
    assert len(set(life.keys.values())) == 2 * (len(REQUESTED) + 1) + len(FORMATS)
    own = load_pem_private_key((life.daemon.installation.data / "server.key").read_bytes(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    # The daemon's own TLS key is its own by design, and a process holds what it runs: the scanner finds what is there.
    there = number_needles("own", own.private_numbers().private_value)
    (prepare,) = life.prepare_processes
    runs = {"runs": (prepare_process.__doc__ or "").encode()}
    for process, control, least in ((life.daemon.pid, there, 64 << 20), (prepare, runs, 16 << 20)):
        looked = scan(process, life.needles() | control)
        assert looked.found & control.keys(), "the scanner does not find what is there"
        assert not looked.found - control.keys()
        assert not looked.unread
        assert looked.scanned_bytes > least
