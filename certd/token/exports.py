"""Opens keys in custody for whoever exports them: to be encrypted to a recipient's key, or under a passphrase."""

import functools
import hashlib
import time

from certd.errors import CertdError, Reason, field_invalid
from certd.internal import token_pb2 as messages
from certd.pki import sealing
from certd.pki.export_form import ExportForm, check_passphrase, protect
from certd.pki.pkcs12 import public_key_of
from certd.pki.sealing import Purpose, SealContext
from certd.token.handed_on import InHelper
from certd.token.journal import Journal
from certd.token.module import Module
from certd.token.pin import wipe
from certd.token.rate import TokenBucket
from certd.token.requests import check_key_id, context_of, in_journal, whose
from certd.token.seal import unseal
from certd.token.settings import TokenSettings

# A helper that computes without the library holds the interpreter, for which the thread of the module waits: for 5 ms
# each time, unless it is let go before.
_let_others_go_on = functools.partial(time.sleep, 0)


class Exports:
    """Exports keys. For the thread of the module, but for what it hands on."""

    def __init__(self, module: Module, settings: TokenSettings, journal: Journal) -> None:
        self._module = module
        self._journal = journal
        self._rate = TokenBucket(settings.exports_per_minute)

    def export(self, request: messages.ExportRequest) -> messages.TokenResponse | InHelper:
        """Opens a key and encrypts it; a helper does so where a passphrase is to be hashed.

        FIELD_INVALID for a passphrase or a recipient that is none, an unknown form, or certificates that do not begin
        with the one of the key; NOT_EXPORTABLE; TOKEN_POLICY_FORBIDS when the sealed key does not open; RATE_LIMITED.
        """
        check_key_id("wrapping_key_id", request.wrapping_key_id)
        context = context_of(request.context)
        form = None
        if request.WhichOneof("protection") == "passphrase":
            form = _form_named(request.format)
            _check(form, request, context)
        else:
            sealing.check_recipient(request.recipient_public_key, "recipient_public_key")
        self._allow(context)
        private_key = unseal(self._module, request.sealed_key, wrapping_key_id=request.wrapping_key_id, context=context)
        how = {"form": form.value} if form is not None else {"recipient_sha256": _sha256(request.recipient_public_key)}
        self._journal.record("export", key=request.wrapping_key_id.hex(), **in_journal(context), **how)

        def encrypted() -> messages.TokenResponse:
            try:
                if form is None:
                    result = sealing.hpke_encrypt(
                        bytes(private_key),
                        recipient_public_key=request.recipient_public_key,
                        info=sealing.export_info(context),
                    )
                else:
                    result = protect(
                        form,
                        bytes(private_key),
                        request.passphrase,
                        certificates=request.certificates,
                        friendly_name=request.friendly_name,
                        pause=_let_others_go_on,
                    )
            finally:
                wipe(private_key)
            return messages.TokenResponse(export=messages.ExportResponse(encrypted_key=result))

        return encrypted() if form is None else InHelper(encrypted)

    def _allow(self, context: SealContext) -> None:
        """Raises unless the key may be exported, now."""
        if not context.exportable:
            message = f"The key of {whose(context)} was sealed as not exportable, and that is for ever."
            raise CertdError(Reason.NOT_EXPORTABLE, message)
        if context.purpose is not Purpose.CUSTODY:
            message = "The token process exports keys in custody; a copy for a consumer is leased to that consumer."
            raise CertdError(Reason.TOKEN_POLICY_FORBIDS, message)
        retry_after = self._rate.take()
        if retry_after:
            message = f"The token process has exported as many keys as it may; try again in {retry_after:.1f} s."
            raise CertdError(Reason.RATE_LIMITED, message, retry_after=retry_after)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _form_named(name: str) -> ExportForm:
    """Returns the form; FIELD_INVALID when there is none of that name."""
    if name and name not in ExportForm.__members__:
        raise field_invalid("format", f"must be one of {', '.join(ExportForm)}")
    return ExportForm(name) if name else ExportForm.PKCS8


def _check(form: ExportForm, request: messages.ExportRequest, context: SealContext) -> None:
    """FIELD_INVALID for a passphrase or certificates that do not fit, while nothing is opened yet."""
    check_passphrase(form, request.passphrase, "passphrase")
    if not form.is_pkcs12:
        return
    of_first = public_key_of(request.certificates[0]) if request.certificates else b""
    if hashlib.sha256(of_first).digest() != context.public_key_sha256:
        raise field_invalid("certificates", "must begin with the certificate that holds the key")
