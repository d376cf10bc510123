"""What an outside parent makes for one authority, and how a refusal of it is checked."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certd.errors import CertdError, Reason
from certd.pki.authority_certificate import Accepted, Awaiting, accept
from certd.pki.key_spec import public_key_der
from tests.outside_parent import OutsideAuthority, certify, outside_authority, pem_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = x509.Name(
    [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"), x509.NameAttribute(NameOID.COMMON_NAME, "Issuing CA")]
)
ROOT = outside_authority("Outside Root", now=NOW)
MIDDLE = outside_authority("Outside Middle", ROOT, now=NOW)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
AWAITING = Awaiting(
    public_key=public_key_der(KEY.public_key()),
    subject=SUBJECT.public_bytes(),
    path_length=1,
    name_constraints=None,
    longest_lifetime=timedelta(days=1825, minutes=5),
    highest_path_length=4,
)


def made(issuer: OutsideAuthority = MIDDLE, **changes: Any) -> bytes:
    """Returns what `issuer` made for the authority."""
    wanted: dict[str, Any] = {"now": NOW, "subject": SUBJECT, "public_key": KEY.public_key(), "path_length": 1}
    return certify(issuer, **(wanted | changes)).public_bytes(Encoding.DER)


def accepted(certificate: bytes, *chain: bytes, awaiting: Awaiting = AWAITING) -> Accepted:
    return accept(certificate, pem_of(*chain), awaiting=awaiting, now=NOW)


def refused(reason: Reason, call: Callable[[], object], *, field: str, says: str) -> CertdError:
    """Checks how a call is refused: its reason, the certificate that it is about, and the words of the check."""
    with pytest.raises(CertdError) as caught:
        call()
    error = caught.value
    assert error.reason is reason, error
    assert [violation.field for violation in error.violations] == [field]
    assert says in error.message
    assert "; " in error.message, "a message has a remedy"
    return error
