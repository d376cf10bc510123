"""Certificates of random requests under random profiles, as certd would issue them, from memory keys.

The same seed gives the same requests; keys are new each time. Used by the comparison with pkilint, and by longer runs.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from cryptography import x509

from certd.errors import CertdError, Reason
from certd.pki import der, name_constraints
from certd.pki import distinguished_name as dn
from certd.pki.certificate_request import CertificateRequest, Validity, Warning  # noqa: A004  # The API's word.
from certd.pki.csr import RequestedExtension
from certd.pki.description import Description
from certd.pki.extensions import KeyUsage, key_usage_extension
from certd.pki.key_spec import KeySpec, generate_private_key, public_key_der
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import prepare
from certd.pki.profile import CustomExtension, Profile
from certd.pki.profiles import BUILT_IN
from certd.pki.status_locations import NOWHERE, StatusLocations
from tests.unit.memory_authority import LOCATIONS, NOW, MemoryAuthority, root, subordinate

_Value = TypeVar("_Value")
_ISSUER_SPECS = (KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.RSA_2048, KeySpec.ED25519)
_WORDS = ("www", "shop", "a", "x-1", "db07", "mail", "intranet", "example", "internal", "corp", "xn--bcher-kva", "0x")
_ZONES = ("example", "internal", "example.com", "xn--p1ai", "test")
_ATTRIBUTES = {
    "CN": ("www.example.internal", "Anna Müller", "device 7", "*.shop.example", "192.0.2.7"),
    "O": ("Example", "Müller & Söhne", 'A "quoted" one', "B" * 64),
    "OU": ("Ops", "東京"),
    "C": ("DE", "us"),
    "L": ("München",),
    "ST": ("Bayern",),
    "STREET": ("Hauptstraße 1",),
    "DC": ("example", "internal"),
    "UID": ("anna",),
    "SERIALNUMBER": ("07-15",),
    "1.2.840.113549.1.9.1": ("a@b.example",),
    "2.5.4.12": ("Dr.",),
    "1.3.6.1.4.1.99999.1": ("of our own",),
}
_BMP_TEXT = der.encode(der.BMP_STRING, "WebServer".encode("utf-16-be"))
_PURPOSES = tuple(f"1.3.6.1.5.5.7.3.{number}" for number in (1, 2, 3, 4, 8, 9, 17, 21))
_POLICIES = ("2.23.140.1.2.1", "1.3.6.1.4.1.99999.7", "2.5.29.32.0")
_UTF8_TEXT = der.encode(der.UTF8_STRING, "für Freunde".encode())
_QUALIFIED_POLICY = der.sequence(
    der.sequence(
        der.object_identifier("1.3.6.1.4.1.99999.8"),
        der.sequence(
            der.sequence(
                der.object_identifier("1.3.6.1.5.5.7.2.1"), der.encode(der.IA5_STRING, b"https://pki.example/cps")
            ),
            der.sequence(der.object_identifier("1.3.6.1.5.5.7.2.2"), der.sequence(_UTF8_TEXT)),
        ),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A certificate that was issued."""

    certificate: bytes
    issuer_certificate: bytes
    profile: Profile
    warnings: tuple[Warning, ...]
    description: Description | None
    """As it was prepared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What somebody might ask an authority for."""

    authority: MemoryAuthority
    profile: Profile
    request: CertificateRequest
    validity: Validity
    serial: int


def drawn_requests(seed: int, *, keys: Sequence[bytes] = ()) -> Iterator[Drawn]:
    """Yields random requests without end, for the given public keys (DER), or for one of each kind."""
    draw = random.Random(seed)
    authorities = _authorities()
    if not keys:
        keys = [public_key_der(generate_private_key(spec).public_key()) for spec in KeySpec]
    while True:
        authority = draw.choice(authorities)
        profile = _profile(draw)
        key = draw.choice(keys)
        yield _drawn(draw, authority, profile, key)


