"""The signing keys of an issuer: its JSON Web Key Set (RFC 7517), fetched over HTTPS and kept.

A thread fetches, never a caller: what an issuer does slowly costs callers a bounded wait. A set that could not be
fetched for an hour is used no longer, because a key that its issuer withdrew would otherwise work on.
"""

import http.client
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certd.clock import Clock
from certd.errors import CertdError, Reason
from certd.outbound.addresses import Reach
from certd.outbound.deadline import Deadline
from certd.outbound.https import Request, client_context, content, exchange

REFRESH: Final = timedelta(minutes=5)
"""After which keys are fetched again."""
STALE: Final = timedelta(hours=1)
"""After which keys that could not be fetched again are used no longer."""
BETWEEN_UNKNOWN: Final = timedelta(minutes=1)
"""Between two fetches that an unknown key id makes."""
BETWEEN_FAILURES: Final = timedelta(seconds=15)
LONGEST_SET: Final = 256 * 1024
"""Octets."""
LONGEST_FETCH: Final = 10.0
"""Seconds in all."""
_PATIENCE: Final = 3.0
"""Seconds that the network may be silent."""
_CALLERS_WAIT: Final = 4.0
"""Seconds that a caller waits for a key that is being fetched."""
_MOST_WAITING: Final = 8
_MOST_KEYS: Final = 64
_LEAST_RSA_BITS: Final = 2048
_LARGEST_RSA_BITS: Final = 8192
_TICK: Final = 5.0
_SUCCESS: Final = 2
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

_log = logging.getLogger("certd.outbound.jwks")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key of an issuer."""

    key: PublicKey
    algorithm: str | None
    """The one that the issuer uses it with, where it says so."""

    def fits(self, algorithm: str) -> bool:
        """Returns whether signatures of `algorithm` may be verified with the key."""
        if self.algorithm is not None and self.algorithm != algorithm:
            return False
        if isinstance(self.key, rsa.RSAPublicKey):
            return algorithm[:2] in {"RS", "PS"}
        if isinstance(self.key, ec.EllipticCurvePublicKey):
            return _CURVES.get(algorithm) == self.key.curve.name
        return algorithm == "EdDSA"


@dataclass(frozen=True, slots=True)
class _Known:
    """What was fetched last."""

    keys: Mapping[str, SigningKey] = field(default_factory=dict)
    since: datetime | None = None
    """When the fetch began; None before the first."""


def fetch(url: str, ca_file: Path | None) -> bytes:
    """Returns what an https URL holds.

    OSError or ValueError when it is not had: an answer but success, a redirection, an untrusted certificate, more than
    LONGEST_SET octets, longer than LONGEST_FETCH seconds.
    """
    if not url.startswith("https://"):
        raise ValueError("not an https URL")
    deadline = Deadline(LONGEST_FETCH, patience=_PATIENCE)
    request = Request(url=url, headers={"Accept": "application/json", "User-Agent": "certd"})
    # What is configured is what is asked, wherever it is.
    with exchange(
        request, reach=Reach(everything=True), trust=client_context(ca_file=ca_file), deadline=deadline
    ) as response:
        if response.status // 100 != _SUCCESS:
            raise OSError(f"the answer is {response.status} {response.reason}")
        found = content(response, LONGEST_SET)
        # Also what ended by itself may have been cut.
        deadline.left()
        return found


def parse_keys(content: bytes) -> dict[str, SigningKey]:
    """Returns the keys of a set by their ids: asymmetric ones that sign and have an id; others are passed over.

    ValueError when it is no key set.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("the answer is no JSON") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the answer has no keys")  # noqa: TRY004  # What was read is wrong, not what was passed.
    keys: dict[str, SigningKey] = {}
    for entry in entries[:_MOST_KEYS]:
        key_id = entry.get("kid") if isinstance(entry, dict) else None
        if not isinstance(key_id, str) or not key_id:
            continue
        key = _signing_key(entry)
        if key is None:
            continue
        if key_id in keys:
            raise ValueError("two keys have one id")
        keys[key_id] = key
    return keys


