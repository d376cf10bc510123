"""Takes keys in custody that were made elsewhere: plain, or sealed to a key that this process made and vouches for.

What is plain passes through the daemon. What is sealed to an import key does not: its private half is generated here,
lies sealed with the daemon, and opens nowhere else. Whoever sealed it said for which certificate and whether it may be
exported, and the daemon cannot have it imported as anything else.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from certd.clock import Clock
from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.pki import import_key as import_keys
from certd.pki.import_key import ImportKeyStatement
from certd.pki.key_spec import fits
from certd.pki.lease import time_of
from certd.pki.private_key import private_key_info
from certd.pki.sealing import Purpose, SealContext
from certd.token.handed_on import InHelper, InModule
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.pin import wipe
from certd.token.policy import SignatureKind, parse_policy
from certd.token.rate import TokenBucket
from certd.token.requests import check_key_id, context_of, in_journal, signature_algorithm_named, whose
from certd.token.seal import seal, unseal
from certd.token.settings import TokenSettings
from certd.token.signatures import key_with_policy, verified_signature

_logger = logging.getLogger(__name__)


class Imports:
    """Imports keys. For the thread of the module, but for what it hands on."""

    def __init__(self, module: Module, settings: TokenSettings, clock: Clock, journal: Journal) -> None:
        self._module = module
        self._journal = journal
        self._clock = clock
        self._rate = TokenBucket(settings.imports_per_minute)

    def generate_import_key(self, request: messages.GenerateImportKeyRequest) -> messages.GenerateImportKeyResponse:
        """Makes a key pair, seals its private half, and has an authority's key sign what the public half is.

        FIELD_INVALID for a context that is none of an import key; TOKEN_POLICY_FORBIDS when the policy is not the
        authority key's or the algorithm does not fit it.
        """
        check_key_id("wrapping_key_id", request.wrapping_key_id)
        check_key_id("authority_key_id", request.authority_key_id)
        context = context_of(request.context)
        _check_import_context(context, field="context")
        if context.public_key_sha256:
            raise field_invalid("context.public_key_sha256", "must be empty; the token process fills it in")
        expire_time = time_of(request.expire_time)
        if expire_time is None:
            raise field_invalid("expire_time", "is a time that no calendar has")
        algorithm = signature_algorithm_named(request.signature_algorithm)
        policy = parse_policy(request.authority_policy)
        if SignatureKind.CERTIFICATE not in policy.kinds:
            message = "The token process refuses to sign: import keys are vouched for by keys of authorities alone."
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        authority = key_with_policy(self._module, request.authority_key_id, policy)
        if not fits(algorithm, authority.spec):
            message = f"The token process refuses to sign: {algorithm} does not fit a key of kind {authority.spec}."
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        private_key, public_key = import_keys.generate_import_key()
        sealed_key = seal(
            self._module,
            private_key,
            wrapping_key_id=request.wrapping_key_id,
            context=context,
            public_key=import_keys.subject_public_key_info(public_key),
        )
        statement = import_keys.import_key_statement(
            tenant=context.tenant, import_key_id=context.certificate, public_key=public_key, expire_time=expire_time
        )
        signature = verified_signature(self._module, authority, algorithm, statement)
        self._journal.record(
            "generate-import-key",
            key=request.wrapping_key_id.hex(),
            **in_journal(context),
            signer=request.authority_key_id.hex(),
            sha256=hashlib.sha256(statement).hexdigest(),
        )
        return messages.GenerateImportKeyResponse(
            public_key=public_key, sealed_key=sealed_key, statement=statement, signature=signature
        )

    def import_key(self, request: messages.ImportKeyRequest) -> InHelper:
        """Verifies a private key against the public one and seals it; a helper reads it, for RSA takes its time.

        FIELD_INVALID and KEY_TOO_WEAK when it is none that can be imported; IMPORT_KEY_MISMATCH when it is another;
        FIELD_INVALID too when it was sealed for another export policy, import key or certificate than these;
        TOKEN_POLICY_FORBIDS when it is sealed to an import key that does not open, or has ended; RATE_LIMITED.
        """
        check_key_id("wrapping_key_id", request.wrapping_key_id)
        context = context_of(request.context)
        if context.purpose is not Purpose.CUSTODY or context.consumer:
            raise field_invalid("context.purpose", "must be custody, and for no consumer; that is where keys begin")
        if context.public_key_sha256:
            raise field_invalid("context.public_key_sha256", "must be empty; the token process fills it in")
        how = request.WhichOneof("private_key")
        if how is None:
            raise field_invalid("private_key", "must be there, plain or sealed to an import key")
        self._take_place()
        opening = self._sealed(request, context) if how == "sealed" else _plain(request)
        wrapping_key_id, public_key = request.wrapping_key_id, request.public_key

        def verify() -> InModule:
            try:
                info, found, spec = _read(opening())
            except CertdError as error:
                _logger.warning("not imported the key of %s: %s", whose(context), error)
                raise
            if found != public_key:
                wipe(info)
                _logger.warning("not imported the key of %s: it is that of another certificate", whose(context))
                raise _mismatch()
            return InModule(lambda: keep(info, spec))

        def keep(info: bytearray, spec: str) -> messages.TokenResponse:
            sealed_key = seal(
                self._module, info, wrapping_key_id=wrapping_key_id, context=context, public_key=public_key
            )
            bound = {"key_spec": spec, "public_key_sha256": hashlib.sha256(public_key).hexdigest(), "form": how}
            self._journal.record("import", key=wrapping_key_id.hex(), **in_journal(context), **bound)
            return messages.TokenResponse(import_key=messages.ImportKeyResponse(sealed_key=sealed_key, key_spec=spec))

        return InHelper(verify)

    def _take_place(self) -> None:
        retry_after = self._rate.take()
        if retry_after:
            message = f"The token process has imported as many keys as it may; try again in {retry_after:.1f} s."
            raise CertdError(Reason.RATE_LIMITED, message, retry_after=retry_after)

    def _sealed(self, request: messages.ImportKeyRequest, context: SealContext) -> Callable[[], bytearray]:
        """Opens the import key; returns what opens the private key with it and wipes it, on any thread, once."""
        sealed = request.sealed
        check_key_id("sealed.wrapping_key_id", sealed.wrapping_key_id)
        own = context_of(sealed.context, field="sealed.context")
        _check_import_context(own, field="sealed.context")
        statement = import_keys.parse_import_key_statement(sealed.statement)
        bound = _bound(own, statement)
        if own.tenant != context.tenant:
            message = "The token process refuses to import: the import key is another tenant's."
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        if self._clock.now() >= statement.expire_time:
            message = f"The import key ended at {statement.expire_time:%Y-%m-%dT%H:%M:%SZ}; seal to the one of now."
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        private_key = unseal(
            self._module, sealed.sealed_import_key, wrapping_key_id=sealed.wrapping_key_id, context=bound
        )
        ciphertext = sealed.ciphertext
        # Made of what the key will be sealed as, so that it opens only if the client sealed it for that.
        info = import_keys.import_info(sealed.statement, public_key=request.public_key, exportable=context.exportable)

        def opened() -> bytearray:
            try:
                return import_keys.open_private_key(ciphertext, import_key=bytes(private_key), info=info)
            finally:
                wipe(private_key)

        return opened


def _plain(request: messages.ImportKeyRequest) -> Callable[[], bytearray]:
    private_key = bytearray(request.plain)
    request.ClearField("plain")
    return lambda: private_key


def _read(given: bytearray) -> tuple[bytearray, bytes, str]:
    """Parses a private key and wipes it."""
    try:
        info, public_key, spec = private_key_info(bytes(given))
    finally:
        wipe(given)
    return info, public_key, spec.value


def _bound(context: SealContext, statement: ImportKeyStatement) -> SealContext:
    """Returns what the import key of a statement is bound to; TOKEN_POLICY_FORBIDS when that is another."""
    public_key_sha256 = hashlib.sha256(import_keys.subject_public_key_info(statement.public_key)).digest()
    same_key = context.public_key_sha256 in {b"", public_key_sha256}
    if not same_key or (context.tenant, context.certificate) != (statement.tenant, statement.import_key_id):
        message = "The token process refuses to import: the statement is about another import key."
        raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
    return replace(context, public_key_sha256=public_key_sha256)


def _check_import_context(context: SealContext, *, field: str) -> None:
    if context.purpose is not Purpose.IMPORT:
        raise field_invalid(f"{field}.purpose", f"must be {Purpose.IMPORT}")
    if context.version != 1 or context.consumer or context.exportable:
        raise field_invalid(field, "must be of version 1, for no consumer and not exportable")


def _mismatch() -> CertdError:
    return CertdError(
        Reason.IMPORT_KEY_MISMATCH,
        "private_key is not the key of the certificate; give the one that belongs to it. "
        "openssl pkey -in KEY -pubout and openssl x509 -in CERTIFICATE -noout -pubkey print the same for a pair.",
    )
