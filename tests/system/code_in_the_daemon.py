"""What code that runs as the daemon's user tries, with all that its books hold and past all of its own checks.

`lease_and_reseal` is run by a process of that user: options as JSON in its first argument, outcomes as JSON on standard
output. An outcome is a reason, or what was got, in hexadecimal.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from certd.errors import CertdError
from certd.pki.lease import lease_statement, sign_lease
from certd.pki.sealing import Purpose, SealContext
from certd.token.client import ResealItem, TokenClient, connect
from tests.token.consumers import DAY, OTHER_CONSUMER, SystemRoot

_BOOKS = """
SELECT w.key_id, k.blob, t.uid, m.uid, k.version, m.exportable, v.public_key
FROM managed_certificates m
JOIN tenants t ON t.tenant_id = m.tenant
JOIN sealed_keys k ON k.managed_certificate_uid = m.uid
JOIN managed_certificate_versions v ON v.managed_certificate_uid = m.uid AND v.number = k.version
JOIN wrapping_keys w ON w.tenant = m.tenant AND w.number = k.wrapping_key_number
WHERE m.managed_certificate_id = ?
"""


def sealed_key_of(database: Path, managed_certificate: str) -> tuple[bytes, bytes, SealContext]:
    """Returns the id of the wrapping key, the blob, and what it is bound to."""
    books = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        key_id, blob, tenant, uid, version, exportable, public_key = books.execute(
            _BOOKS, (managed_certificate,)
        ).fetchone()
    finally:
        books.close()
    context = SealContext(
        tenant=tenant,
        certificate=uid,
        version=version,
        purpose=Purpose.CUSTODY,
        exportable=bool(exportable),
        public_key_sha256=hashlib.sha256(public_key).digest(),
    )
    return key_id, blob, context


def lease_and_reseal() -> None:
    """Tries."""
    options = json.loads(sys.argv[1])
    client = connect(Path(options["socket"]))
    assert client.wait_ready(30), client.problem
    try:
        print(json.dumps(_Attempts(client, options).outcomes()))  # noqa: T201  # That is its answer.
    finally:
        client.stop()


class _Attempts:
    def __init__(self, client: TokenClient, options: dict[str, Any]) -> None:
        self._client = client
        self._key_id, self._blob, self._custody = sealed_key_of(Path(options["database"]), options["managed"])
        self._association = replace(
            self._custody, purpose=Purpose.ASSOCIATION, consumer=options["consumer"], exportable=False
        )
        self._certificate = bytes.fromhex(options["certificate"])
        self._signed: dict[str, Any] = {
            "recipient_public_key": bytes.fromhex(options["recipient"]),
            "sign_time": datetime.fromisoformat(options["sign_time"]),
            "signature": bytes.fromhex(options["signature"]),
        }
        self._copy = self._reseal(self._blob, self._custody, self._association)

    def outcomes(self) -> dict[str, str]:
        """Returns what became of each attempt, by its name."""
        own_key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_der_x509_certificate(self._certificate).issuer
        now = datetime.now(UTC)
        forged = SystemRoot(own_key, issuer, b"").issue(
            own_key, uris=[self._association.consumer], begin=now - DAY, end=now + DAY
        )
        by_own_key = self._sign(own_key)
        wider: dict[str, Any] = {"exportable": True}
        other: dict[str, Any] = {"consumer": OTHER_CONSUMER}
        another: dict[str, Any] = {"version": self._association.version + 1}
        attempts: dict[str, Callable[[], bytes]] = {
            "lease without a signature": lambda: self._lease(**{**self._signed, "signature": b""}),
            "lease by a key of its own": lambda: self._lease(**by_own_key),
            "lease by a certificate of its own": lambda: self._lease(certificate=forged, **by_own_key),
            "lease to a key of its own": lambda: self._lease(
                **{**self._signed, "recipient_public_key": by_own_key["recipient_public_key"]}
            ),
            "lease from custody": lambda: self._lease(context=self._custody, sealed_key=self._blob, **self._signed),
            "export of the copy": lambda: self._export(self._association),
            "export of the copy as custody": lambda: self._export(self._custody),
            "reseal as exportable": lambda: self._from_copy(**wider),
            "reseal for another consumer": lambda: self._from_copy(**other),
            "reseal of another version": lambda: self._from_copy(**another),
            "reseal back into custody": lambda: self._reseal(self._copy, self._association, self._custody),
            "reseal by a lie": lambda: self._reseal(self._copy, self._custody, self._custody),
            "lease by the consumer": lambda: self._lease(**self._signed),
            "lease by the consumer again": lambda: self._lease(**self._signed),
        }
        return {name: _outcome(attempt) for name, attempt in attempts.items()}

    def _sign(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        recipient = X25519PrivateKey.generate().public_key().public_bytes_raw()
        statement = lease_statement(
            tenant=self._association.tenant,
            certificate=self._association.certificate,
            version=self._association.version,
            consumer=self._association.consumer,
            public_key=recipient,
            sign_time=self._signed["sign_time"],
        )
        return {**self._signed, "recipient_public_key": recipient, "signature": sign_lease(key, statement)}

    def _lease(self, **changes: Any) -> bytes:
        values = {
            "wrapping_key_id": self._key_id,
            "sealed_key": self._copy,
            "context": self._association,
            "certificate": self._certificate,
            **changes,
        }
        return self._client.lease(**values)

    def _export(self, context: SealContext) -> bytes:
        return self._client.export_to_recipient(
            wrapping_key_id=self._key_id,
            sealed_key=self._copy,
            context=context,
            recipient_public_key=X25519PrivateKey.generate().public_key().public_bytes_raw(),
        )

    def _from_copy(self, **changes: Any) -> bytes:
        return self._reseal(self._copy, self._association, replace(self._association, **changes))

    def _reseal(self, blob: bytes, old: SealContext, new: SealContext) -> bytes:
        item = ResealItem(
            wrapping_key_id=self._key_id,
            sealed_key=blob,
            context=old,
            new_wrapping_key_id=self._key_id,
            new_context=new,
        )
        (result,) = self._client.reseal([item])
        if isinstance(result, CertdError):
            raise result
        return result


def _outcome(attempt: Callable[[], bytes]) -> str:
    try:
        return attempt().hex()
    except CertdError as error:
        return error.reason
