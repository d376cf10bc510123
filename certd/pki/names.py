"""Alternative names of a certificate's subject (RFC 5280, section 4.2.1.6): what is a name, and its normal form.

Internal names are names: a single label such as `localhost` is allowed, for certd's trust is private. SPIFFE ids follow
the SPIFFE ID specification strictly.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectAlternativeNames:
    """Names by kind, each in its normal form and in the order asked for."""

    dns_names: tuple[str, ...] = ()
    """A-labels in lower case; a wildcard only as the whole leftmost label."""
    ip_addresses: tuple[str, ...] = ()
    """IPv4 or IPv6 in the text form of Python's `ipaddress`."""
    uris: tuple[str, ...] = ()
    """Absolute; scheme and host in lower case."""
    email_addresses: tuple[str, ...] = ()
    """Mailboxes of RFC 5321 in ASCII; the domain in lower case."""

    def __len__(self) -> int:
        return len(self.dns_names) + len(self.ip_addresses) + len(self.uris) + len(self.email_addresses)