def generated_certificates(
    seed: int, count: int, *, refused: Callable[[CertdError], None] = lambda _: None
) -> Iterator[Generated]:
    """Yields `count` certificates of random requests; what certd refuses is told to `refused`, and drawn anew.

    What it fails at without a reason of its own is raised.
    """
    issued = 0
    for drawn in drawn_requests(seed):
        if issued == count:
            return
        try:
            yield _issue(drawn)
        except CertdError as error:
            if error.reason is Reason.INTERNAL:
                raise
            refused(error)
        else:
            issued += 1


def _authorities() -> tuple[MemoryAuthority, ...]:
    roots = [root(spec, text=f"CN=Root {spec},O=Example") for spec in _ISSUER_SPECS]
    below = [subordinate(parent, spec) for parent, spec in zip(roots, reversed(_ISSUER_SPECS), strict=True)]
    # Of each kind some spread what they issue over CRLs, or issue what nobody asks the state of, or say nothing.
    return (
        *roots[:2],
        _saying(roots[2], replace(LOCATIONS, partition_count=4096)),
        _saying(roots[3], NOWHERE),
        *below[:2],
        _saying(below[2], replace(LOCATIONS, responder_urls=(), partition_count=2)),
        _saying(below[3], StatusLocations(issuer_urls=LOCATIONS.issuer_urls, short_lived=True)),
    )


def _saying(authority: MemoryAuthority, locations: StatusLocations) -> MemoryAuthority:
    return replace(authority, issuer=replace(authority.issuer, locations=locations))


def _drawn(draw: random.Random, authority: MemoryAuthority, profile: Profile, key: bytes) -> Drawn:
    return Drawn(
        authority=authority,
        profile=profile,
        request=CertificateRequest(
            public_key=key,
            subject=_subject(draw),
            names=_names(draw, profile),
            extensions=_extensions(draw) if profile.passed_extensions or draw.random() < 0.1 else (),
            path_length=0 if profile.authority and draw.random() < 0.5 else None,
            name_constraints=_constraints(draw) if profile.authority and draw.random() < 0.6 else None,
        ),
        validity=Validity(lifetime=timedelta(days=draw.randint(1, 800)) if draw.random() < 0.5 else None),
        serial=draw.getrandbits(126) | 1 << 126,
    )


def _issue(drawn: Drawn) -> Generated:
    authority, profile = drawn.authority, drawn.profile
    prepared = prepare(
        issuer=authority.issuer,
        request=drawn.request,
        profile=profile,
        validity=drawn.validity,
        serial=drawn.serial,
        now=NOW,
    )
    return Generated(
        certificate=authority.sign(prepared),
        issuer_certificate=authority.certificate,
        profile=profile,
        warnings=prepared.warnings,
        description=prepared.description,
    )


def _profile(draw: random.Random) -> Profile:
    """Returns a built-in profile, or one that somebody made of it."""
    profile = draw.choice([profile for profile in BUILT_IN.values() if not profile.self_signed])
    if draw.random() < 0.5:
        return profile
    changed = replace(profile, profile_id=f"{profile.profile_id}-changed", policies=_some(draw, _POLICIES))
    if draw.random() < 0.3:
        custom = CustomExtension(oid="1.3.6.1.4.1.99999.2", critical=draw.random() < 0.3, value=_UTF8_TEXT)
        changed = replace(changed, custom_extensions=(*profile.custom_extensions, custom))
    if profile.authority:
        return changed
    if draw.random() < 0.4:
        changed = replace(changed, extended_key_usages=_some(draw, _PURPOSES[:5]))
    if draw.random() < 0.3:
        changed = replace(changed, tls_features=draw.choice([(5,), (5, 17)]))
    if draw.random() < 0.3:
        usages = [usage for usage in KeyUsage if "SIGN" not in usage or usage is KeyUsage.DIGITAL_SIGNATURE]
        changed = replace(changed, key_usages=frozenset(_some(draw, usages[:5])))
    return changed


def _some(draw: random.Random, values: Sequence[_Value]) -> tuple[_Value, ...]:
    return tuple(draw.sample(values, draw.randint(0, len(values))))


def _dns_name(draw: random.Random) -> str:
    labels = [draw.choice(_WORDS) for _ in range(draw.randint(0, 3))]
    name = ".".join([*labels, draw.choice(_ZONES)])
    return f"*.{name}" if draw.random() < 0.2 else draw.choice(("localhost", "db")) if draw.random() < 0.1 else name


