"""What an authority key may sign: built by the daemon when the key is made, enforced by the token process ever after.

The bytes of a policy lie with the daemon; their SHA-256 is part of the key's label in the token, which cannot be
changed. So the daemon can neither widen a policy nor pass off another.
"""

import enum
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from certd.errors import CertdError, Reason, field_invalid
from certd.internal.token_pb2 import AuthorityKeyPolicy
from certd.internal.token_pb2 import SignatureKind as SignatureKindNumber
from certd.pki.checkpoint import parse_checkpoint
from certd.pki.extensions import CRL_DISTRIBUTION_POINTS
from certd.pki.key_spec import KeySpec, SignatureAlgorithm, fits
from certd.pki.ocsp_identifiers import HashAlgorithm, key_hash, name_hash
from certd.pki.ocsp_response import parse_response_data
from certd.pki.revocation_list import parse_tbs_revocation_list
from certd.pki.status_locations import named_partition
from certd.pki.tbs import ToBeSignedCertificate, parse_certification_request_info, parse_tbs_certificate


class SignatureKind(enum.IntEnum):
    """What is to be signed. The same numbers as the proto's `SignatureKind`."""

    CERTIFICATE = 1
    CERTIFICATION_REQUEST = 2
    REVOCATION_LIST = 3
    OCSP_RESPONSE = 4
    CHECKPOINT = 5


LONGEST_REVOCATION_LIST: Final = timedelta(days=367)
"""From thisUpdate to nextUpdate: the longest that an operator may choose, and a day."""
LONGEST_OCSP_RESPONSE: Final = timedelta(days=31)
"""From thisUpdate to nextUpdate: the longest that an operator may choose, and a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy, parsed."""

    kinds: frozenset[SignatureKind]
    issuer_name: bytes
    path_length: int | None
    longest_lifetime: timedelta
    self_signed: bool
    sha256: str
    """Of its bytes, in hexadecimal, as the label of the key has it."""


@dataclass(frozen=True, slots=True)
class CertifiedAuthority:
    """An authority key of the token that another one is to certify."""

    policy: Policy
    """That was sealed with it."""
    public_key: bytes
    """DER of its SubjectPublicKeyInfo."""


def authority_key_policy(
    *,
    kinds: Collection[SignatureKind],
    issuer_name: bytes,
    path_length: int | None,
    longest_lifetime: timedelta,
    self_signed: bool,
) -> bytes:
    """Returns the bytes of a policy, to be given with `create_authority_key` and with every item to sign.

    Args:
        kinds: what the key may sign.
        issuer_name: DER of the name that must stand as issuer, and as subject of the key's own requests.
        path_length: how many authorities may stand below this one; None: it signs no certificates of authorities
            except, with `self_signed`, its own.
        longest_lifetime: from not_before to not_after, the backdate included.
        self_signed: whether the key may sign its own certificate, as a root.
    """
    return AuthorityKeyPolicy(
        kinds=[SignatureKindNumber.Value(kind.name) for kind in sorted(kinds)],
        issuer_name=issuer_name,
        path_length=path_length,
        longest_lifetime_seconds=int(longest_lifetime.total_seconds()),
        self_signed=self_signed,
    ).SerializeToString(deterministic=True)


def parse_policy(policy: bytes) -> Policy:
    """Parses the bytes of a policy.

    FIELD_INVALID when they are none, or allow nothing, or hold a rule that this version does not know: ignoring it
    would allow what it forbids.
    """
    try:
        message = AuthorityKeyPolicy.FromString(policy)
    except DecodeError as error:
        raise field_invalid("policy", "is not an AuthorityKeyPolicy") from error
    known = {kind.value for kind in SignatureKind}
    if len(UnknownFieldSet(message)) or not set(message.kinds) <= known:
        raise field_invalid("policy", "has a rule that this token process does not know; upgrade it first")
    if not message.kinds or not message.issuer_name or not message.longest_lifetime_seconds:
        raise field_invalid("policy", "must name kinds, an issuer and a longest lifetime")
    kinds = frozenset(SignatureKind(kind) for kind in message.kinds)
    if SignatureKind.CHECKPOINT in kinds and len(kinds) > 1:
        raise field_invalid("policy", "must allow checkpoints alone, or none: what signs them signs nothing else")
    if message.path_length < 0 or message.longest_lifetime_seconds > timedelta.max // timedelta(seconds=1):
        raise field_invalid("policy", "has a path length or a longest lifetime out of range")
    return Policy(
        kinds=kinds,
        issuer_name=message.issuer_name,
        path_length=message.path_length if message.HasField("path_length") else None,
        longest_lifetime=timedelta(seconds=message.longest_lifetime_seconds),
        self_signed=message.self_signed,
        sha256=hashlib.sha256(policy).hexdigest(),
    )


