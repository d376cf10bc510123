"""Key rotations under fire: whatever dies at whichever step, one key more is prepared, whole, and signs.

A round prepares a key of a root, which certifies the one before and is certified by that, and asks until it is told
that it is there. The daemon, or its token process, dies at a step of that. Then there is one key more and not two, in
the token and in the books, with its certificate and both cross-certificates; it is activated, and signs.
"""

import uuid
from typing import Self

from cryptography import x509

from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import ActivateAuthorityKeyRequest, PrepareAuthorityKeyRequest
from tests.daemon import Installation
from tests.faults.asking import CA, ask, authority_request
from tests.faults.served import Served
from tests.system.books import rows
from tests.system.softhsm_objects import secret_objects
from tests.waiting import eventually

STEPS = (
    "key.1.requested",
    "key.2.made",
    "key.3.recorded",
    "key.4.certified",
    "key.5.cross-certified",
    "issue.3.intended",
    "issue.4.signed",
    "issue.5.completed",
)
"""Every numbered step of a preparation, and those of the issuing loop."""


class KeyRotations:
    """An installation whose root gets one key after the other."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._served = Served(installation)
        self._count = 1

    def __enter__(self) -> Self:
        self._served.__enter__()
        try:
            with self._served.client() as client:
                client.call(client.stubs.create_authority, authority_request("ca", ""))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()

    def round(self, victim: str, step: str) -> None:
        """Prepares a key while the victim dies at a step, and has it sign."""
        before = self._served.pid_of(victim)
        self._served.running.arm(step, 1, victim)
        request = PrepareAuthorityKeyRequest(name=CA, cross_certify=True, request_id=str(uuid.uuid4()))
        found = self._served.insist(lambda client: client.stubs.prepare_authority_key(request, timeout=20))
        eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
        self._count += 1
        self._check(found)
        activation = ActivateAuthorityKeyRequest(name=CA, key_number=self._count, request_id=str(uuid.uuid4()))
        active = self._served.insist(lambda client: client.stubs.activate_authority_key(activation, timeout=20))
        assert active.key.number == self._count
        leaf = ask("www.example.internal").request
        leaf.request_id = str(uuid.uuid4())
        issued = self._served.insist(lambda client: client.stubs.issue_certificate(leaf, timeout=20))
        root = x509.load_der_x509_certificate(active.certificate.der)
        x509.load_der_x509_certificate(issued.certificate.der).verify_directly_issued_by(root)

    def stop(self) -> None:
        """Stops the daemon as an operator does, and looks at the books."""
        self._served.stop()
        of_the_root = "FROM authority_keys JOIN authorities ON uid = authority_uid WHERE tenant IS NOT NULL"
        assert rows(self._served.file, f"SELECT count(*) {of_the_root}") == [(self._count,)]  # Our own.
        assert rows(self._served.file, "SELECT count(*) FROM jobs WHERE kind = 'advance-authority-key'") == [(0,)]
        kinds = [kind for (kind,) in rows(self._served.file, "SELECT type FROM events")]
        for kind in ("key-prepared", "key-activated"):
            assert kinds.count(f"authority.{kind}") == self._count - 1, kind
        assert kinds.count("authority.cross-certified") == 2 * (self._count - 1)
        data = self._installation.data
        there = {one.key_id for one in secret_objects(data / "token" / "tokens", (data / "token-pin").read_bytes())}
        known = {key_id for (key_id,) in rows(self._served.file, f"SELECT key_id {of_the_root}")}
        assert known <= there

    def _check(self, found: Authority) -> None:
        new, old = found.keys[0], found.keys[1]
        assert [key.number for key in found.keys] == list(range(self._count, 0, -1))
        assert (new.state, old.state) == (Authority.Key.PREPARED, Authority.Key.ACTIVE)
        made = x509.load_der_x509_certificate(new.certificate.der)
        before = x509.load_der_x509_certificate(old.certificate.der)
        made.verify_directly_issued_by(made)
        (by_old,) = new.cross_certificates
        x509.load_der_x509_certificate(by_old.der).verify_directly_issued_by(before)
        # It may have another, by the key before it.
        x509.load_der_x509_certificate(old.cross_certificates[0].der).verify_directly_issued_by(made)
