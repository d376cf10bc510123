"""What a certificate says of where its status and its issuer are found, as its authority has it.

CRL distribution points (RFC 5280, section 4.2.1.13), authority information access (section 4.2.2.1), noRevAvail
(RFC 9608), and the URLs that stand in them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Final

from certd.pki import der
from certd.pki.assembly import extension
from certd.pki.extensions import (
    AUTHORITY_INFORMATION_ACCESS,
    CRL_DISTRIBUTION_POINTS,
    NO_REVOCATION_AVAILABLE,
    NULL_VALUE,
    OCSP_NO_CHECK,
)
from certd.pki.names import InvalidNameError, parse_uri
from certd.pki.profile import Profile

LONGEST_SHORT_LIFETIME: Final = timedelta(days=7)
"""Of a certificate whose state nobody asks for, from the moment of issue."""

LOCATION_EXTENSIONS: Final = (AUTHORITY_INFORMATION_ACCESS, CRL_DISTRIBUTION_POINTS, NO_REVOCATION_AVAILABLE)
"""What `location_extensions` may write."""

LONGEST_BASE_URL: Final = 255
"""Characters: four of them stand in every certificate, and in every CRL."""
_BASE_URL: Final = re.compile(r"http://[^/]+(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*")
_ISSUERS: Final = der.object_identifier("1.3.6.1.5.5.7.48.2")
_RESPONDERS: Final = der.object_identifier("1.3.6.1.5.5.7.48.1")
_NAMED_LIST: Final = re.compile(rb"/crl/[0-9a-f]{32}/[0-9]{1,9}(?:/([0-9]{1,4}))?\.crl")
_URI: Final = 0x86
"""[6] IMPLICIT IA5String, of a GeneralName."""
_POINT_NAME: Final = der.context(0)
_FULL_NAME: Final = der.context(0)
_OF_NOBODY: Final = frozenset({OCSP_NO_CHECK, NO_REVOCATION_AVAILABLE})
"""Extensions by which a profile itself says that nobody need ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusLocations:
    """What the certificates that an authority signs say."""

    issuer_urls: tuple[str, ...] = ()
    """Where its certificate is; empty: nothing is said."""
    responder_urls: tuple[str, ...] = ()
    """Where OCSP requests are answered; empty: nothing is said."""
    crl_stems: tuple[str, ...] = ()
    """URLs of its CRLs up to `.crl`, or to the number of a partition; empty: nothing is said."""
    partition_count: int = 0
    """Over how many CRLs certificates are spread; 0: the complete CRL has them all."""
    short_lived: bool = False
    """Whether its certificates, save those of authorities, live 7 days at most and nobody asks for their state."""


NOWHERE: Final = StatusLocations()


def authority_stem(base_url: str, authority_uid: str, key_number: int) -> str:
    """Returns the URL under which the certificate of an authority is, up to `.cer` or `.pem`."""
    return f"{base_url}/ca/{authority_uid}/{key_number}"


def crl_stem(base_url: str, authority_uid: str, key_number: int) -> str:
    """Returns the URL of an authority's CRLs up to what `crl_url` appends."""
    return f"{base_url}/crl/{authority_uid}/{key_number}"


def crl_url(stem: str, partition: int | None) -> str:
    """Returns the URL of the CRL of a partition, from 1; None or 0: of the complete one."""
    return f"{stem}/{partition}.crl" if partition else f"{stem}.crl"


def responder_url(base_url: str, authority_uid: str, key_number: int) -> str:
    """Returns where OCSP requests for what an authority key signed are answered."""
    return f"{base_url}/ocsp/{authority_uid}/{key_number}"


def locations_under(locations: StatusLocations, profile: Profile) -> StatusLocations:
    """Returns what certificates of a profile say.

    A root, which nobody above it could revoke, says nothing. What a profile itself declares to be asked for by nobody
    names neither CRL nor responder: a responder's certificate would lead clients to itself. NoRevAvail is never an
    authority's (RFC 9608, section 2).
    """
    if profile.self_signed:
        return NOWHERE
    if any(one.oid in _OF_NOBODY for one in profile.custom_extensions):
        return replace(locations, responder_urls=(), crl_stems=(), partition_count=0, short_lived=False)
    return replace(locations, short_lived=False) if profile.authority and locations.short_lived else locations


def crl_partition(locations: StatusLocations, serial: int) -> int | None:
    """Returns the partition, from 1, whose CRL a certificate names; None: the complete one's, or none.

    It follows from the serial number, most of whose bits are random, so that no state is needed and all partitions
    grow alike.
    """
    if not locations.crl_stems or not locations.partition_count:
        return None
    return 1 + serial % locations.partition_count


def named_partition(points: bytes) -> int | None:
    """Returns the partition whose CRL the DER of CRL distribution points names; 0: the complete one's, None: no CRL.

    It is of any host, for all that one certificate names are of the same CRL.
    """
    found = _NAMED_LIST.search(points)
    return None if found is None else int(found[1] or 0)


@lru_cache(maxsize=8192)
def location_extensions(locations: StatusLocations, partition: int | None) -> tuple[bytes, ...]:
    """Returns the DER of the extensions, none of them critical, in the order of a certificate."""
    return tuple(extension(oid, value) for oid, value in location_values(locations, partition).items())


@lru_cache(maxsize=8192)
def location_values(locations: StatusLocations, partition: int | None) -> Mapping[str, bytes]:
    """Returns the DER of the values of the extensions by dotted identifier."""
    found: dict[str, bytes] = {}
    access = (
        *(der.sequence(_RESPONDERS, _uri(url)) for url in locations.responder_urls),
        *(der.sequence(_ISSUERS, _uri(url)) for url in locations.issuer_urls),
    )
    if access:
        found[AUTHORITY_INFORMATION_ACCESS] = der.sequence(*access)
    if locations.crl_stems:
        # One point, whose names all lead to the same CRL.
        names = b"".join(_uri(crl_url(stem, partition)) for stem in locations.crl_stems)
        point = der.encode(_POINT_NAME, der.encode(_FULL_NAME, names))
        found[CRL_DISTRIBUTION_POINTS] = der.sequence(der.sequence(point))
    if locations.short_lived:
        found[NO_REVOCATION_AVAILABLE] = NULL_VALUE
    return found


def _uri(url: str) -> bytes:
    return der.encode(_URI, url.encode("ascii"))


def parse_base_url(text: str) -> str:
    """Returns the normal form of a URL under which an outside host serves what this server does.

    It is of http, for whoever checks a certificate cannot yet trust one of https (RFC 5280, section 8), and has a host
    and perhaps a port and a path, but neither user nor query nor fragment. InvalidNameError says what it is not.
    """
    if len(text) > LONGEST_BASE_URL:
        raise InvalidNameError(f"is longer than {LONGEST_BASE_URL} characters")
    if not text.lower().startswith("http://"):
        raise InvalidNameError("does not begin with http://; who checks a certificate cannot trust https yet")
    normal = parse_uri(text)
    if "?" in normal or "#" in normal:
        raise InvalidNameError("has a query or a fragment, and a path is to be appended")
    if "@" in normal:
        raise InvalidNameError("has a user before its host")
    if normal.endswith("/"):
        raise InvalidNameError("ends in a slash; leave it out, a path that begins with one is appended")
    if not _BASE_URL.fullmatch(normal):
        raise InvalidNameError("has a path segment that is empty, of dots, or not of letters, digits, '.', '-', '_'")
    return normal
