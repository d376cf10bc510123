"""Addresses of servers."""

from certd.errors import CertdError, Reason


def check_address(address: str) -> str:
    """Returns an address of the form `host:port`; raises FIELD_INVALID."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise CertdError(Reason.FIELD_INVALID, f"address: must have the form host:port, not {address!r}")
    return address