def _uri(draw: random.Random) -> str:
    host = _dns_name(draw).removeprefix("*.")
    return draw.choice((
        f"https://{host}/a?b=c#d",
        f"http://{host}:8443",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "sip:anna@example.com",
        "tag:example.com,2026:x",
        f"ldap://{host}/cn=a",
        "https://[2001:db8::7]/",
        f"spiffe://{host}/a",
    ))  # fmt: skip


def _names(draw: random.Random, profile: Profile) -> SubjectAlternativeNames:
    rules = profile.names

    def every(allowed: object, make: Callable[[random.Random], str]) -> tuple[str, ...]:
        if not allowed and draw.random() < 0.95:
            return ()
        return tuple(make(draw) for _ in range(draw.choice((0, 1, 1, 2, 5))))

    return SubjectAlternativeNames(
        dns_names=every(rules.dns_names, _dns_name),
        ip_addresses=every(
            rules.ip_addresses,
            lambda draw: str(
                IPv4Address(draw.getrandbits(32)) if draw.random() < 0.5 else IPv6Address(draw.getrandbits(128))
            ),
        ),
        uris=every(rules.uris, _uri),
        email_addresses=every(
            rules.email_addresses,
            lambda draw: f"{draw.choice(('anna', 'o.k+x', 'A_B'))}@{_dns_name(draw).removeprefix('*.')}",
        ),
    )


def _subject(draw: random.Random) -> bytes:
    if draw.random() < 0.2:
        return dn.EMPTY
    if draw.random() < 0.1:
        tag, text = draw.choice((
            (der.TELETEX_STRING, b"Example"),
            (der.BMP_STRING, "Müller".encode("utf-16-be")),
            (der.UNIVERSAL_STRING, "Müller".encode("utf-32-be")),
            (der.PRINTABLE_STRING, b"Example"),
        ))  # fmt: skip
        attribute = der.sequence(der.object_identifier("2.5.4.10"), der.encode(tag, text))
        return der.sequence(der.set_of([attribute]))
    types = draw.sample(sorted(_ATTRIBUTES), draw.randint(1, 5))
    attributes = [(dn.oid_of(one), draw.choice(_ATTRIBUTES[one])) for one in types]
    relatives = [(attribute,) for attribute in attributes]
    if len(attributes) > 2 and draw.random() < 0.3:
        return dn.encode(((attributes[0], attributes[1]), *relatives[2:]))
    return dn.encode(tuple(relatives))


def _constraints(draw: random.Random) -> NameConstraints:
    subtrees = Subtrees(
        dns_names=_some(draw, ("example.com", "corp.internal")) or ("test",),
        ip_ranges=_some(draw, ("192.0.2.0/24", "2001:db8::/32")),
        uri_hosts=_some(draw, (".example.com", "example.org")),
        email_addresses=_some(draw, ("example.com", ".example.org", "anna@example.net")),
        directory_names=_some(draw, (dn.parse_text("O=Example"),)),
    )
    one = NameConstraints(permitted=subtrees) if draw.random() < 0.5 else NameConstraints(excluded=subtrees)
    return name_constraints.normalise(one, field="name_constraints")


def _extensions(draw: random.Random) -> tuple[RequestedExtension, ...]:
    usages = frozenset(draw.sample(list(KeyUsage)[:5], draw.randint(1, 3)))
    purposes = _some(draw, _PURPOSES) or _PURPOSES[:1]
    offered: list[x509.ExtensionType] = [
        key_usage_extension(usages),
        x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, purposes)),
        x509.TLSFeature([x509.TLSFeatureType.status_request]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), _QUALIFIED_POLICY),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.3"), _UTF8_TEXT),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), _BMP_TEXT),
        x509.BasicConstraints(ca=False, path_length=None),
    ]
    return tuple(
        RequestedExtension(
            oid=extension.oid.dotted_string, critical=draw.random() < 0.1, value=extension.public_bytes()
        )
        for extension in _some(draw, offered)
    )
