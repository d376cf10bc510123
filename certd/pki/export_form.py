"""The forms in which a private key leaves under a passphrase."""

import enum
from collections.abc import Callable, Sequence

from certd.pki import pkcs8, pkcs12


class ExportForm(enum.StrEnum):
    """How a private key is encoded. The same names as the proto's `PassphraseProtection.Format`."""

    PKCS8 = "PKCS8"
    """EncryptedPrivateKeyInfo, strong."""
    PKCS12_MODERN = "PKCS12_MODERN"
    """Key and certificates in one, strong."""
    PKCS12_LEGACY = "PKCS12_LEGACY"
    """Key and certificates in one, for old readers: weak."""
    ACM_COMPATIBLE = "ACM_COMPATIBLE"
    """EncryptedPrivateKeyInfo as AWS Certificate Manager writes it: weak."""

    @property
    def is_pkcs12(self) -> bool:
        """Whether the certificates are part of it."""
        return self in {ExportForm.PKCS12_MODERN, ExportForm.PKCS12_LEGACY}

    @property
    def is_weak(self) -> bool:
        """Whether little time passes between one try of a passphrase and the next, for whoever has the file."""
        return self in {ExportForm.PKCS12_LEGACY, ExportForm.ACM_COMPATIBLE}


def passphrase_bytes(form: ExportForm) -> range:
    """Returns how many bytes a passphrase of a form may have."""
    return pkcs8.ACM_PASSPHRASE_BYTES if form is ExportForm.ACM_COMPATIBLE else pkcs8.PASSPHRASE_BYTES


def check_passphrase(form: ExportForm, passphrase: bytes, field: str, *, most: int | None = None) -> None:
    """Checks a passphrase by the rules of a form, and for `most` bytes where there is such a limit.

    FIELD_INVALID with `field`, which names the rule, never the bytes.
    """
    longest = passphrase_bytes(form).stop - 1
    longest = longest if most is None else min(longest, most)
    if form is ExportForm.ACM_COMPATIBLE:
        pkcs8.check_acm_passphrase(passphrase, field, longest=longest)
    elif form.is_pkcs12:
        pkcs12.check_passphrase(passphrase, field, longest=longest)
    else:
        pkcs8.check_passphrase(passphrase, field, longest=longest)


def protect(
    form: ExportForm,
    private_key_info: bytes,
    passphrase: bytes,
    *,
    certificates: Sequence[bytes],
    friendly_name: str,
    pause: Callable[[], None] = lambda: None,
) -> bytes:
    """Returns the DER of a private key under a passphrase; `pkcs8` and `pkcs12` say what of, and what they refuse.

    `certificates`, `friendly_name` and `pause` are those of `pkcs12.encrypt`, and of no use to the other forms.
    """
    if form.is_pkcs12:
        return pkcs12.encrypt(
            private_key_info,
            certificates,
            passphrase,
            friendly_name=friendly_name,
            legacy=form is ExportForm.PKCS12_LEGACY,
            pause=pause,
        )
    if form is ExportForm.ACM_COMPATIBLE:
        return pkcs8.encrypt_acm_compatible(private_key_info, passphrase)
    return pkcs8.encrypt(private_key_info, passphrase)