def check(
    policy: Policy,
    *,
    kind: int,
    algorithm: SignatureAlgorithm,
    to_be_signed: bytes,
    key_spec: KeySpec,
    public_key: bytes,
    certified: CertifiedAuthority | None = None,
) -> str:
    """Checks what is to be signed against the policy of the key.

    Args:
        policy: of the key.
        kind: number of a `SignatureKind`, perhaps of none.
        algorithm: that the caller asks for.
        to_be_signed: DER.
        key_spec: of the key.
        public_key: DER of the key's own SubjectPublicKeyInfo.
        certified: another key of the token, which a root's cross-certificate of its own name is for.

    Returns a short description of what would be signed, for the journal. Raises TOKEN_POLICY_FORBIDS with the rule that
    is broken, and FIELD_INVALID when the bytes are not what they are said to be.
    """
    if kind not in policy.kinds or kind not in _DESCRIPTIONS:
        raise _forbid(f"unknown kind {kind}: the key signs {', '.join(_DESCRIPTIONS[k] for k in _usable(policy))}")
    if not fits(algorithm, key_spec):
        raise _forbid(f"the algorithm {algorithm} does not fit a key of kind {key_spec}")
    if kind == SignatureKind.CHECKPOINT:
        return f"checkpoint sequence={parse_checkpoint(to_be_signed, field='to_be_signed').seq}"
    if kind == SignatureKind.CERTIFICATION_REQUEST:
        return _check_request(policy, to_be_signed, public_key)
    if kind == SignatureKind.REVOCATION_LIST:
        return _check_revocation_list(policy, algorithm, to_be_signed)
    if kind == SignatureKind.OCSP_RESPONSE:
        return _check_ocsp_response(policy, to_be_signed, public_key)
    return _check_certificate(policy, algorithm, to_be_signed, public_key=public_key, certified=certified)


_DESCRIPTIONS: dict[int, str] = {
    SignatureKind.CERTIFICATE: "certificates",
    SignatureKind.CERTIFICATION_REQUEST: "certification requests",
    SignatureKind.REVOCATION_LIST: "revocation lists",
    SignatureKind.OCSP_RESPONSE: "OCSP responses",
    SignatureKind.CHECKPOINT: "checkpoints",
}
"""The kinds that this version signs."""


def _usable(policy: Policy) -> list[SignatureKind]:
    return sorted(kind for kind in policy.kinds if kind in _DESCRIPTIONS)


def _check_request(policy: Policy, to_be_signed: bytes, public_key: bytes) -> str:
    subject, requested_key = parse_certification_request_info(to_be_signed)
    if requested_key != public_key:
        raise _forbid("a certification request is signed with the key that stands in it, and with no other")
    if subject != policy.issuer_name:
        raise _forbid("the subject of the certification request is not the name of this authority, byte for byte")
    return "certification request"


def _check_revocation_list(policy: Policy, algorithm: SignatureAlgorithm, to_be_signed: bytes) -> str:
    revocations = parse_tbs_revocation_list(to_be_signed)
    if revocations.signature_algorithm is not algorithm:
        raise _forbid(f"the revocation list says {revocations.signature_algorithm} where {algorithm} is asked for")
    if revocations.issuer != policy.issuer_name:
        raise _forbid("the issuer of the revocation list is not the name of this authority, byte for byte")
    if revocations.next_update <= revocations.this_update:
        raise _forbid("the revocation list ends before it begins")
    # The last one of a key has to outlive what the key signed, which no other needs to.
    longest = max(LONGEST_REVOCATION_LIST, policy.longest_lifetime)
    if revocations.next_update - revocations.this_update > longest:
        raise _forbid(f"the revocation list is to hold longer than {longest}, and would hide what is revoked meanwhile")
    return f"revocation list number={revocations.number} next_update={revocations.next_update:%Y-%m-%dT%H:%M:%SZ}"


