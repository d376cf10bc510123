"""Resource names (AIP-122): parsed at the edge, trusted after.

Ids that a caller chooses match `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`. Serials are lower-case hexadecimal of even length;
any case, colons and leading zeros are accepted on input.
"""

import re
from dataclasses import dataclass
from typing import Self

from certd.errors import field_invalid

_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_SERIAL = re.compile(r"(?=.*[0-9a-fA-F])[0-9a-fA-F:]{1,128}")
_OF_PURGED = re.compile(r"purged-[0-9a-f]{32}")
_GRANT_OF_THE_START = re.compile(r"[0-9a-f]{32}")
_DOWNLOAD_CODE = re.compile(r"[0-9a-f]{16}")
_DIGITS = 18
WILDCARD = "-"


def check_id(field: str, value: str) -> str:
    """Returns `value` when it is a well-formed id; raises FIELD_INVALID otherwise."""
    if not _ID.fullmatch(value):
        raise field_invalid(
            field, "must be 1 to 63 lower-case letters, digits and hyphens, begin with a letter and not end in a hyphen"
        )
    return value


def purged_id(uid: str) -> str:
    """Returns the id that an authority has after it is purged, so that another one may have its own."""
    return f"purged-{uid}"


def check_new_authority_id(field: str, value: str) -> str:
    """As `check_id`, of an authority that is made; raises FIELD_INVALID also for what `purged_id` may return."""
    if _OF_PURGED.fullmatch(value):
        raise field_invalid(field, "must not be purged- and 32 digits: so authorities are called that were purged")
    return check_id(field, value)


def is_download_code_id(text: str) -> bool:
    """Returns whether `text` is 16 hexadecimal digits in lower case."""
    return _DOWNLOAD_CODE.fullmatch(text) is not None


def normalise_serial(field: str, text: str) -> str:
    """Returns a serial in even-length lower-case hexadecimal without leading zero bytes; raises FIELD_INVALID."""
    digits = text.replace(":", "").lstrip("0") or "0"
    if not _SERIAL.fullmatch(text) or len(digits) > 40:
        raise field_invalid(field, "must be a serial number of at most 20 bytes in hexadecimal")
    return serial_text(int(digits, 16))


def serial_text(serial: int) -> str:
    """Returns a serial number in even-length lower-case hexadecimal."""
    text = f"{serial:x}"
    return text if len(text) % 2 == 0 else "0" + text


def _parts(field: str, text: str, pattern: str) -> list[str]:
    """Splits `text` by `pattern` (`tenants/*/authorities/*`) and returns what stands for the stars."""
    words, expected = text.split("/"), pattern.split("/")
    fits = len(words) == len(expected) and all(e in {"*", w} for w, e in zip(words, expected, strict=True))
    if not fits:
        raise field_invalid(field, f"must have the form {pattern}")
    return [w for w, e in zip(words, expected, strict=True) if e == "*"]


@dataclass(frozen=True, slots=True)
class TenantName:
    """`tenants/{tenant}`."""

    tenant: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID with `field` in it."""
        (tenant,) = _parts(field, text, "tenants/*")
        return cls(check_id(field, tenant))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}"


@dataclass(frozen=True, slots=True)
class AuthorityName:
    """`tenants/{tenant}/authorities/{authority}`."""

    tenant: str
    authority: str

    @classmethod
    def parse(cls, field: str, text: str, *, wildcard: bool = False) -> Self:
        """Parses a name; raises FIELD_INVALID. With `wildcard`, `-` stands for every authority."""
        tenant, authority = _parts(field, text, "tenants/*/authorities/*")
        if not (wildcard and authority == WILDCARD):
            check_id(field, authority)
        return cls(check_id(field, tenant), authority)

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/authorities/{self.authority}"


@dataclass(frozen=True, slots=True)
class CertificateName:
    """`tenants/{tenant}/authorities/{authority}/certificates/{serial}`."""

    tenant: str
    authority: str
    serial: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, authority, serial = _parts(field, text, "tenants/*/authorities/*/certificates/*")
        return cls(check_id(field, tenant), check_id(field, authority), normalise_serial(field, serial))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/authorities/{self.authority}/certificates/{self.serial}"


@dataclass(frozen=True, slots=True)
class ProfileName:
    """`tenants/{tenant}/profiles/{profile}`."""

    tenant: str
    profile: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, profile = _parts(field, text, "tenants/*/profiles/*")
        return cls(check_id(field, tenant), check_id(field, profile))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/profiles/{self.profile}"


@dataclass(frozen=True, slots=True)
class ManagedCertificateName:
    """`tenants/{tenant}/managedCertificates/{managed_certificate}`."""

    tenant: str
    managed_certificate: str

    @classmethod
    def parse(cls, field: str, text: str, *, wildcard: bool = False) -> Self:
        """Parses a name; raises FIELD_INVALID. With `wildcard`, `-` stands for every managed certificate."""
        tenant, managed_certificate = _parts(field, text, "tenants/*/managedCertificates/*")
        if not (wildcard and managed_certificate == WILDCARD):
            check_id(field, managed_certificate)
        return cls(check_id(field, tenant), managed_certificate)

    def version(self, number: int) -> str:
        """Returns the name of a version."""
        return f"{self}/versions/{number}"

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/managedCertificates/{self.managed_certificate}"


@dataclass(frozen=True, slots=True)
class AssociationName:
    """`tenants/{tenant}/managedCertificates/{managed_certificate}/associations/{association}`."""

    managed_certificate: ManagedCertificateName
    association: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, managed, association = _parts(field, text, "tenants/*/managedCertificates/*/associations/*")
        parent = ManagedCertificateName(check_id(field, tenant), check_id(field, managed))
        return cls(parent, check_id(field, association))

    def __str__(self) -> str:
        return f"{self.managed_certificate}/associations/{self.association}"


@dataclass(frozen=True, slots=True)
class DownloadCodeName:
    """`tenants/{tenant}/managedCertificates/{managed_certificate}/downloadCodes/{download_code}`."""

    managed_certificate: ManagedCertificateName
    download_code: str
    """First 16 hexadecimal digits of the SHA-256 of its secret."""

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID, which says nothing of the text: it may be a code by mistake."""
        tenant, managed, code = _parts(field, text, "tenants/*/managedCertificates/*/downloadCodes/*")
        parent = ManagedCertificateName(check_id(field, tenant), check_id(field, managed))
        if not is_download_code_id(code):
            raise field_invalid(
                field, "must end in the 16 hexadecimal digits, in lower case, that lists and events show"
            )
        return cls(parent, code)

    def __str__(self) -> str:
        return f"{self.managed_certificate}/downloadCodes/{self.download_code}"


