"""Authority information access: where the issuer's certificate can be fetched (RFC 5280, section 4.2.2.1)."""

from certd.pki import der

OBJECT_IDENTIFIER = "1.3.6.1.5.5.7.1.1"
_ISSUERS = "1.3.6.1.5.5.7.48.2"
_URI_TAG = 0x86
"""[6] IMPLICIT IA5String, of a GeneralName."""


def issuer_urls(value: bytes) -> tuple[str, ...]:
    """Returns the URLs of issuers' certificates in an extension's value (DER); none when that does not decode."""
    found: list[str] = []
    try:
        descriptions = der.Reader(value).enter(der.SEQUENCE)
        while descriptions.more:
            description = descriptions.enter(der.SEQUENCE)
            method = der.dotted(description.read_object_identifier())
            tag, location = description.read_any()
            if method == _ISSUERS and tag == _URI_TAG:
                found.append(location.decode("ascii"))
    except (der.MalformedError, UnicodeDecodeError):
        # It is shown to people beside everything else, and what is wrong with it is for those who verify.
        return ()
    return tuple(found)
