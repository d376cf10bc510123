"""CSRs of random requests, as strangers would send them, whole and damaged."""

import random
from collections.abc import Iterator
from ipaddress import ip_address

from cryptography import x509

from certd.pki import der
from certd.pki.certificate_request import CertificateRequest
from certd.pki.key_spec import (
    KeySpec,
    SignatureAlgorithm,
    algorithm_identifier,
    default_signature_algorithm,
    generate_private_key,
    public_key_der,
)
from certd.pki.names import SubjectAlternativeNames
from certd.prepare.order import Csr, Item, Terms
from tests.interop.generated import drawn_requests
from tests.unit.memory_authority import NOW, PrivateKey, sign

_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
_ALTERNATIVE_NAMES = "2.5.29.17"


def orders(seed: int) -> Iterator[tuple[Terms, Item]]:
    """Yields orders without end: most of CSRs, some of them damaged, some with overrides, some of certd's own.

    The same seed gives the same orders; keys are new each time.
    """
    draw = random.Random(f"corpus {seed}")
    keys = {spec: generate_private_key(spec) for spec in KeySpec}
    private_keys = {public_key_der(key.public_key()): (key, spec) for spec, key in keys.items()}
    for drawn in drawn_requests(seed, keys=list(private_keys)):
        terms = Terms(issuer=drawn.authority.issuer, profile=drawn.profile)
        request = drawn.request
        source: Csr | CertificateRequest = request
        if draw.random() < 0.85:
            key, spec = private_keys[request.public_key]
            data = csr_of(key, default_signature_algorithm(spec), request)
            other = SubjectAlternativeNames(dns_names=("other.example.internal",))
            source = Csr(
                data=_damaged(draw, data) if draw.random() < 0.15 else data,
                subject=request.subject if draw.random() < 0.1 else None,
                names=other if draw.random() < 0.1 else None,
            )
        yield terms, Item(serial=drawn.serial, source=source, validity=drawn.validity, now=NOW)


def csr_of(key: PrivateKey, algorithm: SignatureAlgorithm, request: CertificateRequest) -> bytes:
    """Returns the CSR with which somebody who has the key makes a request, in DER."""
    extensions = [_extension(one.oid, one.value, critical=one.critical) for one in request.extensions]
    if request.names:
        extensions.append(_extension(_ALTERNATIVE_NAMES, _alternative_names(request.names), critical=False))
    asked = der.sequence(der.object_identifier(_EXTENSION_REQUEST), der.set_of([der.sequence(*extensions)]))
    attributes = der.encode(der.context(0), asked if extensions else b"")
    info = der.sequence(der.integer(0), request.subject, request.public_key, attributes)
    return der.sequence(info, algorithm_identifier(algorithm), der.bit_string(sign(key, algorithm, info)))


def _extension(oid: str, value: bytes, *, critical: bool) -> bytes:
    flag = der.encode(der.BOOLEAN, b"\xff") if critical else b""
    return der.sequence(der.object_identifier(oid), flag, der.octet_string(value))


def _alternative_names(names: SubjectAlternativeNames) -> bytes:
    general_names: list[x509.GeneralName] = [
        *map(x509.DNSName, names.dns_names),
        *(x509.IPAddress(ip_address(one)) for one in names.ip_addresses),
        *map(x509.UniformResourceIdentifier, names.uris),
        *map(x509.RFC822Name, names.email_addresses),
    ]
    return x509.SubjectAlternativeName(general_names).public_bytes()


def _damaged(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    match draw.randrange(3):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        case _:
            return data[:at] + draw.randbytes(draw.randint(1, 4)) + data[at:]
