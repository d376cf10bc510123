"""Certificates that are imported: every check fails on its own, and says which one, which check and what to do."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.encoding import pem
from certd.pki.imported_certificate import (
    LONGEST_CERTIFICATE,
    MOST_IN_CHAIN,
    ImportedCertificate,
    check,
    check_reimport,
    names_of,
)
from certd.pki.key_spec import KeySpec, public_key_der
from certd.pki.names import SubjectAlternativeNames
from tests.outside_parent import Extension, OutsideAuthority, certify, name, outside_authority, pem_of
from tests.unit.key_files import CERTTOOL, PASSWORD, keystore, openssl, run

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ROOT = outside_authority("Outside Root", now=NOW)
MIDDLE = outside_authority("Outside Middle", ROOT, now=NOW)
ISSUER = outside_authority("Outside Issuer", MIDDLE, now=NOW)
EMPTY = x509.Name([])


def dns(*names: str) -> Extension:
    return x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), False


def usage(*bits: str) -> Extension:
    all_bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in bits for bit in all_bits}), True


def extended(*usages: x509.ObjectIdentifier) -> Extension:
    return x509.ExtendedKeyUsage(usages), False


def leaf(
    issuer: OutsideAuthority | None = ISSUER,
    *,
    subject: x509.Name | None = None,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY,
    extensions: Sequence[Extension] = (dns("www.example.com"),),
    without: Collection[type[x509.ExtensionType]] = (x509.KeyUsage,),
) -> bytes:
    """Returns the DER of a certificate for the tests."""
    return certify(
        issuer,
        now=NOW,
        subject=name("www.example.com") if subject is None else subject,
        public_key=key.public_key(),
        signing_key=key if issuer is None else None,
        authority=False,
        extensions=extensions,
        without=without,
    ).public_bytes(Encoding.DER)


LEAF = leaf()


def imported(certificate: bytes = LEAF, *chain: bytes, now: datetime = NOW) -> ImportedCertificate:
    return check(certificate, pem_of(*(chain or ISSUER.chain)), now=now)


def refused(reason: Reason, call: Callable[[], object], *, field: str, says: str) -> None:
    with pytest.raises(CertdError) as caught:
        call()
    error = caught.value
    assert error.reason is reason, error
    assert [violation.field for violation in error.violations] == [field]
    assert says in error.message
    assert "; " in error.message, "a message has a remedy"


def warned(found: ImportedCertificate) -> list[tuple[str, str]]:
    return [(warning.field, warning.message) for warning in found.warnings]


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


# The chain.


def test_a_certificate_of_an_authority_needs_its_chain() -> None:
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(LEAF, b"", now=NOW),
        field="certificate",
        says="certificate (CN=www.example.com) is not self-signed, and there is no chain; give the certificate of its"
        " issuer (CN=Outside Issuer), and those above that, as certificate_chain",
    )
    # Its own name as issuer does not make it self-signed.
    of_itself = outside_authority("www.example.com", now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(leaf(of_itself), b"", now=NOW),
        field="certificate",
        says="is not self-signed",
    )


def test_a_self_signed_certificate_takes_no_chain() -> None:
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(leaf(None), pem_of(ROOT.der), now=NOW),
        field="certificate_chain[0]",
        says="certificate_chain[0] (CN=Outside Root) is above nothing: certificate (CN=www.example.com) is self-signed",
    )


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)))
def test_a_chain_out_of_order_is_sorted_with_a_warning(order: list[int]) -> None:
    found = imported(LEAF, *(ISSUER.chain[index] for index in order))
    assert found.chain == ISSUER.chain
    expected = (
        []
        if order == [0, 1, 2]
        else [("certificate_chain", "was not in order from the issuer upwards, and was sorted")]
    )
    assert warned(found) == expected


def test_what_is_there_twice_is_left_out_with_a_warning() -> None:
    found = imported(LEAF, ISSUER.der, LEAF, MIDDLE.der, ISSUER.der, LEAF)
    assert found.chain == (ISSUER.der, MIDDLE.der)
    assert warned(found) == [
        ("certificate_chain[1]", "is the certificate itself, and was left out"),
        ("certificate_chain[3]", "is the same as certificate_chain[0], and was left out"),
        ("certificate_chain[4]", "is the certificate itself, and was left out"),
    ]
    # A bundle of nothing but the certificate is that of a self-signed one, of which nothing is left.
    own = leaf(None)
    assert warned(check(own, pem_of(own), now=NOW)) == [
        ("certificate_chain[0]", "is the certificate itself, and was left out")
    ]
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: check(LEAF, pem_of(LEAF), now=NOW),
        field="certificate",
        says="is not self-signed, and there is no chain",
    )


def test_strangers_are_refused_by_name() -> None:
    other = outside_authority("Stranger", now=NOW)
    below = outside_authority("Stranger's Issuer", other, now=NOW)
    for chain, field, says in [
        ((*ISSUER.chain, other.der), "certificate_chain[3]", "(CN=Stranger) is not between certificate and its root"),
        ((other.der, *ISSUER.chain), "certificate_chain[0]", "(CN=Stranger) is not between certificate and its root"),
        (
            (ISSUER.der, MIDDLE.der, other.der),
            "certificate_chain[2]",
            "(CN=Stranger) did not sign certificate_chain[1]",
        ),
        # A hole in the chain.
        ((ISSUER.der, ROOT.der), "certificate_chain[1]", "(CN=Outside Root) did not sign certificate_chain[0]"),
        ((MIDDLE.der, ROOT.der), "certificate", "CN=Outside Issuer is missing"),
        (below.chain, "certificate", "has no issuer in the chain: CN=Outside Issuer is missing"),
    ]:
        refused(Reason.IMPORT_CHAIN_INVALID, lambda c=chain: imported(LEAF, *c), field=field, says=says)  # type: ignore[misc]


def test_who_did_not_sign_is_no_issuer() -> None:
    namesake = outside_authority("Outside Issuer", MIDDLE, now=NOW)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(LEAF, *namesake.chain),
        field="certificate_chain[0]",
        says="has the name of the issuer of certificate (CN=www.example.com), but its key identifier is not",
    )
    unmarked = leaf(without=(x509.KeyUsage, x509.AuthorityKeyIdentifier))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(unmarked, *namesake.chain),
        field="certificate_chain[0]",
        says="but its key did not make that signature",
    )


def test_who_may_not_sign_is_no_issuer() -> None:
    no_authority = certify(ROOT, now=NOW, subject=name("Not an Issuer"), public_key=KEY.public_key(), authority=False)
    below = OutsideAuthority(certificate=no_authority, key=KEY, above=(ROOT,))
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(below, key=RSA), *below.chain),
        field="certificate_chain[0]",
        says="is no authority's: it has no basic constraints with CA:TRUE",
    )
    bits = usage("crl_sign", "digital_signature")
    unfit = outside_authority("Lists only", ROOT, now=NOW, extensions=[bits])
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(unfit), *unfit.chain),
        field="certificate_chain[0]",
        says="may not sign certificates: its key usage has no keyCertSign",
    )


def test_path_lengths_hold() -> None:
    root = outside_authority("Short Root", now=NOW, path_length=0)
    issuer = outside_authority("Issuer", root, now=NOW)
    assert imported(leaf(root), root.der).chain == (root.der,)
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(leaf(issuer), *issuer.chain),
        field="certificate_chain[1]",
        says="has the path length 0, and 1 authorities stand between it and certificate",
    )


def test_an_authority_with_a_weak_key_is_refused() -> None:
    weak = outside_authority("Weak", ROOT, now=NOW, key=rsa.generate_private_key(65537, 1024))
    refused(
        Reason.IMPORT_NOT_COMPATIBLE,
        lambda: imported(leaf(weak), *weak.chain),
        field="certificate_chain[0]",
        says="has an RSA key of 1024 bits",
    )


def test_a_bundle_of_all_the_authorities_of_the_world_is_refused_at_once() -> None:
    # All of one name and each by another key: sorting these would verify a thousand signatures.
    key = ec.generate_private_key(ec.SECP256R1())
    many = [outside_authority("Outside Issuer", now=NOW, key=key).der for _ in range(MOST_IN_CHAIN + 1)]
    refused(
        Reason.IMPORT_CHAIN_INVALID,
        lambda: imported(LEAF, *many),
        field="certificate_chain",
        says=f"has {MOST_IN_CHAIN + 1} certificates, more than {MOST_IN_CHAIN}",
    )
    # Copies count once.
    assert imported(LEAF, *([ISSUER.der] * (MOST_IN_CHAIN + 1))).chain == (ISSUER.der,)


def test_another_family_than_its_issuers_is_worth_a_warning() -> None:
    assert warned(imported(leaf(key=RSA))) == [
        ("certificate", "has a key of the family RSA that an authority with one of the family EC certified")
    ]
    authority = outside_authority("RSA Root", now=NOW, key=RSA)
    assert warned(imported(leaf(authority), authority.der)) == [
        ("certificate", "has a key of the family EC that an authority with one of the family RSA certified")
    ]
    assert imported(leaf(authority, key=rsa.generate_private_key(65537, 2048)), authority.der).warnings == ()


def test_an_edwards_key_is_imported() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    made = certify(ISSUER, now=NOW, subject=name("ed"), public_key=key.public_key(), authority=False)
    found = imported(made.public_bytes(Encoding.DER))
    assert found.key_spec is KeySpec.ED25519
    assert [message for _, message in warned(found)] == [
        "has a key of the family Edwards that an authority with one of the family EC certified"
    ]


# What other tools make.


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


# A new version takes nothing from the consumers of the one before.

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
FULL = (
    dns("www.example.com", "example.com"),
    usage("digital_signature", "key_encipherment"),
    extended(SERVER, CLIENT),
)


def reimported(
    old: bytes, extensions: Sequence[Extension], *, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = RSA
) -> list[str]:
    """Returns the warnings of a new version with these extensions."""
    new = check(leaf(key=key, extensions=extensions), pem_of(*ISSUER.chain), now=NOW)
    return [warning.message for warning in check_reimport(old, new)]


def not_compatible(call: Callable[[], object], *problems: str) -> str:
    with pytest.raises(CertdError) as caught:
        call()
    error = caught.value
    assert error.reason is Reason.IMPORT_NOT_COMPATIBLE
    assert [violation.description for violation in error.violations] == list(problems)
    assert {violation.field for violation in error.violations} == {"certificate"}
    for problem in problems:
        assert problem in error.message
    assert "; " in error.message
    return error.message


def test_the_same_again_with_another_key_is_compatible() -> None:
    old = leaf(key=RSA, extensions=FULL)
    assert reimported(old, FULL, key=rsa.generate_private_key(65537, 2048)) == []
    other = outside_authority("Another Root", now=NOW)
    assert check_reimport(old, imported(leaf(other, key=RSA, extensions=FULL), other.der)) == ()


def test_usages_may_grow() -> None:
    old = leaf(key=RSA, extensions=FULL)
    more = (
        dns("other.example.com", "www.example.com"),
        usage("digital_signature", "key_encipherment", "content_commitment"),
        extended(SERVER, CLIENT, ExtendedKeyUsageOID.CODE_SIGNING),
    )
    assert reimported(old, more) == []
    anything = (*FULL[:2], extended(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))
    assert reimported(old, anything) == []


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            rsa.generate_private_key(65537, 3072),
            "has a key of the kind RSA_3072 where the current version has RSA_2048",
        ),
        (KEY, "has a key of the kind EC_P256 where the current version has RSA_2048"),
    ],
)
def test_kind_and_size_of_the_key_stay(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, says: str) -> None:
    old = leaf(key=RSA, extensions=FULL)
    not_compatible(lambda: reimported(old, FULL, key=key), says)


def test_everything_that_is_missing_is_named() -> None:
    old = leaf(
        key=RSA,
        extensions=(
            dns("old.example.com"),
            usage("digital_signature", "key_encipherment", "content_commitment"),
            extended(SERVER, ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier("1.3.6.1.4.1.55555.9")),
        ),
    )
    new = (dns("new.example.com"), usage("digital_signature"), extended(SERVER))
    message = not_compatible(
        lambda: reimported(old, new),
        "lacks the key usage contentCommitment",
        "lacks the key usage keyEncipherment",
        "lacks the extended key usage 1.3.6.1.5.5.7.3.4 (emailProtection)",
        "lacks the extended key usage 1.3.6.1.4.1.55555.9",
        "lacks any of its names: old.example.com",
    )
    assert message.startswith("certificate (CN=www.example.com) cannot take the place of the current version")


def test_key_encipherment_may_go_from_an_ec_certificate() -> None:
    old = leaf(key=KEY, extensions=FULL)
    new = (FULL[0], usage("digital_signature"), FULL[2])
    assert reimported(old, new, key=KEY) == [
        "lacks, other than the current version, the key usage keyEncipherment, which means nothing here"
    ]
    old = leaf(key=RSA, extensions=FULL)
    not_compatible(lambda: reimported(old, new), "lacks the key usage keyEncipherment")


def test_client_authentication_may_go_with_a_warning() -> None:
    old = leaf(key=RSA, extensions=FULL)
    (warning,) = reimported(old, (*FULL[:2], extended(SERVER)))
    assert "lacks, other than the current version, the extended key usage 1.3.6.1.5.5.7.3.2 (clientAuth)" in warning
    assert "consumers that use it as a client will be refused" in warning
    not_compatible(
        lambda: reimported(old, (*FULL[:2], extended(CLIENT))),
        "lacks the extended key usage 1.3.6.1.5.5.7.3.1 (serverAuth)",
    )


def test_an_extension_that_comes_or_goes_whole_is_worth_a_warning() -> None:
    bare, full = leaf(key=RSA, extensions=FULL[:1]), leaf(key=RSA, extensions=FULL)
    restricted = "which restricts it to what stands there; the current version has none and is not restricted"
    assert reimported(bare, FULL) == [
        f"has the extension key usage, {restricted}",
        f"has the extension extended key usage, {restricted}",
    ]
    gone = "where the current version has one; some consumers ask for it"
    assert reimported(full, FULL[:1]) == [
        f"has no extension key usage, {gone}",
        f"has no extension extended key usage, {gone}",
    ]


def test_one_name_stays() -> None:
    old = leaf(key=RSA, extensions=FULL)
    assert reimported(old, (dns("EXAMPLE.com", "new.example.com"), *FULL[1:])) == []
    not_compatible(
        lambda: reimported(old, (dns("new.example.com"), *FULL[1:])),
        "lacks any of its names: example.com, www.example.com",
    )
    many = leaf(key=RSA, extensions=(dns(*(f"n{number}.example" for number in range(9))), *FULL[1:]))
    not_compatible(
        lambda: reimported(many, FULL),
        "lacks any of its names: n0.example, n1.example, n2.example, n3.example, n4.example, …",
    )
    # Where there is no other, the CN counts, as consumers of then have it.
    by_cn = leaf(subject=name("Pump 7"), key=RSA, extensions=FULL[1:])
    new = check(leaf(subject=name("pump 7"), key=RSA, extensions=FULL[1:]), pem_of(*ISSUER.chain), now=NOW)
    assert check_reimport(by_cn, new) == ()
    not_compatible(lambda: reimported(by_cn, FULL), "lacks any of its names: pump 7")


# Whatever is changed, what is accepted is what the issuer signed.


_FLIPS = settings(max_examples=300, deadline=None)
# The library only warns of them.
_ODD_SERIALS = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")


@_ODD_SERIALS
@_FLIPS
@given(st.integers(0, 8 * len(LEAF) - 1))
def test_a_flipped_bit_of_the_certificate_is_refused(bit: int) -> None:
    with pytest.raises(CertdError):
        check(flipped(LEAF, bit), pem_of(*ISSUER.chain), now=NOW)


@_ODD_SERIALS
@_FLIPS
@given(st.integers(0, 8 * len(ISSUER.der) - 1))
def test_a_flipped_bit_of_the_chain_is_refused(bit: int) -> None:
    """With the next one above it: alone, what only names that one is not held against anything."""
    chain = "".join(pem("CERTIFICATE", one) for one in (flipped(ISSUER.der, bit), MIDDLE.der))
    with pytest.raises(CertdError):
        check(LEAF, chain.encode(), now=NOW)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
