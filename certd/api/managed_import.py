"""ManagedCertificateService, imports: convert, call `services.managed_import`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.api.managed_certificates import managed_certificate_message
from certd.errors import field_invalid
from certd.model.import_key import ImportKey
from certd.model.names import ImportKeyName, ManagedCertificateName, TenantName, check_id
from certd.model.request_limits import RequestLimits
from certd.pki.encoding import LONGEST_CHAIN
from certd.pki.imported_certificate import LONGEST_CERTIFICATE
from certd.pki.private_key import LONGEST_PRIVATE_KEY
from certd.services.idempotency import RequestKey
from certd.services.managed_import import ManagedImport
from certd.services.managed_import_plan import NewImport, PlainPrivateKey, SealedPrivateKey
from certd.v1 import managed_certificate_pb2, managed_certificate_service_pb2

_IMPORT: Final = "ImportManagedCertificate"
_HPKE_BYTES: Final = 32 + 16
"""Encapsulated key and tag, which a sealed key has more than a plain one."""


def methods(managed_import: ManagedImport, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "ImportManagedCertificate": partial(import_managed_certificate, managed_import, limits),
        "GetImportKey": partial(get_import_key, managed_import),
        "RollBackManagedCertificate": partial(roll_back_managed_certificate, managed_import),
    }


def import_managed_certificate(
    managed_import: ManagedImport,
    limits: RequestLimits,
    request: managed_certificate_service_pb2.ImportManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """ImportManagedCertificate."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    id_ = violations.attempt(lambda: check_id("managed_certificate_id", request.managed_certificate_id))
    key = violations.attempt(lambda: _request_key(request))
    certificate = violations.attempt(
        lambda: _bounded("certificate", request.certificate, longest=LONGEST_CERTIFICATE, required=True)
    )
    chain = violations.attempt(
        lambda: _bounded("certificate_chain", request.certificate_chain, longest=LONGEST_CHAIN, required=False)
    )
    private_key = violations.attempt(lambda: _private_key(request))
    exportable = violations.attempt(lambda: _exportable(request.export_policy))
    labels = violations.attempt(lambda: fields.labels("labels", request.labels, most=limits.labels))
    # Nobody asks the message for it again.
    request.ClearField("plain_private_key")
    violations.check()
    view = managed_import.import_(
        call.caller,
        NewImport(
            name=ManagedCertificateName(parent.tenant, id_),
            certificate=certificate,
            chain=chain,
            private_key=private_key,
            exportable=exportable,
            labels=labels,
            replace=request.replace,
        ),
        key=key,
        validate_only=request.validate_only,
    )
    return managed_certificate_message(view)


def get_import_key(
    managed_import: ManagedImport,
    request: managed_certificate_service_pb2.GetImportKeyRequest,
    call: Call,
) -> managed_certificate_service_pb2.ImportKey:
    """GetImportKey."""
    parent = TenantName.parse("parent", request.parent)
    return _import_key_message(managed_import.import_key(call.caller, parent))


def roll_back_managed_certificate(
    managed_import: ManagedImport,
    request: managed_certificate_service_pb2.RollBackManagedCertificateRequest,
    call: Call,
) -> managed_certificate_pb2.ManagedCertificate:
    """RollBackManagedCertificate."""
    violations = fields.Violations()
    name = violations.attempt(lambda: ManagedCertificateName.parse("name", request.name))
    if request.version < 0:
        violations.add("version", "must be the number of a version, or 0 for the one before the current")
    key = violations.attempt(lambda: fields.request_key("RollBackManagedCertificate", request, request.request_id))
    violations.check()
    view = managed_import.roll_back(call.caller, name, version=request.version or None, etag=request.etag, key=key)
    return managed_certificate_message(view)


def _request_key(request: managed_certificate_service_pb2.ImportManagedCertificateRequest) -> RequestKey | None:
    """Returns what makes the call repeatable: a hash of a secret is none of the books', and sealing is random."""
    bare = managed_certificate_service_pb2.ImportManagedCertificateRequest()
    bare.CopyFrom(request)
    for field in ("plain_private_key", "sealed_private_key"):
        bare.ClearField(field)
    return fields.request_key(_IMPORT, bare, request.request_id)


def _bounded(field: str, value: bytes, *, longest: int, required: bool) -> bytes:
    fields.required(field, present=bool(value) or not required)
    if len(value) > longest:
        raise field_invalid(field, f"must have at most {longest} bytes, and has {len(value)}")
    return value


def _private_key(
    request: managed_certificate_service_pb2.ImportManagedCertificateRequest,
) -> PlainPrivateKey | SealedPrivateKey:
    chosen = request.WhichOneof("private_key")
    if chosen is None:
        raise field_invalid("private_key", "is required: plain_private_key or sealed_private_key")
    if chosen == "plain_private_key":
        field = "plain_private_key"
        return PlainPrivateKey(_bounded(field, request.plain_private_key, longest=LONGEST_PRIVATE_KEY, required=True))
    violations = fields.Violations()
    import_key = violations.attempt(lambda: _import_key_name(request))
    ciphertext = violations.attempt(
        lambda: _bounded(
            "sealed_private_key.ciphertext",
            request.sealed_private_key.ciphertext,
            longest=LONGEST_PRIVATE_KEY + _HPKE_BYTES,
            required=True,
        )
    )
    violations.check()
    return SealedPrivateKey(import_key, ciphertext)


def _import_key_name(request: managed_certificate_service_pb2.ImportManagedCertificateRequest) -> ImportKeyName:
    field = "sealed_private_key.import_key"
    name = ImportKeyName.parse(field, request.sealed_private_key.import_key)
    if request.parent != str(TenantName(name.tenant)):
        raise field_invalid(field, "must be a key of the tenant that is imported into")
    return name


def _exportable(number: int) -> bool | None:
    kind = managed_certificate_pb2.ManagedCertificate
    policy = fields.choice("export_policy", kind.ExportPolicy, number, str)
    return None if policy is None else policy == "EXPORTABLE"


def _import_key_message(key: ImportKey) -> managed_certificate_service_pb2.ImportKey:
    return managed_certificate_service_pb2.ImportKey(
        name=str(key.name),
        public_key=key.public_key,
        statement=key.statement,
        signature=key.signature,
        signature_algorithm=x509.signature_algorithm_number(key.signature_algorithm),
        authority_certificate=x509.encoded(key.authority_certificate),
        expire_time=x509.timestamp(key.expire_time),
    )
