"""Purges under fire: whatever dies at whichever step, the last CRL is published, the keys are gone, and the id is free.

A round makes an authority, issues and revokes, deletes it, and puts the end of its window into the past, as no caller
can. The daemon, or its token process, dies at a step of the purge. Then the CRL that is published says what was revoked
and holds longer than all that was issued, no key of the authority is in the token, and another is made under its id.
"""

import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from typing import Self

from cryptography import x509

from certd.client.connection import Client
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import (
    DeleteAuthorityRequest,
    DisableAuthorityRequest,
    GetAuthorityRequest,
)
from certd.v1.certificate_service_pb2 import RevokeCertificateRequest
from tests.daemon import Installation
from tests.faults.asking import CA, ask, authority_request
from tests.faults.served import TENANT, Served
from tests.system.books import rows
from tests.system.softhsm_objects import secret_objects
from tests.waiting import eventually

STEPS = (
    "purge.1.begun",
    "revocation-list.claimed",
    "revocation-list.signed",
    "revocation-list.published",
    "purge.2.published",
    "purge.3.destroyed",
    "purge.4.recorded",
)
"""Every numbered step of a purge, and those of the CRL that it waits for."""


class Purges:
    """An installation whose authorities are purged one after the other."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._served = Served(installation)
        self.purged = 0

    def __enter__(self) -> Self:
        self._served.__enter__()
        try:
            with self._served.client() as client:
                client.call(client.stubs.create_authority, authority_request("root", ""))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._served.__exit__()

    def round(self, victim: str, step: str) -> None:
        """Makes an authority, deletes it, and lets the victim die at a step of its purge."""
        with self._served.client() as client:
            serial, made = self._make(client)
        eventually(lambda: self._is_listed(made.uid, serial), within=60)
        with self._served.client() as client:
            client.call(client.stubs.disable_authority, DisableAuthorityRequest(name=CA))
            deletion = DeleteAuthorityRequest(name=CA, allow_live_certificates=True, request_id=str(uuid.uuid4()))
            assert client.call(client.stubs.delete_authority, deletion).state == Authority.DELETED
        before = self._served.pid_of(victim)
        self._served.running.arm(step, 1, victim)
        self._end_window(made.uid)
        eventually(lambda: self._served.pid_of(victim) not in {before, None}, within=60)
        request = GetAuthorityRequest(name=f"{TENANT}/authorities/purged-{made.uid}")
        eventually(lambda: self._is_purged(made.uid), within=120)
        found = self._served.insist(lambda client: client.stubs.get_authority(request, timeout=20))
        assert (found.state, found.uid) == (Authority.PURGED, made.uid)
        self.purged += 1
        self._check(made, serial)

    def stop(self) -> None:
        """Stops the daemon as an operator does, and looks at the books."""
        self._served.stop()
        kinds = [kind for (kind,) in self._read("SELECT type FROM events")]
        for kind in ("deleted", "purged"):
            assert kinds.count(f"authority.{kind}") == self.purged, kind
        assert self._read("SELECT count(*) FROM jobs WHERE kind = 'purge-authority'") == [(0,)]
        # The root.
        assert self._read("SELECT number FROM tenant_counts WHERE kind = 'authorities'") == [(1,)]

    def _make(self, client: Client) -> tuple[int, Authority]:
        """Returns the serial of what was revoked, and the authority that had issued it."""
        creation = authority_request("ca", f"{TENANT}/authorities/root")
        creation.request_id = str(uuid.uuid4())
        made = client.call(client.stubs.create_authority, creation)
        issued = [
            client.call(client.stubs.issue_certificate, ask(f"w{number}.example.internal").request)
            for number in range(2)
        ]
        client.call(client.stubs.revoke_certificate, RevokeCertificateRequest(name=issued[0].name))
        return x509.load_der_x509_certificate(issued[0].certificate.der).serial_number, made

    def _end_window(self, uid: str) -> None:
        with closing(sqlite3.connect(self._served.file, timeout=20)) as connection, connection:
            connection.execute("UPDATE authorities SET purge_time = 1 WHERE uid = ?", (uid,))
            connection.execute(
                "UPDATE jobs SET due_time = 1, available_time = 1 WHERE kind = 'purge-authority' AND subject = ?",
                (uid,),
            )

    def _crl(self, uid: str) -> x509.CertificateRevocationList | None:
        found = self._read("SELECT der FROM revocation_list_contents WHERE authority_uid = ? AND partition = 0", uid)
        return x509.load_der_x509_crl(found[0][0]) if found else None  # type: ignore[arg-type]  # Bytes.

    def _is_listed(self, uid: str, serial: int) -> bool:
        crl = self._crl(uid)
        return crl is not None and crl.get_revoked_certificate_by_serial_number(serial) is not None

    def _is_purged(self, uid: str) -> bool:
        # So that it is served while it is waited for.
        lives = self._served.running.process.poll() is None
        found = self._read("SELECT authority_id FROM authorities WHERE uid = ?", uid)
        return lives and found == [(f"purged-{uid}",)]

    def _check(self, made: Authority, serial: int) -> None:
        crl = self._crl(made.uid)
        assert crl is not None
        certificate = x509.load_der_x509_certificate(made.certificate.der)
        assert crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]  # Of a kind that signs.
        assert [one.serial_number for one in crl] == [serial]
        (ends,) = self._read("SELECT max(not_after) FROM certificates WHERE authority_uid = ?", made.uid)
        assert isinstance(ends[0], int)
        assert crl.next_update_utc is not None
        assert crl.next_update_utc > datetime.fromtimestamp(ends[0] / 1e6, UTC)
        assert self._read("SELECT DISTINCT final FROM revocation_lists WHERE authority_uid = ?", made.uid) == [(1,)]
        assert self._read("SELECT count(*) FROM ocsp_responders WHERE authority_uid = ?", made.uid) == [(0,)]
        data = self._installation.data
        left = {one.key_id for one in secret_objects(data / "token" / "tokens", (data / "token-pin").read_bytes())}
        assert bytes.fromhex(made.key.key_id) not in left
        # Those of the root, of the system, and what signs checkpoints and answers stay.
        for (key_id,) in self._read("SELECT key_id FROM authority_keys WHERE authority_uid <> ?", made.uid):
            purged = self._read(
                "SELECT count(*) FROM authority_keys JOIN authorities ON uid = authority_uid"
                " WHERE key_id = ? AND authorities.state = 'PURGED'",
                key_id,
            )
            assert (key_id in left) is (purged == [(0,)])

    def _read(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        return rows(self._served.file, query, parameters)
