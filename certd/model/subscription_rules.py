"""What may be said of a subscription. Each function raises FIELD_INVALID with the field that breaks a rule."""

import re
from collections.abc import Sequence
from typing import Final

from certd.errors import CertdError, field_invalid
from certd.model.event import EventType
from certd.model.names import TenantName
from certd.model.subscription import ANYTHING, type_fits
from certd.pki.certificate_chain import parse
from certd.pki.encoding import certificate_pem, parse_certificates

LONGEST_URL: Final = 2048
LARGEST_ROOTS: Final = 64 * 1024
"""Bytes of PEM."""
MOST_RECIPIENTS: Final = 20
LONGEST_RECIPIENT: Final = 254
"""Of a path in SMTP without its brackets (RFC 5321, section 4.5.3.1.3)."""
MOST_EVENT_TYPES: Final = 100
LONGEST_EVENT_TYPE: Final = 64
LONGEST_RESOURCE: Final = 512

_LONGEST_LOCAL_PART: Final = 64
_LONGEST_HOST: Final = 253
_HIGHEST_PORT: Final = 65_535
# One reading of a URL and no other: what any parser could take for user info, a fragment or another host is refused.
_URL: Final = re.compile(
    r"https://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>(?:/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?)"
)
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS: Final = re.compile(rf"(?P<local>{_ATOM}(?:\.{_ATOM})*)@{_LABEL}(?:\.{_LABEL})*")
_RESOURCE: Final = re.compile(r"[A-Za-z0-9-]+(?:/[A-Za-z0-9-]+)*")
_TYPE: Final = re.compile(r"[a-z.-]*\*?")


def check_url(field: str, url: str) -> str:
    """Returns the URL of a webhook: https, with a host, without user info and fragment."""
    if not url:
        raise field_invalid(field, "is required: where events are posted to")
    if len(url) > LONGEST_URL:
        raise field_invalid(field, f"must have at most {LONGEST_URL:,} characters, and has {len(url):,}")
    if not url.startswith("https://"):
        raise field_invalid(field, "must begin with https://, for events are sent over verified TLS alone")
    if "#" in url:
        raise field_invalid(field, "must not have a fragment (#), which is not sent")
    authority = re.split(r"[/?]", url.removeprefix("https://"), maxsplit=1)[0]
    if "@" in authority:
        raise field_invalid(field, "must not have a user or a password; deliveries are signed instead")
    found = _URL.fullmatch(url)
    if found is None or len(found["host"]) > _LONGEST_HOST:
        raise field_invalid(
            field,
            "must be https://HOST[:PORT][/PATH][?QUERY]: an ASCII host name or an address, other characters"
            " percent-encoded",
        )
    if found["port"] is not None and not 1 <= int(found["port"]) <= _HIGHEST_PORT:
        raise field_invalid(field, f"must have a port from 1 to {_HIGHEST_PORT}")
    return url


def check_trusted_roots(field: str, text: str) -> str:
    """Returns PEM of the roots by which a target is verified, without what else was in it; empty for none."""
    if not text:
        return ""
    if len(text) > LARGEST_ROOTS or not text.isascii():
        raise field_invalid(field, f"must be at most {LARGEST_ROOTS // 1024} KiB of PEM")
    if not text.lstrip().startswith("-----BEGIN ") and "\n-----BEGIN " not in text:
        raise field_invalid(field, "must be PEM of certificates")
    certificates = parse_certificates(text.encode(), field=field)
    try:
        for certificate in certificates:
            parse(certificate, field=field)
    except CertdError as error:
        raise field_invalid(field, "has a certificate that does not decode; send the target's roots as PEM") from error
    return "".join(certificate_pem(certificate) for certificate in certificates)


def check_recipients(field: str, recipients: Sequence[str]) -> tuple[str, ...]:
    """Returns addresses of mail, each a plain addr-spec (RFC 5322): no display name, no comment, no quotes."""
    if not recipients:
        raise field_invalid(field, "is required: whom mail is sent to")
    if len(recipients) > MOST_RECIPIENTS:
        raise field_invalid(field, f"has {len(recipients)} addresses; at most {MOST_RECIPIENTS} are allowed")
    for index, address in enumerate(recipients):
        found = _ADDRESS.fullmatch(address) if len(address) <= LONGEST_RECIPIENT else None
        if found is None or len(found["local"]) > _LONGEST_LOCAL_PART:
            raise field_invalid(
                f"{field}[{index}]",
                f"must be a plain address such as oncall@example.com, of at most {LONGEST_RECIPIENT} characters",
            )
        if address in recipients[:index]:
            raise field_invalid(f"{field}[{index}]", "is there a second time; name each address once")
    return tuple(recipients)


def check_event_types(field: str, types: Sequence[str]) -> tuple[str, ...]:
    """Returns types of events, each a known one or the beginning of some with `*` at its end."""
    if len(types) > MOST_EVENT_TYPES:
        raise field_invalid(field, f"has {len(types)} types; at most {MOST_EVENT_TYPES} are allowed")
    for index, wanted in enumerate(types):
        if len(wanted) > LONGEST_EVENT_TYPE or not wanted or not _TYPE.fullmatch(wanted):
            raise field_invalid(
                f"{field}[{index}]", f"must be a type such as certificate.issued, or managed-certificate.{ANYTHING}"
            )
        if not any(type_fits(wanted, known) for known in EventType):
            raise field_invalid(f"{field}[{index}]", f"{wanted} is no type of any event of this server")
        if wanted in types[:index]:
            raise field_invalid(f"{field}[{index}]", f"{wanted} is there a second time; name each type once")
    return tuple(types)


def check_resource(field: str, resource: str, parent: TenantName) -> str:
    """Returns the name of a resource of a tenant, or of a collection; empty for the whole tenant."""
    if not resource:
        return ""
    if len(resource) > LONGEST_RESOURCE or not _RESOURCE.fullmatch(resource):
        raise field_invalid(field, f"must be a resource name of at most {LONGEST_RESOURCE} characters")
    if resource != str(parent) and not resource.startswith(f"{parent}/"):
        raise field_invalid(field, f"must be below {parent}, whose events a subscription of it sends")
    return resource
