"""Authorities as callers see them, and how they are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from certd.errors import CertdError, Reason, Violation
from certd.model.authority import Authority, AuthorityKey, AuthorityState
from certd.model.event import Event, EventType
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.store import authorities, authority_keys, cross_certificates
from certd.store.store import Transaction

_MECHANISMS = {
    SignatureAlgorithm.SHA256_WITH_RSA: "CKM_SHA256_RSA_PKCS",
    SignatureAlgorithm.SHA384_WITH_RSA: "CKM_SHA384_RSA_PKCS",
    SignatureAlgorithm.SHA512_WITH_RSA: "CKM_SHA512_RSA_PKCS",
    SignatureAlgorithm.ECDSA_WITH_SHA256: "CKM_ECDSA",
    SignatureAlgorithm.ECDSA_WITH_SHA384: "CKM_ECDSA",
    SignatureAlgorithm.ECDSA_WITH_SHA512: "CKM_ECDSA",
    SignatureAlgorithm.PURE_ED25519: "CKM_EDDSA",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityView:
    """An authority as a caller sees it."""

    authority: Authority
    state: AuthorityState
    issuer_name: str
    """Resource name of its issuer; empty for a root, and for one whose parent is an outside one."""
    token_label: str
    mechanism: str
    keys: tuple[AuthorityKey, ...] = ()
    """The newest first; empty in lists."""
    cross_certificates: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    """DER, by the number of the key that they certify."""
    warnings: tuple[Warning, ...] = ()

    def mechanism_of(self, key: AuthorityKey) -> str:
        """Returns the PKCS#11 mechanism by which a key signs."""
        return _MECHANISMS[key.signature_algorithm or self.authority.signature_algorithm]


@dataclass(frozen=True, slots=True)
class AuthorityViews:
    """Makes views."""

    token_label: str

    def of(
        self,
        authority: Authority,
        issuer: Authority | None,
        now: datetime,
        *,
        keys: Sequence[AuthorityKey] | None = None,
        warnings: tuple[Warning, ...] = (),
    ) -> AuthorityView:
        """Returns the view of an authority whose issuer, where it is another one of ours, is `issuer`.

        Without `keys` it has the one that signs.
        """
        return AuthorityView(
            authority=authority,
            state=authority.state_at(now),
            issuer_name=issuer.name if issuer is not None else "",
            token_label=self.token_label,
            mechanism=_MECHANISMS[authority.signature_algorithm],
            keys=(own_key(authority),) if keys is None else tuple(keys),
            warnings=warnings,
        )

    def read(
        self, tx: Transaction, authority: Authority, now: datetime, *, warnings: tuple[Warning, ...] = ()
    ) -> AuthorityView:
        """Returns the view of an authority, whose issuer and keys are read.

        The key that signs is as `authority` has it, which may be planned and not yet written.
        """
        keys = [
            own_key(authority) if key.number == authority.key.number else key
            for key in authorities.keys(tx, authority.uid)
        ]
        view = self.of(authority, issuer_in_books(tx, authority), now, keys=keys, warnings=warnings)
        return replace(view, cross_certificates=cross_certificates.of_authority(tx, authority.uid))

    def listed(self, tx: Transaction, authority: Authority, now: datetime) -> AuthorityView:
        """Returns the view of an authority in a list, without its keys."""
        return self.of(authority, issuer_in_books(tx, authority), now, keys=())


def own_key(authority: Authority) -> AuthorityKey:
    """Returns the key that signs, with all that the authority says of it."""
    return replace(
        authority.key,
        key_spec=authority.key_spec,
        signature_algorithm=authority.signature_algorithm,
        certificate=authority.certificate,
        chain=authority.chain,
        not_after=authority.not_after,
        path_length=authority.path_length,
    )


def authority_with_key(tx: Transaction, authority: Authority, number: int | None) -> Authority:
    """Returns the authority as it is where one of its keys signs, None: the one that does.

    Raises AUTHORITY_KEY_NOT_FOUND.
    """
    if number is None or number == authority.key.number:
        return authority
    key = authority_keys.get(tx, authority.uid, number)
    if key is None:
        raise CertdError(
            Reason.AUTHORITY_KEY_NOT_FOUND,
            f"{authority.name} has no key with the number {number}; GetAuthority lists those that it has",
            metadata={"key_number": str(number)},
            resource=authority.name,
        )
    return authority.with_key(key)


def issuer_in_books(tx: Transaction, authority: Authority) -> Authority | None:
    """Returns the authority of ours that signs the certificate of another; None for a root, or an outside parent."""
    if authority.issuer_uid is None or authority.issuer_uid == authority.uid:
        return None
    issuer = authorities.get_by_uid(tx, authority.issuer_uid)
    if issuer is None:
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"the issuer of {authority.name} is gone from the books")
    return issuer


def chain_above(tx: Transaction, authority: Authority, key_number: int) -> tuple[bytes, ...]:
    """Returns the chain of what this key of the issuer of an authority signed, DER, as it is now; none below a root.

    Between an intent and its completion another key may come to sign, or this one get another certificate.
    """
    issuer = issuer_in_books(tx, authority)
    return () if issuer is None else authority_with_key(tx, issuer, key_number).full_chain


def check_etag(authority: Authority, etag: str, *, field: str = "etag") -> None:
    """Raises ETAG_MISMATCH unless `etag` is empty or the current one."""
    if etag in {"", authority.etag}:
        return
    problem = "is not the current one"
    raise CertdError(
        Reason.ETAG_MISMATCH,
        f"{authority.name} changed since it was read: {field} {problem}; read it again and repeat the change with its"
        " etag",
        metadata={"etag": authority.etag},
        violations=(Violation(field, problem),),
        resource=authority.name,
    )


def event_of(type_: EventType, authority: Authority, principal: str, now: datetime, **details: str) -> Event:
    """Returns an event of an authority."""
    return Event(
        time=now,
        type=type_,
        tenant=authority.tenant,
        principal=principal,
        resource=authority.name,
        details={
            "uid": authority.uid,
            "type": authority.type,
            "key_spec": authority.key_spec,
            "key_id": authority.key.key_id.hex(),
            "key_number": str(authority.key.number),
            **details,
        },
    )
