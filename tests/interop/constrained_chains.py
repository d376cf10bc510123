"""Generated cases of name constraints: two authorities with constraints, and a leaf whose names lie near them.

The certificates are built by the library alone, so that certd's own encoding cannot agree with itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certd.pki import distinguished_name, name_constraints
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.pki.names import SubjectAlternativeNames

KINDS = ("dns_names", "ip_ranges", "uri_hosts", "email_addresses", "directory_names")
_ORGANISATION = "O=Example"
_HOSTS = ("example.test", "www.example.test", "a.www.example.test", "myexample.test", "example.org", "test", "host")
_DOMAINS = (*_HOSTS, "le.test", "ww.example.test")
_LOCAL_PARTS = ("ops", "Ops", "dev")
_RANGES = ("192.0.2.0/24", "192.0.2.128/25", "192.0.2.7/32", "0.0.0.0/0", "2001:db8::/32", "2001:db8:1::/48", "::/0")
_ADDRESSES = ("192.0.2.7", "192.0.2.200", "198.51.100.1", "2001:db8::7", "2001:db8:1::7", "2001:db9::7")
_URI_FORMS = ("https://{}/", "https://{}", "https://{}:8443/a", "spiffe://{}/a", "https://{}/a:b")
_ODD_URIS = (
    "urn:example:a", "mailto:ops@example.test", "https://192.0.2.7/", "https://[2001:db8::7]/", "https://ops@www.example.test/",
    "https://www.example.test?a",
)  # fmt: skip
_DIRECTORY_NAMES = (
    "O=Example", "O=example", "O=\\  EXAMPLE", "OU=A,O=Example", "OU=B,O=Example", "OU=A+L=x,O=Example",
    "O=Example Ltd", "C=DE", "O=Example,C=DE", "DC=example,DC=test", "UID=a,O=Example",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """Constraints of two authorities, one above the other, and a leaf below both."""

    number: int
    constraints: tuple[NameConstraints, NameConstraints]
    """Of the upper and of the lower authority; without any subtree there is no extension."""
    authority: str
    """Subject of the lower authority, in text."""
    subject: str
    names: SubjectAlternativeNames
    hopeless: bool = False
    """Whether the reader gives up on such constraints and refuses whatever is below them."""

    @property
    def permitted(self) -> bool:
        """Whether certd issues both the lower authority and the leaf."""
        upper = [one for one in self.constraints[:1] if one.permitted or one.excluded]
        every = [one for one in self.constraints if one.permitted or one.excluded]
        nobody = SubjectAlternativeNames()
        of_authority = name_constraints.check(upper, subject=name_of(self.authority), names=nobody)
        of_leaf = name_constraints.check(every, subject=name_of(self.subject), names=self.names)
        return not (self.hopeless or of_authority or of_leaf)

    @property
    def subtrees(self) -> tuple[Subtrees, ...]:
        return tuple(side for one in self.constraints for side in (one.permitted, one.excluded))


@cache
def name_of(text: str) -> bytes:
    """Returns the DER of a distinguished name."""
    return distinguished_name.parse_text(text)


def generate(random: Random, number: int) -> Case:
    """Returns a case, most often about one kind of names."""
    kinds = random.sample(KINDS, random.choice((1, 1, 1, 1, 2)))
    constraints = [_constraints(random, kinds), _constraints(random, kinds)]
    alone = random.choice((None, None, 0, 1, 1))
    if alone is not None:
        constraints[alone] = NameConstraints()
    directory_names = _DIRECTORY_NAMES if "directory_names" in kinds else (_ORGANISATION,)
    subject = random.choice(directory_names)
    odd = random.random()
    if odd < 0.2 and "dns_names" in kinds:
        subject = f"CN={_dns_name(random)},{_ORGANISATION}"
    elif odd < 0.2 and "email_addresses" in kinds:
        subject = f"{distinguished_name.EMAIL_ADDRESS}={_email_address(random)},{_ORGANISATION}"
    elif odd > 0.9:
        subject = ""
    return Case(
        number=number,
        constraints=(constraints[0], constraints[1]),
        authority=f"CN=Lower Authority {number},{random.choice(directory_names)}",
        subject=subject,
        names=SubjectAlternativeNames(
            dns_names=_some(random, _dns_name, likely="dns_names" in kinds),
            ip_addresses=_some(random, lambda random: random.choice(_ADDRESSES), likely="ip_ranges" in kinds),
            uris=_some(random, _uri, likely="uri_hosts" in kinds),
            email_addresses=_some(random, _email_address, likely="email_addresses" in kinds),
        ),
    )


def _some(random: Random, draw: Callable[[Random], str], *, likely: bool) -> tuple[str, ...]:
    count = random.choice((0, 1, 1, 1, 2) if likely else (0, 0, 0, 0, 1))
    return tuple(dict.fromkeys(draw(random) for _ in range(count)))


def _dns_name(random: Random) -> str:
    name = random.choice(_HOSTS)
    return f"*.{name}" if random.random() < 0.2 and "." in name else name


def _email_address(random: Random) -> str:
    return f"{random.choice(_LOCAL_PARTS)}@{random.choice(_HOSTS)}"


def _uri(random: Random) -> str:
    if random.random() < 0.1:
        return random.choice(_ODD_URIS)
    return random.choice(_URI_FORMS).format(random.choice(_HOSTS))


def _constraints(random: Random, kinds: Sequence[str]) -> NameConstraints:
    sides = random.choice(("permitted", "excluded", "both"))
    return NameConstraints(
        permitted=Subtrees() if sides == "excluded" else _subtrees(random, kinds),
        excluded=Subtrees() if sides == "permitted" else _subtrees(random, kinds),
    )


def _subtrees(random: Random, kinds: Sequence[str]) -> Subtrees:
    count = random.choice((1, 1, 2))

    def some(kind: str, draw: Callable[[], str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(draw() for _ in range(count))) if kind in kinds else ()

    def domain() -> str:
        # RFC 5280 knows no leading dot here, and authorities have it all the same.
        return random.choice(("", "." + random.choice(_HOSTS), *[random.choice(_DOMAINS)] * 18))

    def host() -> str:
        return random.choice(("", ".")) + random.choice(_DOMAINS)

    return Subtrees(
        dns_names=some("dns_names", domain),
        ip_ranges=some("ip_ranges", lambda: random.choice(_RANGES)),
        uri_hosts=some("uri_hosts", host),
        email_addresses=some("email_addresses", lambda: random.choice((_email_address(random), host(), host()))),
        directory_names=tuple(map(name_of, some("directory_names", lambda: random.choice(("", *_DIRECTORY_NAMES))))),
    )


# Certificates.

_KEY = ec.generate_private_key(ec.SECP256R1())
_NOW = datetime.now(UTC).replace(microsecond=0)
ROOT = "CN=Unconstrained Root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """From the leaf up to the authority below the root."""

    leaf: x509.Certificate
    lower: x509.Certificate
    upper: x509.Certificate


def root() -> x509.Certificate:
    """Returns the certificate above every chain."""
    return _sign(ROOT, ROOT, NameConstraints())


def chain(case: Case) -> Chain:
    """Returns the certificates of a case."""
    upper = f"CN=Upper Authority {case.number}"
    return Chain(
        leaf=_sign(case.subject, case.authority, None, case.names),
        lower=_sign(case.authority, upper, case.constraints[1]),
        upper=_sign(upper, ROOT, case.constraints[0]),
    )


def _sign(
    subject: str, issuer: str, constraints: NameConstraints | None, names: SubjectAlternativeNames | None = None
) -> x509.Certificate:
    """Signs an authority, or without constraints a leaf."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_bytes(name_of(subject)))
        .issuer_name(x509.Name.from_bytes(name_of(issuer)))
        .public_key(_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - timedelta(days=1))
        .not_valid_after(_NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=constraints is not None, path_length=None), critical=True)
    )
    if constraints is None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    elif (extension := constraints_extension(constraints)) is not None:
        builder = builder.add_extension(extension, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=not subject)
    return builder.sign(_KEY, hashes.SHA256())


