"""Authorities as callers see them, and how they are found."""

from dataclasses import dataclass
from datetime import datetime

from certd.errors import CertdError, Reason, Violation
from certd.model.authority import Authority, AuthorityState
from certd.model.event import Event, EventType
from certd.pki.key_spec import SignatureAlgorithm
from certd.pki.preparation import Warning  # noqa: A004  # The API's word.
from certd.store import authorities
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
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthorityViews:
    """Makes views."""

    token_label: str

    def of(
        self, authority: Authority, issuer: Authority | None, now: datetime, *, warnings: tuple[Warning, ...] = ()
    ) -> AuthorityView:
        """Returns the view of an authority whose issuer, where it is another one of ours, is `issuer`."""
        return AuthorityView(
            authority=authority,
            state=authority.state_at(now),
            issuer_name=issuer.name if issuer is not None else "",
            token_label=self.token_label,
            mechanism=_MECHANISMS[authority.signature_algorithm],
            warnings=warnings,
        )

    def read(
        self, tx: Transaction, authority: Authority, now: datetime, *, warnings: tuple[Warning, ...] = ()
    ) -> AuthorityView:
        """Returns the view of an authority, whose issuer is read."""
        return self.of(authority, issuer_in_books(tx, authority), now, warnings=warnings)


def issuer_in_books(tx: Transaction, authority: Authority) -> Authority | None:
    """Returns the authority of ours that signs the certificate of another; None for a root, or an outside parent."""
    if authority.issuer_uid is None or authority.issuer_uid == authority.uid:
        return None
    issuer = authorities.get_by_uid(tx, authority.issuer_uid)
    if issuer is None:
        raise CertdError(Reason.AUTHORITY_NOT_FOUND, f"the issuer of {authority.name} is gone from the books")
    return issuer


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
            **details,
        },
    )
