"""Which key answers for what an authority key has issued, and until when.

A responder with a key and a certificate of its own does, as a rule. The authority's own key signs answers itself until
there is a responder, and near its end, when one would not live for an hour.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityState
from certd.model.certificate import CertificateState
from certd.model.job import JobKind
from certd.model.names import normalise_serial
from certd.pki.description import describe
from certd.pki.key_spec import (
    KeyFamily,
    KeySpec,
    SignatureAlgorithm,
    default_signature_algorithm,
    family_of,
    key_spec_of,
    load_public_key_der,
)
from certd.pki.ocsp_identifiers import CertId, HashAlgorithm, key_hash, name_hash
from certd.services.ocsp_jobs import subject_of
from certd.services.remembered import Remembered
from certd.store import authorities, certificates, jobs, ocsp_responders, revoked_certificates
from certd.store.ocsp_responders import Responder
from certd.store.store import Store, Transaction
from certd.token.policy import SignatureKind, parse_policy

SHORTEST_USE: Final = timedelta(hours=1)
"""A responder whose certificate ends earlier than that answers nothing more."""
AUTHORITY: Final = 0
"""Number under which the authority's own key stands among its responders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweringKey:
    """A key that signs answers."""

    number: int
    """Of the responder; AUTHORITY for the authority's own key."""
    key_id: bytes
    policy: bytes
    public_key: bytes
    """DER of its SubjectPublicKeyInfo."""
    signature_algorithm: SignatureAlgorithm
    not_after: datetime
    """No answer holds longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """All that answers need to know of an authority key."""

    authority: Authority
    """As it is where this key signs in its name."""
    keys: tuple[AnsweringKey, ...]
    """The newest responder first, the authority's own last."""
    certificates: dict[int, bytes]
    """Of the responders, DER, by number."""

    @property
    def lifetime(self) -> timedelta:
        """From thisUpdate to nextUpdate."""
        return self.authority.revocation.ocsp.lifetime

    def key_at(self, now: datetime) -> AnsweringKey | None:
        """Returns the key that signs now; None when none may any more."""
        for key in self.keys:
            if now < key.not_after - (SHORTEST_USE if key.number else timedelta()):
                return key
        return None

    def is_about(self, asked: CertId) -> bool:
        """Returns whether a certificate is named as one that this key has issued."""
        authority = self.authority
        return asked.issuer_name_hash == name_hash(
            asked.algorithm, authority.subject
        ) and asked.issuer_key_hash == key_hash(asked.algorithm, authority.key.public_key or b"")


class OcspKeys:
    """Finds them, and keeps them until the configuration changes."""

    def __init__(self, store: Store) -> None:
        self._answering: Remembered[tuple[str, int], Answering] = Remembered(store, "ocsp.keys", load_answering)

    def get(self, authority_uid: str, key_number: int) -> Answering:
        """Returns what answers for a key; raises AUTHORITY_NOT_FOUND when nobody does."""
        return self._answering.get((authority_uid, key_number))


def load_answering(tx: Transaction, key: tuple[str, int]) -> Answering:
    """Reads what answers for a key; raises AUTHORITY_NOT_FOUND when nobody does."""
    uid, number = key
    found = authorities.get_by_uid(tx, uid)
    own = None if found is None else next((one for one in authorities.keys(tx, uid) if one.number == number), None)
    if found is None or found.tenant is None or own is None or own.certificate is None or own.public_key is None:
        raise not_found()
    if found.state is AuthorityState.PURGED:
        # Its last CRLs say what there is to say; the keys of those who answered are destroyed.
        raise not_found()
    authority = found.with_key(own)
    responders = ocsp_responders.of_key(tx, uid, number)
    if not authority.revocation.ocsp.enabled and not responders and not _was_enabled(tx, authority):
        # Settings touch new certificates only: where it was enabled once, certificates name it.
        raise not_found()
    # One that is revoked answers nothing more, and what it signed ahead is signed anew.
    able = [one for one in responders if one.certificate is not None and not _is_revoked(tx, uid, one.certificate)]
    keys = [_answering_key(one) for one in able]
    if authority.not_after is not None and SignatureKind.OCSP_RESPONSE in parse_policy(own.policy).kinds:
        keys.append(
            AnsweringKey(
                number=AUTHORITY,
                key_id=own.key_id,
                policy=own.policy,
                public_key=own.public_key,
                signature_algorithm=authority.signature_algorithm,
                not_after=authority.not_after,
            )
        )
    return Answering(
        authority=authority,
        keys=tuple(keys),
        certificates={one.number: one.certificate for one in able if one.certificate is not None},
    )


def _is_revoked(tx: Transaction, uid: str, certificate: bytes) -> bool:
    serial = normalise_serial("serial_number", describe(certificate).serial_number)
    row = certificates.get(tx, uid, serial)
    return row is not None and row.state is CertificateState.REVOKED


def _was_enabled(tx: Transaction, authority: Authority) -> bool:
    """Returns whether OCSP was disabled in the first minute, before there was a responder, and something was issued."""
    subject = subject_of(authority.uid, authority.key.number)
    if jobs.due_time(tx, JobKind.ADVANCE_OCSP_RESPONDER, subject) is None:
        return False
    return revoked_certificates.last_end(tx, authority.uid, authority.key.number) is not None


def responder_key_spec(authority: Authority) -> KeySpec:
    """Returns the kind of key that a responder of an authority has.

    A relying party that verifies what an EC or Ed25519 authority signs verifies P-256 too, the quickest in a token and
    the shortest on the wire. Of one that trusts an RSA authority nothing is known but that it can do RSA.
    """
    rsa = family_of(authority.signature_algorithm) is KeyFamily.RSA
    return KeySpec.RSA_2048 if rsa else KeySpec.EC_P256


def responder_key_hash(key: AnsweringKey) -> bytes:
    """Returns by what answers name the key that signed them (RFC 6960, section 4.2.1)."""
    return key_hash(HashAlgorithm.SHA1, key.public_key)


def _answering_key(responder: Responder) -> AnsweringKey:
    # Who has a certificate has all of it.
    assert responder.public_key is not None and responder.not_after is not None  # noqa: S101, PT018
    spec = key_spec_of(load_public_key_der(responder.public_key))
    assert spec is not None  # noqa: S101
    return AnsweringKey(
        number=responder.number,
        key_id=responder.key_id,
        policy=responder.policy,
        public_key=responder.public_key,
        signature_algorithm=default_signature_algorithm(spec),
        not_after=responder.not_after,
    )


def not_found() -> CertdError:
    """Returns the error of a path under which nobody answers."""
    return CertdError(Reason.AUTHORITY_NOT_FOUND, "nobody answers OCSP requests under this uid and key number")