def _check_ocsp_response(policy: Policy, to_be_signed: bytes, public_key: bytes) -> str:
    response = parse_response_data(to_be_signed)
    if response.responder_key_hash != key_hash(HashAlgorithm.SHA1, public_key):
        raise _forbid("the OCSP response names another key as its responder than the one that is to sign it")
    for one in response.answers:
        if one.issuer_name_hash != name_hash(one.algorithm, policy.issuer_name):
            raise _forbid("the OCSP response is about a certificate of another issuer than the one of this key")
        # The key of a delegated responder cannot be told from the name; that of the authority itself is at hand.
        if SignatureKind.CERTIFICATE in policy.kinds and one.issuer_key_hash != key_hash(one.algorithm, public_key):
            raise _forbid("the OCSP response is about a certificate that another key has signed")
        if one.this_update > response.produced_at:
            raise _forbid("the OCSP response tells of a time after it was made")
        if one.next_update <= response.produced_at:
            raise _forbid("the OCSP response ends before it is made")
        if one.next_update - one.this_update > LONGEST_OCSP_RESPONSE:
            raise _forbid(
                f"the OCSP response is to hold longer than {LONGEST_OCSP_RESPONSE}, and would hide what is revoked"
                " meanwhile"
            )
    told = ",".join(f"{one.serial:x}:{one.state.value}" for one in response.answers)
    until = max(one.next_update for one in response.answers)
    return f"OCSP response answers={told} next_update={until:%Y-%m-%dT%H:%M:%SZ}"


def _check_certificate(
    policy: Policy,
    algorithm: SignatureAlgorithm,
    to_be_signed: bytes,
    *,
    public_key: bytes,
    certified: CertifiedAuthority | None,
) -> str:
    certificate = parse_tbs_certificate(to_be_signed)
    if certificate.signature_algorithm is not algorithm:
        raise _forbid(f"the certificate says {certificate.signature_algorithm} where {algorithm} is asked for")
    if certificate.issuer != policy.issuer_name:
        raise _forbid("the issuer of the certificate is not the name of this authority, byte for byte")
    if certificate.not_after <= certificate.not_before:
        raise _forbid("the certificate ends before it begins")
    if certificate.not_after - certificate.not_before > policy.longest_lifetime:
        raise _forbid(f"the certificate lives longer than {policy.longest_lifetime}, the most that this key signs")
    if certificate.authority:
        _check_authority(policy, certificate, public_key, certified)
    what = "authority certificate" if certificate.authority else "certificate"
    told = f"{what} serial={certificate.serial:x} not_after={certificate.not_after:%Y-%m-%dT%H:%M:%SZ}"
    # Books that lost it have nothing else by which to know on which CRL its readers look for it.
    points = certificate.extensions.get(CRL_DISTRIBUTION_POINTS)
    partition = None if points is None else named_partition(points.value)
    return told if partition is None else f"{told} crl_partition={partition}"


def _check_authority(
    policy: Policy, certificate: ToBeSignedCertificate, public_key: bytes, certified: CertifiedAuthority | None
) -> None:
    if certificate.subject == policy.issuer_name:
        # RFC 5280 does not count self-issued certificates in path lengths, so that none but its own may be signed.
        if not policy.self_signed:
            raise _forbid("this key is not that of a root and signs no certificate of its own name")
        if certified is not None and certified.public_key != public_key:
            _check_cross_certificate(policy, certificate, certified)
            return
        if certificate.public_key != public_key:
            raise _forbid("a self-signed certificate must hold the key that signs it")
        if certificate.path_length != policy.path_length:
            raise _forbid(f"the root's own certificate must have the path length {policy.path_length}")
        return
    if policy.path_length is None:
        raise _forbid("this key signs no certificates of authorities")
    if certificate.path_length is None or certificate.path_length >= policy.path_length:
        below = f"must have a path length below {policy.path_length}" if policy.path_length else "may not exist"
        raise _forbid(f"an authority below this one {below}")


def _check_cross_certificate(policy: Policy, certificate: ToBeSignedCertificate, certified: CertifiedAuthority) -> None:
    """Lets one key of a root certify another (RFC 4210, section 4.4), which lies in this token and is a root's as well.

    So a daemon that is not itself can make no key outside of the token the equal of the root's.
    """
    other = certified.policy
    if certificate.public_key != certified.public_key:
        raise _forbid("a cross-certificate must hold the key of the token that it is said to be for")
    if other.issuer_name != policy.issuer_name or not other.self_signed:
        raise _forbid("the key that would be certified is not that of a root of the same name")
    if policy.path_length is None or other.path_length is None:
        raise _forbid("a key that signs no certificates of authorities is in no cross-certificate either")
    if certificate.path_length is None or certificate.path_length > min(policy.path_length, other.path_length):
        raise _forbid("a cross-certificate may have no higher path length than either of the two keys")


def _forbid(finding: str) -> CertdError:
    return CertdError(Reason.TOKEN_POLICY_FORBIDS, f"The token process refuses to sign: {finding}.")
