"""The formats in which devices get a managed certificate."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from certd.errors import CertdError, field_invalid
from certd.pki import pkcs7, pkcs8
from certd.pki.encoding import certificate_pem
from certd.pki.export_form import ExportForm
from certd.services.managed_certificate_views import Material
from certd.services.managed_export import Exported


class DeviceFormat(enum.StrEnum):
    """What one download holds."""

    PKCS8 = "pkcs8"
    """PEM: the key, encrypted, the certificate, those above it."""
    PKCS12_MODERN = "pkcs12-modern"
    PKCS12_LEGACY = "pkcs12-legacy"
    ACM_COMPATIBLE = "acm-compatible"
    """As pkcs8, the key encrypted as AWS Certificate Manager does it."""
    PEM = "pem"
    """The certificate and those above it."""
    PKCS7 = "pkcs7"
    """The same, in DER."""
    DER = "der"
    """The certificate alone."""
    CA = "ca"
    """PEM of the last of those above it: the root."""


@dataclass(frozen=True, slots=True)
class _Kind:
    media_type: str
    file_name_end: str
    form: ExportForm | None = None
    """Of the key; None without one."""


_PEM_FILE: Final = "application/x-pem-file"
_KINDS: Final[Mapping[DeviceFormat, _Kind]] = {
    DeviceFormat.PKCS8: _Kind(_PEM_FILE, ".pem", ExportForm.PKCS8),
    DeviceFormat.PKCS12_MODERN: _Kind("application/x-pkcs12", ".p12", ExportForm.PKCS12_MODERN),
    DeviceFormat.PKCS12_LEGACY: _Kind("application/x-pkcs12", ".p12", ExportForm.PKCS12_LEGACY),
    DeviceFormat.ACM_COMPATIBLE: _Kind(_PEM_FILE, ".pem", ExportForm.ACM_COMPATIBLE),
    DeviceFormat.PEM: _Kind("application/pem-certificate-chain", "-chain.pem"),
    DeviceFormat.PKCS7: _Kind("application/pkcs7-mime; smime-type=certs-only", ".p7b"),
    DeviceFormat.DER: _Kind("application/pkix-cert", ".cer"),
    DeviceFormat.CA: _Kind("application/pem-certificate-chain", "-ca.pem"),
}
_ACCEPTED: Final[Mapping[str, DeviceFormat]] = {
    _PEM_FILE: DeviceFormat.PKCS8,
    "application/x-pkcs12": DeviceFormat.PKCS12_MODERN,
    "application/pkcs12": DeviceFormat.PKCS12_MODERN,
    "application/pem-certificate-chain": DeviceFormat.PEM,
    "application/pkcs7-mime": DeviceFormat.PKCS7,
    "application/x-pkcs7-certificates": DeviceFormat.PKCS7,
    "application/pkix-cert": DeviceFormat.DER,
}
"""What may stand in `Accept` where no format is named."""


def chosen_format(named: str | None, accept: str) -> DeviceFormat:
    """Returns the format that is named, or else the first that `Accept` wants most; raises FIELD_INVALID with all."""
    if named is None:
        wanted = sorted(map(_weighed, accept.split(",")), key=lambda each: -each[1])
        for media_type, weight in wanted:
            if weight > 0 and media_type in _ACCEPTED:
                return _ACCEPTED[media_type]
        raise _one_of("is required")
    try:
        return DeviceFormat(named)
    except ValueError:
        raise _one_of("is unknown") from None


def form_of(chosen: DeviceFormat) -> ExportForm | None:
    """Returns the form of the key in a format; None when there is none in it."""
    return _KINDS[chosen].form


def headers_of(chosen: DeviceFormat, managed_certificate_id: str) -> dict[str, str]:
    """Returns what headers say of a download in a format."""
    kind = _KINDS[chosen]
    return {
        "Content-Type": kind.media_type,
        "Content-Disposition": f'attachment; filename="{managed_certificate_id}{kind.file_name_end}"',
        # What has no key is asked for again each time, and may then be unchanged.
        "Cache-Control": "no-store" if kind.form is not None else "private, no-cache",
    }


def with_key(chosen: DeviceFormat, exported: Exported) -> bytes:
    """Returns a download in a format with a key, which was exported in the form of it."""
    form = _KINDS[chosen].form
    if form is None or form.is_pkcs12:
        return exported.encrypted_key
    return pkcs8.to_pem(exported.encrypted_key) + _pem(exported.certificate, *exported.chain)


def without_key(chosen: DeviceFormat, material: Material) -> bytes:
    """Returns a download in a format without a key."""
    if chosen is DeviceFormat.DER:
        return material.certificate
    if chosen is DeviceFormat.PKCS7:
        return pkcs7.certificates_only((material.certificate, *material.chain))
    if chosen is DeviceFormat.CA:
        # A certificate without a chain is its own root.
        return _pem((material.certificate, *material.chain)[-1])
    return _pem(material.certificate, *material.chain)


def _pem(*certificates: bytes) -> bytes:
    return "".join(map(certificate_pem, certificates)).encode("ascii")


def _weighed(text: str) -> tuple[str, float]:
    """Returns a media type of `Accept` with how much it is wanted (RFC 9110, section 12.5.1)."""
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
    try:
        return media_type, float(weights[0]) if weights else 1.0
    except ValueError:
        return media_type, 0.0


def _one_of(problem: str) -> CertdError:
    return field_invalid(
        "format", f"{problem}; ask for one of {', '.join(DeviceFormat)}, as ?format={DeviceFormat.PEM}"
    )
