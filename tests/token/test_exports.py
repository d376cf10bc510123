"""Exports under a passphrase in every form, and that they keep nobody from signing."""

import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_der_public_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509.oid import NameOID

from certd.errors import CertdError, Reason
from certd.pki.export_form import ExportForm
from certd.pki.key_spec import KeySpec, public_key_der
from certd.token.client import TokenClient
from tests.token.material import NOW, make_authority, make_certificate, make_context
from tests.token.test_custody import PASSPHRASE, Custody

PKCS12 = [ExportForm.PKCS12_MODERN, ExportForm.PKCS12_LEGACY]


def certificate_for(public_key: bytes, name: str = "www.example.internal") -> bytes:
    """Returns the DER of a certificate that holds a key."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuer")]))
        .public_key(load_der_public_key(public_key))  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW.replace(year=2031))
        .sign(ed25519.Ed25519PrivateKey.generate(), None)
        .public_bytes(Encoding.DER)
    )


@pytest.fixture(scope="module")
def wrapping_key_id(shared: TokenClient) -> bytes:
    key_id = secrets.token_bytes(16)
    shared.ensure_wrapping_key(key_id=key_id)
    return key_id


@pytest.fixture(scope="module")
def custody(shared: TokenClient, wrapping_key_id: bytes) -> Custody:
    return Custody(shared, wrapping_key_id, KeySpec.EC_P256, make_context())


def export(custody: Custody, form: ExportForm, *certificates: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    return custody.client.export_under_passphrase(
        wrapping_key_id=custody.wrapping_key_id,
        sealed_key=custody.key.sealed_key,
        context=custody.context,
        passphrase=passphrase,
        form=form,
        certificates=certificates,
        friendly_name="web",
    )


@pytest.mark.parametrize("form", [ExportForm.PKCS8, ExportForm.ACM_COMPATIBLE])
def test_a_key_alone_comes_as_pkcs8(custody: Custody, form: ExportForm) -> None:
    opened = load_der_private_key(export(custody, form), PASSPHRASE)
    assert public_key_der(opened.public_key()) == custody.key.public_key


@pytest.mark.parametrize("spec", list(KeySpec))
@pytest.mark.parametrize("form", PKCS12)
def test_key_and_certificates_come_in_one(
    shared: TokenClient, wrapping_key_id: bytes, form: ExportForm, spec: KeySpec
) -> None:
    custody = Custody(shared, wrapping_key_id, spec, make_context())
    chain = [certificate_for(custody.key.public_key), certificate_for(custody.key.public_key, "Issuer")]
    opened = load_pkcs12(export(custody, form, *chain), PASSPHRASE)
    assert opened.key is not None
    assert opened.cert is not None
    assert public_key_der(opened.key.public_key()) == custody.key.public_key
    assert (opened.cert.certificate.public_bytes(Encoding.DER), opened.cert.friendly_name) == (chain[0], b"web")
    assert [each.certificate.public_bytes(Encoding.DER) for each in opened.additional_certs] == chain[1:]


@pytest.mark.parametrize("form", PKCS12)
def test_the_first_certificate_must_be_that_of_the_key(
    shared: TokenClient, wrapping_key_id: bytes, custody: Custody, form: ExportForm
) -> None:
    own = certificate_for(custody.key.public_key)
    other = certificate_for(Custody(shared, wrapping_key_id, KeySpec.EC_P256, make_context()).key.public_key)
    for certificates in ((), (other, own), (b"none", own)):
        with pytest.raises(CertdError) as refused:
            export(custody, form, *certificates)
        assert (refused.value.reason, refused.value.violations[0].field) == (Reason.FIELD_INVALID, "certificates")
    assert export(custody, form, own, other)


@pytest.mark.parametrize(
    ("form", "passphrase"),
    [
        (ExportForm.PKCS8, b"seven77"),
        (ExportForm.PKCS12_MODERN, b"seven77"),
        (ExportForm.PKCS12_MODERN, b"\xff" * 8),
        (ExportForm.PKCS12_LEGACY, b"with\0nul"),
        (ExportForm.ACM_COMPATIBLE, b"abc"),
        (ExportForm.ACM_COMPATIBLE, b"x" * 129),
        (ExportForm.ACM_COMPATIBLE, b"50%off"),
    ],
)
def test_each_form_has_rules_for_passphrases(custody: Custody, form: ExportForm, passphrase: bytes) -> None:
    with pytest.raises(CertdError) as refused:
        export(custody, form, certificate_for(custody.key.public_key), passphrase=passphrase)
    assert (refused.value.reason, refused.value.violations[0].field) == (Reason.FIELD_INVALID, "passphrase")
    assert not any(word in str(refused.value) for word in ("seven77", "with\0nul", "abc", "50%off"))
    assert export(custody, ExportForm.ACM_COMPATIBLE, passphrase=b"four")


@pytest.mark.parametrize("form", PKCS12)
def test_a_key_that_is_not_exportable_stays_so_in_every_form(
    shared: TokenClient, wrapping_key_id: bytes, form: ExportForm
) -> None:
    custody = Custody(shared, wrapping_key_id, KeySpec.EC_P256, make_context(exportable=False))
    with pytest.raises(CertdError) as refused:
        export(custody, form, certificate_for(custody.key.public_key))
    assert refused.value.reason is Reason.NOT_EXPORTABLE


def test_who_exports_a_strong_pkcs12_keeps_nobody_from_signing(shared: TokenClient, custody: Custody) -> None:
    """The library would hold the interpreter for all its rounds, and with it every signature, for 0.15 s and more."""
    authority = make_authority(shared)
    item = authority.item(make_certificate())
    certificate = certificate_for(custody.key.public_key)
    done = threading.Event()

    def sign() -> list[tuple[float, float]]:
        signatures = []
        while not done.is_set():
            begun = time.perf_counter()
            shared.sign([item], timeout=20)
            signatures.append((begun, time.perf_counter()))
        return signatures

    exports = []
    with ThreadPoolExecutor(1) as pool:
        signing = pool.submit(sign)
        for _ in range(12):
            begun = time.perf_counter()
            export(custody, ExportForm.PKCS12_MODERN, certificate)
            exports.append((begun, time.perf_counter()))
        done.set()
        signatures = signing.result()

    def longest_wait(begun: float, ended: float) -> float:
        """Returns the part of an export for which the slowest signature beside it took."""
        beside = (after - before for before, after in signatures if before < ended and after > begun)
        return max(beside) / (ended - begun)

    # Whoever computes holds up a signature of every export; what else is busy on this machine spares one of them.
    assert min(longest_wait(*one) for one in exports) < 0.05