def _general_names(names: SubjectAlternativeNames) -> list[x509.GeneralName]:
    return [
        *map(x509.DNSName, names.dns_names),
        *(x509.IPAddress(ip_address(address)) for address in names.ip_addresses),
        *map(x509.UniformResourceIdentifier, names.uris),
        *map(x509.RFC822Name, names.email_addresses),
    ]


def constraints_extension(constraints: NameConstraints) -> x509.NameConstraints | None:
    """Returns constraints as the library has them; None when there are none."""
    permitted, excluded = map(_general_subtrees, (constraints.permitted, constraints.excluded))
    return x509.NameConstraints(permitted or None, excluded or None) if permitted or excluded else None


def _general_subtrees(subtrees: Subtrees) -> list[x509.GeneralName]:
    return [
        *map(x509.DNSName, subtrees.dns_names),
        *(x509.IPAddress(ip_network(text)) for text in subtrees.ip_ranges),
        *map(x509.UniformResourceIdentifier, subtrees.uri_hosts),
        *map(x509.RFC822Name, subtrees.email_addresses),
        *(x509.DirectoryName(x509.Name.from_bytes(name)) for name in subtrees.directory_names),
    ]


def write(path: Path, *certificates: x509.Certificate) -> Path:
    """Writes certificates as PEM and returns the path."""
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
    return path
