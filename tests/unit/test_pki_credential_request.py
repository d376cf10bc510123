import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certd.errors import CertdError, Reason
from certd.pki.credential_request import credential_request_of, new_credential_request
from certd.pki.csr import parse_csr
from certd.pki.key_spec import KeySpec


def test_same_key_asks_again() -> None:
    made = new_credential_request()
    again = credential_request_of(made.private_key)
    assert again.private_key == made.private_key
    first, second = parse_csr(made.csr), parse_csr(again.csr)
    assert first == second
    assert first.key_spec is KeySpec.EC_P256
    assert parse_csr(new_credential_request().csr) != first


def test_key_is_not_printed() -> None:
    assert "PRIVATE" not in repr(new_credential_request())


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"garbage",
        new_credential_request().private_key[:-40],
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_what_is_no_key_of_ours(key: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        credential_request_of(key)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.violations[0].field == "private_key"
