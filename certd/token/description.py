"""What a token is and can do."""

from dataclasses import dataclass

from certd.pki.key_spec import KeySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDescription:
    """Module and token."""

    module: str
    """Path of the module."""
    label: str
    serial_number: str
    manufacturer: str
    model: str
    mechanisms: tuple[str, ...]
    """Those that certd uses and the token has, as CKM_ names."""
    missing: tuple[str, ...]
    """Sentences: what is missing and what does not work because of it."""
    authority_key_specs: tuple[KeySpec, ...]
    """Key specs that an authority's key can have."""