@dataclass(frozen=True, slots=True)
class RenewalCampaignName:
    """`tenants/{tenant}/renewalCampaigns/{renewal_campaign}`."""

    tenant: str
    renewal_campaign: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, campaign = _parts(field, text, "tenants/*/renewalCampaigns/*")
        return cls(check_id(field, tenant), check_id(field, campaign))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/renewalCampaigns/{self.renewal_campaign}"


@dataclass(frozen=True, slots=True)
class RevocationCampaignName:
    """`tenants/{tenant}/revocationCampaigns/{revocation_campaign}`."""

    tenant: str
    revocation_campaign: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, campaign = _parts(field, text, "tenants/*/revocationCampaigns/*")
        return cls(check_id(field, tenant), check_id(field, campaign))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/revocationCampaigns/{self.revocation_campaign}"


@dataclass(frozen=True, slots=True)
class SubscriptionName:
    """`tenants/{tenant}/subscriptions/{subscription}`."""

    tenant: str
    subscription: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, subscription = _parts(field, text, "tenants/*/subscriptions/*")
        return cls(check_id(field, tenant), check_id(field, subscription))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/subscriptions/{self.subscription}"


@dataclass(frozen=True, slots=True)
class WrappingKeyName:
    """`tenants/{tenant}/wrappingKeys/{number}`."""

    tenant: str
    number: int

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, number = _parts(field, text, "tenants/*/wrappingKeys/*")
        if not (number.isascii() and number.isdigit() and len(number) <= _DIGITS and int(number) > 0):
            raise field_invalid(field, "must end in the number of a wrapping key, from 1")
        return cls(check_id(field, tenant), int(number))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/wrappingKeys/{self.number}"


@dataclass(frozen=True, slots=True)
class ImportKeyName:
    """`tenants/{tenant}/importKeys/{import_key}`."""

    tenant: str
    import_key: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, key = _parts(field, text, "tenants/*/importKeys/*")
        return cls(check_id(field, tenant), check_id(field, key))

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/importKeys/{self.import_key}"


@dataclass(frozen=True, slots=True)
class IdentityName:
    """`tenants/{tenant}/identities/{identity}`, or `identities/{identity}` for one of the server."""

    tenant: str | None
    """None: the server."""
    identity: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID."""
        tenant, identity = _owned(field, text, "identities")
        return cls(tenant, identity)

    @property
    def path(self) -> str:
        """The path of its SPIFFE id, with the slash before it."""
        return f"/{self}"

    def __str__(self) -> str:
        return f"{_owner(self.tenant)}identities/{self.identity}"


@dataclass(frozen=True, slots=True)
class GrantName:
    """`tenants/{tenant}/grants/{grant}`, or `grants/{grant}` for one of the server."""

    tenant: str | None
    """None: the server."""
    grant: str

    @classmethod
    def parse(cls, field: str, text: str) -> Self:
        """Parses a name; raises FIELD_INVALID. The server's first grants may have ids that nobody could choose."""
        server, slash, own = text.partition("/")
        if (server, slash) == ("grants", "/") and _GRANT_OF_THE_START.fullmatch(own):
            return cls(None, own)
        tenant, grant = _owned(field, text, "grants")
        return cls(tenant, grant)

    def __str__(self) -> str:
        return f"{_owner(self.tenant)}grants/{self.grant}"


def _owned(field: str, text: str, collection: str) -> tuple[str | None, str]:
    if text.startswith("tenants/"):
        tenant, own = _parts(field, text, f"tenants/*/{collection}/*")
        return check_id(field, tenant), check_id(field, own)
    (own,) = _parts(field, text, f"{collection}/*")
    return None, check_id(field, own)


def _owner(tenant: str | None) -> str:
    return "" if tenant is None else f"tenants/{tenant}/"
