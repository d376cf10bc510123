"""The certificate of an authority key is replaced by another for the same key, and all that hangs on it follows.

What the key signed stays valid: name, key and subject key identifier of its issuer are the same, byte for byte. Chains
of authorities below it are stored, and lead through the new certificate from the same transaction on.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from certd.errors import CertdError, Reason
from certd.model.authority import Authority, AuthorityKey
from certd.pki.authority_certificate import standing_of
from certd.pki.certificate_chain import Element, parse
from certd.pki.name_constraints import NameConstraints, check
from certd.pki.names import normalise
from certd.services.status_locations import ensure_lists, resume_lists
from certd.store import authorities, authority_keys, live_certificates
from certd.store.store import Store, Transaction
from certd.token.policy import parse_policy

_BROKEN_TOLD: Final = 3
_MOST_LOOKED_AT: Final = 100_000
"""Certificates of which each is held against new bounds; those that live longest come first."""
_MOMENT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCertificate:
    """What takes the place of the certificate of an authority key."""

    der: bytes
    chain: tuple[bytes, ...]
    """DER, from its issuer up to the root."""
    not_after: datetime
    """When the first of them ends."""
    path_length: int
    """The lowest of all bounds."""


def replaced(authority: Authority, new: NewCertificate) -> Authority:
    """Returns the authority as it is where the key that signs in its name has the new certificate."""
    return replace(
        authority, certificate=new.der, chain=new.chain, not_after=new.not_after, path_length=new.path_length
    )


def replace_certificate(
    tx: Transaction, authority: Authority, new: NewCertificate, *, base_url: str | None, now: datetime
) -> None:
    """Replaces the certificate of the key that `authority` has, see `authority_with_key`, and all chains through it.

    Its last CRLs, if they are out because it had ended, are not the last: CRLs are signed again.
    """
    before = authority.certificate
    authority_keys.set_certificate(
        tx,
        authority.uid,
        authority.key.number,
        certificate=new.der,
        chain=new.chain,
        not_after=new.not_after,
        path_length=new.path_length,
        now=now,
    )
    after = replaced(authority, new)
    if before is not None:
        _follow(tx, after, before, now)
    ensure_lists(tx, after, base_url, now)
    resume_lists(tx, after, now)
    tx.configuration_changed()


def _follow(tx: Transaction, above: Authority, before: bytes, now: datetime) -> None:
    """Has chains that led through `before` lead through the certificate of `above`, all the way down."""
    for child in authorities.below(tx, above.uid):
        for key in authorities.keys(tx, child.uid):
            if key.certificate is None or key.chain[:1] != (before,):
                continue
            path_length, not_after = _bounds(key, key.certificate, above)
            bounded = replace(key, chain=above.full_chain, not_after=not_after, path_length=path_length)
            authority_keys.set_chain(tx, child.uid, bounded, now)
            _follow(tx, child.with_key(bounded), key.certificate, now)


def _bounds(key: AuthorityKey, certificate: bytes, above: Authority) -> tuple[int, datetime]:
    """Returns path length and end of what a key may sign by a certificate below an authority."""
    element = parse(certificate, field="certificate")
    bounds = (element.path_length, parse_policy(key.policy).path_length, max(0, above.path_length - 1))
    ends = (element.parsed.not_valid_after_utc, above.not_after)
    return min(one for one in bounds if one is not None), min(one for one in ends if one is not None)


def check_ends(tx: Transaction, authority: Authority, not_after: datetime) -> None:
    """Raises CERTIFICATE_IN_USE, naming some, when what the key signed would outlive a certificate that ends then."""
    found = _outliving(tx, authority, not_after)
    if found:
        raise _broken(authority, found, f"outlive the new certificate, which ends at {not_after:%Y-%m-%dT%H:%M:%SZ}")


def check_bounds(store: Store, authority: Authority, new: NewCertificate, now: datetime) -> None:
    """Raises CERTIFICATE_IN_USE, naming some, when what the key signed would be outside of new, narrower bounds.

    Looks at nothing where they are none: neither a lower path length nor other name constraints.
    """
    held = standing_of(new.der, new.chain).name_constraints
    before = (
        () if authority.certificate is None else standing_of(authority.certificate, authority.chain).name_constraints
    )
    narrower = tuple(one for one in held if one not in before)
    if new.path_length >= authority.path_length and not narrower:
        return
    with store.read("authorities.own-keys") as tx:
        own = live_certificates.own_keys(tx, authority.uid)
    uid, number = authority.uid, authority.key.number
    alive = live_certificates.walk(store, uid, number, now, own=own, most=_MOST_LOOKED_AT)
    broken = (serial for serial, der in alive if _is_outside(parse(der, field=serial), new.path_length, narrower))
    found = list(islice(broken, _BROKEN_TOLD + 1))
    if found:
        raise _broken(authority, found, "are not within the path length or the name constraints of the new certificate")


def _outliving(tx: Transaction, authority: Authority, not_after: datetime) -> list[str]:
    own = live_certificates.own_keys(tx, authority.uid)
    # Both ends of a validity count.
    after = not_after + _MOMENT
    return live_certificates.of_key(tx, authority.uid, authority.key.number, after, own=own, limit=_BROKEN_TOLD + 1)


def _is_outside(element: Element, path_length: int, narrower: tuple[NameConstraints, ...]) -> bool:
    """Returns whether a certificate breaks bounds of its issuer (RFC 5280, sections 6.1.3 and 6.1.4)."""
    authority = element.constraints is not None and element.constraints.ca
    if authority and element.self_issued:
        # Neither counts in a path length nor is held against name constraints.
        return False
    if authority and (element.path_length is None or element.path_length >= path_length):
        return True
    if not narrower:
        return False
    try:
        names = normalise(element.names, field="subject_alternative_names")
        return bool(check(narrower, subject=element.subject, names=names))
    except CertdError:
        # What cannot be held against constraints is not known to be within them.
        return True


def _broken(authority: Authority, found: list[str], what: str) -> CertdError:
    told = ", ".join(found[:_BROKEN_TOLD]) + (" and more" if len(found) > _BROKEN_TOLD else "")
    return CertdError(
        Reason.CERTIFICATE_IN_USE,
        f"certificates of {authority.name} that are alive {what}: {told}; replace or revoke them, or set"
        " allow_broken_certificates",
        metadata={"certificates": told, "key_number": str(authority.key.number)},
        resource=authority.name,
    )
