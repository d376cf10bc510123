"""Where a certificate says that its issuer and its status are found (RFC 5280, sections 4.2.1.13 and 4.2.2.1).

What does not decode has no URLs: these are shown to people beside everything else, and what is wrong with an extension
is for those who verify.
"""

from functools import lru_cache

from certd.pki import der
from certd.pki.extensions import AUTHORITY_INFORMATION_ACCESS

OBJECT_IDENTIFIER = AUTHORITY_INFORMATION_ACCESS
_ISSUERS = "1.3.6.1.5.5.7.48.2"
_RESPONDERS = "1.3.6.1.5.5.7.48.1"
_URI_TAG = 0x86
"""[6] IMPLICIT IA5String, of a GeneralName."""


def issuer_urls(value: bytes) -> tuple[str, ...]:
    """Returns the URLs of issuers' certificates in the value (DER) of authority information access."""
    return _accessed(value, _ISSUERS)


def responder_urls(value: bytes) -> tuple[str, ...]:
    """Returns the URLs of OCSP responders in the value (DER) of authority information access."""
    return _accessed(value, _RESPONDERS)


@lru_cache(maxsize=1024)
def crl_urls(value: bytes) -> tuple[str, ...]:
    """Returns the URLs in the value (DER) of CRL distribution points."""
    found: list[str] = []
    try:
        points = der.Reader(value).enter(der.SEQUENCE)
        while points.more:
            point = points.enter(der.SEQUENCE)
            if point.peek() != der.context(0):
                continue
            name = point.enter(der.context(0))
            if name.peek() != der.context(0):
                continue
            names = name.enter(der.context(0))
            while names.more:
                tag, location = names.read_any()
                if tag == _URI_TAG:
                    found.append(location.decode("ascii"))
    except (der.MalformedError, UnicodeDecodeError):
        return ()
    return tuple(found)


@lru_cache(maxsize=1024)
def _accessed(value: bytes, wanted: str) -> tuple[str, ...]:
    found: list[str] = []
    try:
        descriptions = der.Reader(value).enter(der.SEQUENCE)
        while descriptions.more:
            description = descriptions.enter(der.SEQUENCE)
            method = der.dotted(description.read_object_identifier())
            tag, location = description.read_any()
            if method == wanted and tag == _URI_TAG:
                found.append(location.decode("ascii"))
    except (der.MalformedError, UnicodeDecodeError):
        return ()
    return tuple(found)
