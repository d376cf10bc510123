"""Signatures by authority keys: with the policy that was sealed with the key, and verified before they leave."""

from certd.errors import CertdError, Reason
from certd.pki.key_spec import SignatureAlgorithm, verify_signature
from certd.token.module import AUTHORITY_LABEL, Module
from certd.token.objects import AuthorityKey
from certd.token.policy import Policy


def key_with_policy(module: Module, key_id: bytes, policy: Policy) -> AuthorityKey:
    """Returns an authority key; TOKEN_POLICY_FORBIDS when another policy was sealed with it."""
    key = module.authority_key(key_id)
    if key.label != AUTHORITY_LABEL + policy.sha256:
        message = "The token process refuses to sign: this is not the policy that was sealed with the key."
        raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
    return key


def verified_signature(module: Module, key: AuthorityKey, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
    """Signs; TOKEN_UNAVAILABLE when what the token made does not verify.

    A signature that is wrong, by a fault or by design, may give the key away.
    """
    signature = module.sign(key.key_id, algorithm, data)
    if not verify_signature(key.public_key, algorithm, signature=signature, data=data):
        message = f"The token made a wrong signature with the key {key.key_id.hex()}; it was withheld."
        raise CertdError(Reason.TOKEN_UNAVAILABLE, message)
    return signature