def _signing_key(entry: Mapping[str, Any]) -> SigningKey | None:
    operations, algorithm = entry.get("key_ops"), entry.get("alg")
    signs = entry.get("use", "sig") == "sig" and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )
    if not signs or "d" in entry or entry.get("kty") not in {"RSA", "EC", "OKP"}:
        return None
    try:
        key = jwt.PyJWK.from_dict(dict(entry)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, rsa.RSAPublicKey):
        fits = _LEAST_RSA_BITS <= key.key_size <= _LARGEST_RSA_BITS
    else:
        fits = isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return SigningKey(key, algorithm if isinstance(algorithm, str) else None) if fits else None


class KeySet:
    """The keys of one issuer, for any number of threads; `start` begins to fetch them.

    Args:
        url: where they are.
        ca_file: PEM of the roots that vouch for the URL; None: those of the machine.
        clock: tells when keys are to be fetched again.
        get: fetches; OSError or ValueError when it cannot.
    """

    def __init__(
        self, url: str, ca_file: Path | None, *, clock: Clock, get: Callable[[str, Path | None], bytes] = fetch
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._clock = clock
        self._get = get
        self._known = _Known()
        self._changed = threading.Condition()
        self._asked = False
        self._asked_last: datetime | None = None
        self._tried_last: datetime | None = None
        self._fetching = False
        self._stopping = False
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="jwks", daemon=True)

    def start(self) -> None:
        """Begins to fetch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends fetching; returns when the thread has ended, or is left to its last fetch."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)

    def wake(self) -> None:
        """Has the thread look now whether there is something to fetch."""
        with self._changed:
            self._changed.notify_all()

    def key(self, key_id: str) -> SigningKey:
        """Returns a key, after a fetch when it is not known.

        CREDENTIAL_INVALID when there is no such key, or all are stale.
        """
        known = self._fresh()
        found = known.keys.get(key_id)
        if found is None:
            self._ask()
            found = self._fresh().keys.get(key_id)
        if found is None:
            raise CertdError(
                Reason.CREDENTIAL_INVALID,
                "the token is signed with a key that its issuer does not publish; get a new token",
            )
        return found

    def _fresh(self) -> _Known:
        """Returns what is known; CREDENTIAL_INVALID when it is too old to be believed."""
        known = self._known
        if known.since is None:
            self._ask()
            known = self._known
        if known.since is None or self._clock.now() - known.since > STALE:
            raise CertdError(
                Reason.CREDENTIAL_INVALID,
                "the keys of the token's issuer cannot be fetched, so nothing vouches for the token; try again later, "
                "the log of certd says why",
                retry_after=BETWEEN_FAILURES.total_seconds(),
            )
        return known

    def _ask(self) -> None:
        """Has the keys fetched, unless they were just now, and waits a while for them."""
        with self._changed:
            now = self._clock.now()
            if not self._fetching and not self._asked:
                if self._asked_last is not None and now - self._asked_last < BETWEEN_UNKNOWN:
                    return
                self._asked, self._asked_last = True, now
                self._changed.notify_all()
            # Callers hold threads while they wait; those of one issuer may not hold all of them.
            if self._waiting >= _MOST_WAITING:
                return
            self._waiting += 1
            try:
                self._changed.wait_for(
                    lambda: self._stopping or not (self._asked or self._fetching), timeout=_CALLERS_WAIT
                )
            finally:
                self._waiting -= 1

    def _due(self) -> bool:
        """Whether it is time to fetch."""
        if self._asked or self._tried_last is None:
            return True
        now, since = self._clock.now(), self._known.since
        if since is None or since < self._tried_last:
            return now - self._tried_last >= BETWEEN_FAILURES
        return now - since >= REFRESH

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and not self._due():
                    self._changed.wait(_TICK)
                if self._stopping:
                    return
                self._asked, self._fetching = False, True
                self._tried_last = began = self._clock.now()
            known = self._fetch(began)
            with self._changed:
                if known is not None:
                    self._known = known
                self._fetching = False
                self._changed.notify_all()

    def _fetch(self, began: datetime) -> _Known | None:
        try:
            keys = parse_keys(self._get(self._url, self._ca_file))
        except (OSError, ValueError, http.client.HTTPException) as error:
            _log.warning("the keys at %s cannot be fetched: %s", self._url, error)
            return None
        except Exception:  # noqa: BLE001  # The last resort: without its thread the set would never be fetched again.
            _log.exception("defect while the keys at %s were fetched", self._url)
            return None
        if not keys:
            _log.warning("%s has no key that verifies signatures", self._url)
        return _Known(keys, began)
