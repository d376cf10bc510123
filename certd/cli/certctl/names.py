"""Short forms of resource names: `web-ca` for `tenants/default/authorities/web-ca`. Full names pass as they are.

Whether an id is well formed is for the server to say; here only the short form is made long.
"""


def tenant_name(text: str) -> str:
    """Returns `tenants/{tenant}`."""
    return text if text.startswith("tenants/") else f"tenants/{text}"


def authority_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/authorities/{authority}`."""
    return _long(text, tenant, "authorities")


def profile_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/profiles/{profile}`."""
    return _long(text, tenant, "profiles")


def managed_certificate_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/managedCertificates/{managed_certificate}`."""
    return _long(text, tenant, "managedCertificates")


def campaign_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/renewalCampaigns/{renewal_campaign}`."""
    return _long(text, tenant, "renewalCampaigns")


def revocation_campaign_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/revocationCampaigns/{revocation_campaign}`."""
    return _long(text, tenant, "revocationCampaigns")


def subscription_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/subscriptions/{subscription}`."""
    return _long(text, tenant, "subscriptions")


def resource_name(text: str, tenant: str) -> str:
    """Returns the name of a resource of a tenant, as `managedCertificates/web` is; empty stays empty."""
    return text if not text or text.startswith("tenants/") else f"{tenant_name(tenant)}/{text}"


def wrapping_key_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/wrappingKeys/{number}`."""
    return _long(text, tenant, "wrappingKeys")


def association_name(text: str, tenant: str, own: str) -> str:
    """Returns `tenants/{tenant}/managedCertificates/{managed_certificate}/associations/{association}`.

    `text` is that, or `{managed_certificate}/{association}`, or a managed certificate alone, for the association `own`.
    """
    if text.startswith("tenants/"):
        return text if "/associations/" in text else f"{text}/associations/{own}"
    managed, slash, association = text.removeprefix("managedCertificates/").partition("/")
    association = association.removeprefix("associations/")
    return f"{managed_certificate_name(managed, tenant)}/associations/{association if slash else own}"


def download_code_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/managedCertificates/{managed_certificate}/downloadCodes/{download_code}`.

    `text` is that, or `{managed_certificate}/{download_code}`.
    """
    if text.startswith("tenants/"):
        return text
    managed, _, code = text.removeprefix("managedCertificates/").partition("/")
    return f"{managed_certificate_name(managed, tenant)}/downloadCodes/{code.removeprefix('downloadCodes/')}"


def grant_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/grants/{grant}`; `grants/{grant}`, of the server, passes as it is."""
    return text if text.startswith("grants/") else _long(text, tenant, "grants")


def identity_name(text: str, tenant: str) -> str:
    """Returns `tenants/{tenant}/identities/{identity}`; `identities/{identity}`, of the server, passes as it is."""
    return text if text.startswith("identities/") else _long(text, tenant, "identities")


def is_file(text: str) -> bool:
    """Returns whether a text is the path of a file with a certificate, and no name or serial number of one."""
    return text.endswith((".pem", ".crt", ".cer", ".der"))


def certificate_name(text: str, tenant: str, authority: str | None) -> str:
    """Returns `tenants/{tenant}/authorities/{authority}/certificates/{serial}`.

    `text` is that, or `{authority}/certificates/{serial}`, or a serial beside `authority`. Raises ValueError when the
    authority is missing, and for a file, as other tools take one: its serial number alone would be looked at.
    """
    if is_file(text):
        message = f"{text!r} is a file; give the serial number in it (openssl x509 -in FILE -noout -serial)"
        raise ValueError(message)
    if text.startswith("tenants/"):
        return text
    if "/certificates/" in text:
        holder, _, serial = text.partition("/certificates/")
        return f"{authority_name(holder, tenant)}/certificates/{serial}"
    if authority is None:
        message = f"{text!r} is a serial number alone; say with --authority whose"
        raise ValueError(message)
    return f"{authority_name(authority, tenant)}/certificates/{text}"


def parent_and_id(name: str) -> tuple[str, str]:
    """Returns `tenants/{tenant}` and the last part of a full name."""
    words = name.split("/")
    return "/".join(words[:2]), words[-1]


def short(name: str) -> str:
    """Returns the last part of a name, for tables."""
    return name.rsplit("/", 1)[-1]


def _long(text: str, tenant: str, collection: str) -> str:
    if text.startswith("tenants/"):
        return text
    return f"{tenant_name(tenant)}/{collection}/{text.removeprefix(collection + '/')}"
