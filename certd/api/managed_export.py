"""ExportManagedCertificate: convert, call `services.managed_export`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.errors import CertdError, Reason, Violation, field_invalid
from certd.model.names import ManagedCertificateName
from certd.model.request_limits import RequestLimits
from certd.pki import pkcs8
from certd.pki.export_form import ExportForm, check_passphrase
from certd.services.managed_export import ManagedExport, PassphraseExport, RecipientExport
from certd.v1 import managed_certificate_service_pb2

_X25519_BYTES: Final = 32
_LONGEST_REASON: Final = 256


def methods(managed_export: ManagedExport, limits: RequestLimits) -> Methods:
    """Returns the function that answers the method of exports."""
    return {"ExportManagedCertificate": partial(export_managed_certificate, managed_export, limits)}


def export_managed_certificate(
    managed_export: ManagedExport,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ExportManagedCertificateRequest,
    call: Call,
) -> managed_certificate_service_pb2.ExportManagedCertificateResponse:
    """ExportManagedCertificate."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    if request.version < 0:
        violations.add("version", "must be the number of a version, or 0 for the current one")
    protection = violations.attempt(lambda: _protection(request, limits))
    reason = violations.attempt(lambda: fields.text("reason", request.reason, longest=_LONGEST_REASON))
    violations.check()
    exported = managed_export.export(
        call.caller, name, version=request.version or None, protection=protection, reason=reason
    )
    response = managed_certificate_service_pb2.ExportManagedCertificateResponse(
        version=exported.version,
        certificate=x509.encoded(exported.certificate),
        chain=x509.encoded_chain(exported.chain),
    )
    if isinstance(protection, RecipientExport):
        response.sealed_private_key = exported.encrypted_key
        response.hpke_info = exported.hpke_info
    elif protection.form.is_pkcs12:
        response.pkcs12 = exported.encrypted_key
    else:
        response.encrypted_private_key_pem = pkcs8.to_pem(exported.encrypted_key).decode("ascii")
    return response


def _protection(
    request: managed_certificate_service_pb2.ExportManagedCertificateRequest, limits: RequestLimits
) -> PassphraseExport | RecipientExport:
    chosen = request.WhichOneof("protection")
    if chosen is None:
        unprotected = "is required: passphrase or recipient; a private key never leaves unprotected"
        raise CertdError(
            Reason.FIELD_INVALID, f"protection: {unprotected}", violations=(Violation("protection", unprotected),)
        )
    if chosen == "passphrase":
        passphrase = request.passphrase
        formats = managed_certificate_service_pb2.PassphraseProtection.Format
        form = fields.choice("passphrase.format", formats, passphrase.format, ExportForm) or ExportForm.PKCS8
        check_passphrase(form, passphrase.passphrase, "passphrase.passphrase", most=limits.passphrase_bytes)
        return PassphraseExport(passphrase.passphrase, form)
    recipient = request.recipient
    suites = managed_certificate_service_pb2.RecipientProtection.Suite
    fields.choice("recipient.suite", suites, recipient.suite, str)
    if len(recipient.public_key) != _X25519_BYTES:
        raise field_invalid("recipient.public_key", f"must be the {_X25519_BYTES} bytes of a raw X25519 public key")
    return RecipientExport(recipient.public_key)
