"""Certificates of outside parents that somebody bent: each is accepted, or refused by name."""

import random
import warnings

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError, Reason
from certd.pki.authority_certificate import accept
from tests.fuzz.outside import OutsideParent
from tests.unit.outside_certificates import AWAITING, KEY, NOW, SUBJECT

_COUNT = 3000
_REASONS = {
    *(Reason.FIELD_INVALID, Reason.IMPORT_NOT_PEM, Reason.IMPORT_EXPIRED, Reason.IMPORT_KEY_MISMATCH),
    *(Reason.IMPORT_CHAIN_INVALID, Reason.IMPORT_NOT_COMPATIBLE, Reason.NAME_CONSTRAINT_VIOLATED),
}


def outcomes(seed: int, count: int) -> set[Reason | None]:
    """Returns how certificates and chains from a seed fare; None: accepted."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(SUBJECT).sign(KEY, hashes.SHA256())
    parent = OutsideParent(csr.public_bytes(Encoding.DER), now=NOW)
    draw = random.Random(seed)
    found: set[Reason | None] = set()
    for _ in range(count):
        certificate, chain = parent.answer(draw)
        try:
            accept(certificate, chain, awaiting=AWAITING, now=NOW)
        except CertdError as error:
            # What names no field is no refusal by name.
            found.add(error.reason if error.violations else Reason.INTERNAL)
        else:
            found.add(None)
    return found


def test_whatever_is_bent_is_accepted_or_refused_by_name() -> None:
    with warnings.catch_warnings():
        # The library warns of names that break bounds.
        warnings.simplefilter("ignore")
        found = outcomes(20261124, _COUNT)
    assert found <= {None, *_REASONS}
    assert len(found) >= 6
