"""Certificates that are imported: every check fails on its own, and says which one, which check and what to do."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.imported_certificate import (
    LONGEST_CERTIFICATE,
    ImportedCertificate,
    check,
    names_of,
)
from certd.pki.key_spec import KeySpec, public_key_der
from certd.pki.names import SubjectAlternativeNames
from tests.outside_parent import name, outside_authority, pem_of
from tests.unit.imported_certificates import (
    EMPTY,
    ISSUER,
    KEY,
    LEAF,
    MIDDLE,
    NOW,
    ROOT,
    RSA,
    dns,
    imported,
    leaf,
    refused,
)
from tests.unit.key_files import CERTTOOL, PASSWORD, keystore, openssl, run

# What will do.


def test_what_will_do_is_told_without_a_warning() -> None:
    found = imported()
    parsed = x509.load_der_x509_certificate(LEAF)
    assert found == ImportedCertificate(
        certificate=LEAF,
        chain=ISSUER.chain,
        subject=name("www.example.com").public_bytes(),
        public_key=public_key_der(KEY.public_key()),
        key_spec=KeySpec.EC_P256,
        names=SubjectAlternativeNames(dns_names=("www.example.com",)),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        warnings=(),
    )


def test_pem_and_der_are_the_same() -> None:
    found = imported()
    with_text = b"subject=CN = www.example.com\n" + pem_of(LEAF)
    assert check(with_text, pem_of(*ISSUER.chain), now=NOW) == found
    alone = leaf(ROOT)
    assert check(alone, ROOT.der, now=NOW) == check(pem_of(alone), pem_of(ROOT.der), now=NOW)


def test_the_chain_may_end_before_the_root() -> None:
    assert imported(LEAF, ISSUER.der, MIDDLE.der).chain == (ISSUER.der, MIDDLE.der)
    assert imported(LEAF, ISSUER.der).chain == (ISSUER.der,)


def test_a_self_signed_certificate_has_no_chain() -> None:
    own = leaf(None)
    for chain in (b"", b"\n"):
        found = check(own, chain, now=NOW)
        assert (found.chain, found.warnings) == ((), ())
    # What openssl makes of `req -x509` says that it is an authority.
    authority = outside_authority("www.example.com", now=NOW)
    assert check(authority.der, b"", now=NOW).names.dns_names == ("www.example.com",)


@pytest.mark.parametrize(
    ("alternative", "expected"),
    [
        ([x509.DNSName("WWW.Example.com")], SubjectAlternativeNames(dns_names=("www.example.com",))),
        ([x509.DNSName("_sip.example.com")], SubjectAlternativeNames(dns_names=("_sip.example.com",))),
        ([x509.IPAddress(ip_address("2001:DB8::1"))], SubjectAlternativeNames(ip_addresses=("2001:db8::1",))),
        (
            [x509.UniformResourceIdentifier("HTTPS://Example.com/%7e"), x509.UniformResourceIdentifier("no uri")],
            SubjectAlternativeNames(uris=("https://example.com/%7E", "no uri")),
        ),
        (
            [x509.RFC822Name("Me@Example.com"), x509.RFC822Name("no mailbox")],
            SubjectAlternativeNames(email_addresses=("Me@example.com", "no mailbox")),
        ),
        ([x509.DNSName("a.example"), x509.DNSName("A.example")], SubjectAlternativeNames(dns_names=("a.example",))),
    ],
)
def test_names_are_told_in_their_normal_form(
    alternative: list[x509.GeneralName], expected: SubjectAlternativeNames
) -> None:
    made = leaf(subject=EMPTY, extensions=[(x509.SubjectAlternativeName(alternative), True)])
    assert imported(made).names == expected
    assert names_of(made) == expected


@pytest.mark.parametrize(
    ("common_name", "expected"),
    [
        ("Shop.Example.com", SubjectAlternativeNames(dns_names=("shop.example.com",))),
        ("192.0.2.1", SubjectAlternativeNames(ip_addresses=("192.0.2.1",))),
        ("Pump 7", SubjectAlternativeNames()),
    ],
)
def test_a_common_name_is_a_name_where_there_are_no_others(common_name: str, expected: SubjectAlternativeNames) -> None:
    assert imported(leaf(subject=name(common_name), extensions=())).names == expected
    # Beside others it is none.
    assert imported(leaf(subject=name(common_name))).names.dns_names == ("www.example.com",)


# What is no certificate.


def test_what_is_no_certificate_is_refused() -> None:
    for data in (b"", b"nothing", pem_of(LEAF)[:-20], LEAF[:-1], LEAF + b"\x00", pem_of(LEAF).replace(b"M", b"*", 1)):
        refused(Reason.IMPORT_NOT_PEM, lambda d=data: imported(d), field="certificate", says="certificate ")  # type: ignore[misc]
        if data:
            chain = data
            refused(
                Reason.IMPORT_NOT_PEM,
                lambda c=chain: check(LEAF, c, now=NOW),  # type: ignore[misc]
                field="certificate_chain",
                says="certificate_chain ",
            )


def test_a_private_key_in_the_wrong_place_is_told() -> None:
    key = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(CertdError, match="certificate: contains a private key: that key is no longer private"):
        check(pem_of(LEAF) + key, pem_of(*ISSUER.chain), now=NOW)
    with pytest.raises(CertdError, match="certificate_chain: contains a private key"):
        check(LEAF, pem_of(*ISSUER.chain) + key, now=NOW)


def test_there_is_exactly_one_certificate() -> None:
    refused(
        Reason.IMPORT_NOT_PEM,
        lambda: check(pem_of(LEAF, *ISSUER.chain), b"", now=NOW),
        field="certificate",
        says="has 4 certificates; send one there, and those above it as certificate_chain",
    )


def test_sizes_have_bounds() -> None:
    with pytest.raises(CertdError, match=f"certificate: is longer than {LONGEST_CERTIFICATE} bytes"):
        imported(pem_of(LEAF) + b"\n" * LONGEST_CERTIFICATE)
    with pytest.raises(CertdError, match="certificate_chain: is longer than 2097152 bytes"):
        check(LEAF, pem_of(*ISSUER.chain) + b"\n" * (2 << 20), now=NOW)


def test_version_1_is_refused(tmp_path: Path) -> None:
    # certd's own library writes none.
    key, request = tmp_path / "key.pem", tmp_path / "request.pem"
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    request.write_bytes(openssl("req", "-new", "-key", str(key), "-subj", "/CN=old"))
    old = openssl("x509", "-req", "-in", str(request), "-signkey", str(key), "-days", "30")
    assert x509.load_pem_x509_certificate(old).version is x509.Version.v1
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: check(old, b"", now=datetime.now(tz=UTC)),
        field="certificate",
        says="is X.509 of version 1",
    )


# The certificate itself.


def test_a_certificate_without_a_name_is_refused() -> None:
    directory = x509.SubjectAlternativeName([x509.DirectoryName(name("somebody"))])
    organisation = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")])
    for subject, extensions in [(EMPTY, [(directory, True)]), (organisation, []), (name(" "), [])]:
        made = leaf(subject=subject, extensions=extensions)
        refused(
            Reason.IMPORT_NOT_COMPATIBLE,
            lambda m=made: imported(m),  # type: ignore[misc]
            field="certificate",
            says="has no name: neither a DNS name, an IP address, a URI or an e-mail address, nor a CN",
        )


def test_a_certificate_without_an_issuer_is_refused() -> None:
    made = with_another(LEAF, ISSUER.certificate.subject.public_bytes(), EMPTY.public_bytes())
    assert not len(x509.load_der_x509_certificate(made).issuer)
    refused(Reason.IMPORT_NOT_COMPATIBLE, lambda: imported(made), field="certificate", says="has an empty issuer")


def with_another(certificate: bytes, old: bytes, new: bytes) -> bytes:
    """Returns a certificate with something replaced, signed again by its issuer."""
    content = der.Reader(x509.load_der_x509_certificate(certificate).tbs_certificate_bytes).read(der.SEQUENCE)
    assert content.count(old) == 1
    tbs = der.encode(der.SEQUENCE, content.replace(old, new))
    assert isinstance(ISSUER.key, ec.EllipticCurvePrivateKey)
    signature = ISSUER.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der.sequence(tbs, der.sequence(der.object_identifier("1.2.840.10045.4.3.2")), der.bit_string(signature))


def test_validity_is_held_against_the_clock() -> None:
    ends = x509.load_der_x509_certificate(LEAF).not_valid_after_utc
    begins = x509.load_der_x509_certificate(LEAF).not_valid_before_utc
    for moment in (begins, ends):
        assert imported(now=moment).certificate == LEAF
    refused(
        Reason.IMPORT_EXPIRED,
        lambda: imported(now=ends + timedelta(seconds=1)),
        field="certificate",
        says=f"certificate (CN=www.example.com) ended at {ends:%Y-%m-%dT%H:%M:%SZ}",
    )
    refused(
        Reason.IMPORT_EXPIRED,
        lambda: imported(now=begins - timedelta(seconds=1)),
        field="certificate",
        says="certificate (CN=www.example.com) is not valid before",
    )


def test_a_link_of_the_chain_that_has_ended_is_named_by_its_place_and_subject() -> None:
    short = outside_authority("Short Middle", ROOT, now=NOW, ends=timedelta(days=10))
    issuer = outside_authority("Issuer", short, now=NOW)
    refused(
        Reason.IMPORT_EXPIRED,
        lambda: imported(leaf(issuer), *issuer.chain, now=NOW + timedelta(days=11)),
        field="certificate_chain[1]",
        says="certificate_chain[1] (CN=Short Middle) ended at 2030-01-11T00:00:00Z",
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "of a kind or size that is not accepted; use RSA of 2048"),
        (lambda: rsa.generate_private_key(3, 2048), "it has an RSA exponent that is not"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "of a kind or size that is not accepted; use RSA of 2048"),
        (lambda: dsa.generate_private_key(2048), "of a kind or size that is not accepted"),
        (x25519.X25519PrivateKey.generate, "of a kind or size that is not accepted"),
    ],
)
def test_a_key_that_cannot_be_kept_is_refused(make: Callable[[], ec.EllipticCurvePrivateKey], says: str) -> None:
    made = leaf(key=make(), without=(x509.KeyUsage,))
    refused(Reason.KEY_TOO_WEAK, lambda: imported(made), field="certificate", says=says)


def test_a_key_that_is_bound_to_pss_is_refused() -> None:
    """The library reads it as an RSA key for everything."""
    plain = leaf(key=RSA)
    info = public_key_der(RSA.public_key())
    bits = der.Reader(info).enter(der.SEQUENCE)
    bits.read(der.SEQUENCE)
    pss = der.sequence(der.sequence(der.object_identifier("1.2.840.113549.1.1.10")), bits.read_whole(der.BIT_STRING))
    made = with_another(plain, info, pss)
    assert isinstance(x509.load_der_x509_certificate(made).public_key(), rsa.RSAPublicKey)
    refused(Reason.KEY_TOO_WEAK, lambda: imported(made), field="certificate", says="bound to RSASSA-PSS")


def test_an_ocsp_url_has_a_bound() -> None:
    def made(method: x509.ObjectIdentifier, length: int) -> bytes:
        url = "http://ocsp.example.com/".ljust(length, "x")
        access = x509.AuthorityInformationAccess([x509.AccessDescription(method, x509.UniformResourceIdentifier(url))])
        return leaf(extensions=[dns("www.example.com"), (access, False)])

    assert imported(made(AuthorityInformationAccessOID.OCSP, 1000)).warnings == ()
    assert imported(made(AuthorityInformationAccessOID.CA_ISSUERS, 1001)).warnings == ()
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: imported(made(AuthorityInformationAccessOID.OCSP, 1001)),
        field="certificate",
        says="has an OCSP URL of 1001 characters, more than 1000",
    )


def test_a_signature_that_anybody_may_forge_is_refused() -> None:
    generated = (
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "/dev/null",
        "-subj",
        "/CN=old",
        "-days",
        "30",
    )
    for digest in ("-md5", "-sha1"):
        made = openssl(*generated, digest)
        refused(
            Reason.IMPORT_NOT_COMPATIBLE,
            lambda m=made: check(m, b"", now=datetime.now(tz=UTC)),  # type: ignore[misc]
            field="certificate",
            says="is signed with MD5, SHA-1",
        )


def test_what_cannot_be_shown_is_refused() -> None:
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x02\x82\x05")
    refused(
        Reason.IMPORT_NOT_PEM,
        lambda: imported(leaf(extensions=[(broken, False)])),
        field="certificate",
        says="is not the DER of a certificate that decodes",
    )


# What other tools make.


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_an_extension_that_the_library_reads_and_does_not_write_is_refused() -> None:
    issuer = der.encode(der.context(1), der.encode(der.context(4), ISSUER.certificate.subject.public_bytes()))
    below_zero = der.sequence(der.encode(0x80, b"key"), issuer, der.encode(0x82, b"\xff"))
    identifier = x509.UnrecognizedExtension(x509.AuthorityKeyIdentifier.oid, below_zero)
    certificate = leaf(extensions=[dns("www.example.com"), (identifier, False)], without=[x509.AuthorityKeyIdentifier])
    refused(
        Reason.IMPORT_NOT_COMPATIBLE, lambda: imported(certificate), field="certificate", says="that cannot be shown"
    )


def test_what_openssl_gnutls_and_java_make_is_imported(tmp_path: Path) -> None:
    self_signed = openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-keyout", "/dev/null"),
        *("-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example,IP:192.0.2.7", "-days", "30"),
    )
    found = check(self_signed, b"", now=datetime.now(tz=UTC))
    assert found.names == SubjectAlternativeNames(dns_names=("shop.example",), ip_addresses=("192.0.2.7",))
    assert found.key_spec is KeySpec.EC_P384

    authority_key, key = (tmp_path / file for file in ("authority.key", "leaf.key"))
    for file in (authority_key, key):
        file.write_bytes(run(CERTTOOL, "--generate-privkey", "--key-type=rsa", "--bits=2048", "--no-text"))
    template, authority = tmp_path / "authority.cfg", tmp_path / "authority.pem"
    template.write_text('cn = "GnuTLS Root"\nca\ncert_signing_key\nexpiration_days = 30\n')
    signed_by_itself = ("--generate-self-signed", "--load-privkey", str(authority_key), "--template", str(template))
    authority.write_bytes(run(CERTTOOL, *signed_by_itself))
    template.write_text('dns_name = "gnutls.example"\ntls_www_server\nsigning_key\nexpiration_days = 30\n')
    signing = ("--load-ca-certificate", str(authority), "--load-ca-privkey", str(authority_key))
    made = run(CERTTOOL, "--generate-certificate", "--load-privkey", str(key), *signing, "--template", str(template))
    # certtool writes the certificate for people before its PEM.
    found = check(made, authority.read_bytes(), now=datetime.now(tz=UTC))
    assert found.names.dns_names == ("gnutls.example",)
    assert found.warnings == ()

    store = keystore(
        tmp_path / "store.p12", "PKCS12", "-keyalg", "RSA", "-keysize", "3072", "-ext", "san=dns:java.example"
    )
    exported = run("keytool", "-exportcert", "-rfc", "-keystore", str(store), "-alias", "key", "-storepass", PASSWORD)
    found = check(exported, b"", now=datetime.now(tz=UTC))
    assert (found.names.dns_names, found.key_spec) == (("java.example",), KeySpec.RSA_3072)
