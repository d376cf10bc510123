"""A parent outside of certd, which certifies the authority that waits, well or badly."""

import random
import ssl
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.pki import der
from tests.fuzz import elements
from tests.outside_parent import certify, outside_authority


class OutsideParent:
    """Answers with certificate and chain.

    Args:
        csr: DER of the CSR of the authority that waits.
        now: in the middle of what it makes.
    """

    def __init__(self, csr: bytes, *, now: datetime) -> None:
        request = x509.load_der_x509_csr(csr)
        root = outside_authority("Outside Root", now=now)
        middle = outside_authority("Outside Middle", root, now=now)
        assert isinstance(middle.key, ec.EllipticCurvePrivateKey)
        self._signing_key = middle.key
        other = outside_authority("Other", now=now)
        key = request.public_key()
        self._certificates = [
            certify(parent, now=now, subject=subject, public_key=public_key, **more).public_bytes(Encoding.DER)
            for parent, subject, public_key, more in (
                (middle, request.subject, key, {}),
                (middle, request.subject, key, {}),
                (middle, request.subject, key, {"path_length": 0}),
                (root, request.subject, key, {}),
                (other, request.subject, key, {}),
                (middle, other.certificate.subject, key, {}),
                (middle, request.subject, other.key.public_key(), {}),
                (middle, request.subject, key, {"authority": False}),
                (middle, request.subject, key, {"begins": timedelta(days=-2), "ends": timedelta(days=-1)}),
            )
        ]
        self._chains = [middle.chain, middle.chain, middle.chain[::-1], root.chain, other.chain, (middle.der,), ()]

    def answer(self, draw: random.Random) -> tuple[bytes, bytes]:
        """Returns certificate and chain, whole or bent."""
        certificate = self._bent(draw, draw.choice(self._certificates))
        chain = [self._bent(draw, one) if draw.random() < 0.2 else one for one in draw.choice(self._chains)]
        if draw.random() < 0.1:
            chain *= draw.choice((2, 30))
        joined = b"".join(_pem(one) for one in chain) if draw.random() < 0.9 else b"".join(chain)
        if draw.random() < 0.1:
            joined = elements.damage(draw, joined)
        return certificate if draw.random() < 0.5 else _pem(certificate), joined

    def _bent(self, draw: random.Random, certificate: bytes) -> bytes:
        kind = draw.random()
        if kind < 0.4:
            return certificate
        if kind < 0.5:
            return elements.damage(draw, certificate)
        tree = elements.parse(certificate)
        signed, algorithm, _ = tree.children
        for _ in range(draw.choice((1, 1, 2))):
            elements.bend(draw, tree if kind < 0.6 else signed)
        if kind < 0.6:
            return tree.encode()
        # Signed by who bent it: only what it says stands against it.
        contents = signed.encode()
        signature = self._signing_key.sign(contents, ec.ECDSA(hashes.SHA256()))
        return der.sequence(contents, algorithm.encode(), der.bit_string(signature))


def _pem(der: bytes) -> bytes:
    """Returns PEM of anything, not only of what is a certificate."""
    return ssl.DER_cert_to_PEM_cert(der).encode()
