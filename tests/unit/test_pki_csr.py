import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki import distinguished_name as dn
from certd.pki.csr import LONGEST_CSR, RequestedExtension, key_problem, parse_csr
from certd.pki.key_spec import KeySpec, generate_private_key, public_key_der
from certd.pki.names import SubjectAlternativeNames
from tests.unit.memory_authority import csr, der_of, refused_with

_KEY = ec.generate_private_key(ec.SECP256R1())
_PLAIN = der_of(csr(_KEY, san=[x509.DNSName("www.example.internal")]))


@pytest.mark.parametrize("spec", KeySpec)
def test_every_kind_of_key(spec: KeySpec) -> None:
    private_key = generate_private_key(spec)
    parsed = parse_csr(der_of(csr(private_key)))
    assert parsed.key_spec is spec
    assert parsed.public_key == public_key_der(private_key.public_key())
    assert parsed.subject == dn.EMPTY
    assert not parsed.names
    assert parsed.extensions == ()


def test_openssl_request_as_pem_with_text_around_it(tmp_path: Path) -> None:
    names = (
        "DNS:WWW.example.internal,DNS:*.example.internal,IP:192.0.2.1,IP:2001:db8::1,"
        "URI:https://Example.internal/a,email:Ops@Example.internal"
    )
    run = subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-text",
         "-keyout", tmp_path / "key.pem", "-subj", "/C=DE/O=Exämple/CN=WWW.example.internal", "-utf8",
         "-addext", f"subjectAltName={names}",
         "-addext", "keyUsage=digitalSignature,keyCertSign", "-addext", "basicConstraints=CA:TRUE"],
        capture_output=True, check=True,
    )  # fmt: skip
    parsed = parse_csr(run.stdout)
    assert dn.to_text(parsed.subject) == "CN=WWW.example.internal,O=Exämple,C=DE"
    assert parsed.names == SubjectAlternativeNames(
        dns_names=("www.example.internal", "*.example.internal"),
        ip_addresses=("192.0.2.1", "2001:db8::1"),
        uris=("https://example.internal/a",),
        email_addresses=("Ops@example.internal",),
    )
    assert [(extension.oid, extension.value.hex()) for extension in parsed.extensions] == [
        ("2.5.29.15", "03020284"),
        ("2.5.29.19", "30030101ff"),
    ]


def test_pem_and_der_are_the_same() -> None:
    request = csr(_KEY, san=[x509.DNSName("a")])
    pem = request.public_bytes(Encoding.PEM)
    assert parse_csr(pem) == parse_csr(der_of(request))
    assert parse_csr(pem.replace(b"BEGIN CERT", b"BEGIN NEW CERT").replace(b"END CERT", b"END NEW CERT")) == parse_csr(
        pem
    )
    assert parse_csr(pem.replace(b"\n", b"\r\n")) == parse_csr(pem)


def test_subject_is_kept_byte_for_byte() -> None:
    attribute = der.sequence(der.object_identifier("2.5.4.3"), der.encode(der.BMP_STRING, "é".encode("utf-16-be")))
    subject = der.sequence(der.set_of([attribute]))
    assert parse_csr(der_of(csr(_KEY, subject=x509.Name.from_bytes(subject)))).subject == subject


def _refused(data: bytes) -> CertdError:
    with pytest.raises(CertdError) as caught:
        parse_csr(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not a whole"),
        (b"garbage", "not a whole"),
        (_PLAIN[:-1], "not a whole"),
        (_PLAIN + b"\x00", "not a whole"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "not a whole"),
        (csr(_KEY).public_bytes(Encoding.PEM)[:-60], "not a whole"),
        (csr(_KEY).public_bytes(Encoding.PEM) * 2, "more than one"),
        (b"\x30" * (LONGEST_CSR + 1), "longer than 32768"),
    ],
)
def test_malformed(data: bytes, problem: str) -> None:
    error = _refused(data)
    assert error.reason is Reason.CSR_MALFORMED
    assert problem in error.message
    assert error.violations[0].field == "csr"


def test_private_key_beside_the_request() -> None:
    key = _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    error = _refused(csr(_KEY).public_bytes(Encoding.PEM) + key)
    assert error.reason is Reason.CSR_MALFORMED
    assert "no longer private" in error.message


def _resign(info: bytes) -> bytes:
    """Signs a CertificationRequestInfo that the library would not write."""
    signature = _KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
    return der.sequence(info, algorithm, der.bit_string(signature))


def _info(*, subject: bytes = dn.EMPTY, attributes: bytes = b"") -> bytes:
    key = public_key_der(_KEY.public_key())
    return der.sequence(der.integer(0), subject, key, der.encode(der.context(0), attributes))


def _extension_request(*extensions: bytes) -> bytes:
    return der.sequence(der.object_identifier("1.2.840.113549.1.9.14"), der.set_of([der.sequence(*extensions)]))


def _extension(oid: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.octet_string(value))


def test_what_the_library_would_not_write_but_is_a_request() -> None:
    assert parse_csr(_resign(_info())).subject == dn.EMPTY


@pytest.mark.parametrize(
    "attributes",
    [
        _extension_request(_extension("2.5.29.17", b"\x04\x00")),
        _extension_request(_extension("2.5.29.17", der.sequence(der.encode(0x87, b"abc")))),
        _extension_request(_extension("2.5.29.15", b"\x03\x02\x07\x80"), _extension("2.5.29.15", b"\x03\x02\x07\x80")),
        _extension_request(_extension("1.3.6.1.5.5.7.1.24", der.sequence(der.integer(99)))),
        _extension_request(_extension("2.5.29.17", der.sequence(der.encode(0xA4, der.sequence(der.set_of([der.sequence(
            der.object_identifier("2.5.4.3"), der.encode(der.BIT_STRING, b"\x00a"))])))))),
        _extension_request(_extension("2.5.29.17", der.sequence(der.encode(0xA4, der.sequence(der.set_of([der.sequence(
            der.object_identifier("2.5.4.6"), der.encode(der.PRINTABLE_STRING, b"D"))])))))),
        der.sequence(der.object_identifier("1.2.840.113549.1.9.14"), der.set_of([])),
        der.sequence(der.object_identifier("1.2.840.113549.1.9.14"), der.set_of([der.sequence(_extension(
            "1.2.3", b"a")), der.sequence(_extension("1.2.4", b"a"))])),
    ],
)  # fmt: skip
def test_extensions_that_do_not_decode(attributes: bytes) -> None:
    assert _refused(_resign(_info(attributes=attributes))).reason is Reason.CSR_MALFORMED


_KEY_USAGE = _extension("2.5.29.15", b"\x03\x02\x07\x80")
_NAME = der.sequence(der.encode(0x82, b"www.example.internal"))
_MICROSOFT = "1.3.6.1.4.1.311.2.1.14"


def test_extensions_are_read_byte_for_byte() -> None:
    """A zero bit at the end is not DER, and yet what the CSR says; whoever lets it pass judges it."""
    own = der.sequence(der.object_identifier("1.2.3"), b"\x01\x01\xff", der.octet_string(b"anything"))
    attributes = _extension_request(
        _extension("2.5.29.15", b"\x03\x02\x00\x80"), _extension("2.5.29.17", _NAME), own, _extension("1.2.4", b"")
    )
    parsed = parse_csr(_resign(_info(attributes=attributes)))
    assert parsed.names.dns_names == ("www.example.internal",)
    assert parsed.extensions == (
        RequestedExtension(oid="2.5.29.15", critical=False, value=b"\x03\x02\x00\x80"),
        RequestedExtension(oid="1.2.3", critical=True, value=b"anything"),
        RequestedExtension(oid="1.2.4", critical=False, value=b""),
    )


def test_extensions_as_microsoft_asks_for_them() -> None:
    wanted = der.sequence(
        der.object_identifier(_MICROSOFT), der.set_of([der.sequence(_KEY_USAGE, _extension("2.5.29.17", _NAME))])
    )
    challenge = der.sequence(
        der.object_identifier("1.2.840.113549.1.9.7"), der.set_of([der.encode(der.UTF8_STRING, b"secret")])
    )
    parsed = parse_csr(_resign(_info(attributes=challenge + wanted)))
    assert [extension.oid for extension in parsed.extensions] == ["2.5.29.15"]
    assert parsed.names.dns_names == ("www.example.internal",)


@pytest.mark.parametrize("second", ["1.2.840.113549.1.9.14", _MICROSOFT])
def test_two_extension_requests(second: str) -> None:
    """The library reads the first; a reader that takes the last would issue for other names."""
    name = _extension("2.5.29.17", _NAME)
    other = _extension("2.5.29.17", der.sequence(der.encode(0x82, b"evil.example")))
    again = der.sequence(der.object_identifier(second), der.set_of([der.sequence(other)]))
    error = _refused(_resign(_info(attributes=b"".join(sorted([_extension_request(name), again])))))
    assert error.reason is Reason.CSR_MALFORMED
    assert "more than one extension request" in error.message


def test_identifier_of_a_request_somewhere_else() -> None:
    identifier = der.object_identifier("1.2.840.113549.1.9.14")
    attributes = _extension_request(_extension("2.5.29.17", _NAME), _extension("1.2.3", identifier))
    assert parse_csr(_resign(_info(attributes=attributes))).extensions[0].value == identifier


def test_changed_request_does_not_verify() -> None:
    error = _refused(_PLAIN.replace(b"www.example", b"vvv.example"))
    assert error.reason is Reason.CSR_SIGNATURE_INVALID
    assert "private key" in error.message


def test_request_signed_by_another_key() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    info = csr(_KEY).tbs_certrequest_bytes
    signature = other.sign(info, ec.ECDSA(hashes.SHA256()))
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.4.3.2"))
    assert _refused(der.sequence(info, algorithm, der.bit_string(signature))).reason is Reason.CSR_SIGNATURE_INVALID


def test_unknown_and_broken_signature_algorithms() -> None:
    info = csr(_KEY).tbs_certrequest_bytes
    for oid in ("1.2.3.4", "1.2.840.113549.1.1.4"):
        request = der.sequence(info, der.sequence(der.object_identifier(oid), b"\x05\x00"), der.bit_string(b"x" * 64))
        assert _refused(request).reason is Reason.CSR_SIGNATURE_INVALID


def test_a_signature_over_a_broken_hash_is_called_so() -> None:
    info = csr(_KEY).tbs_certrequest_bytes
    request = der.sequence(
        info,
        der.sequence(der.object_identifier("1.2.840.10045.4.1")),
        der.bit_string(_KEY.sign(info, ec.ECDSA(hashes.SHA1()))),
    )
    error = _refused(request)
    assert error.reason is Reason.CSR_SIGNATURE_INVALID
    assert "SHA-256" in error.message


@pytest.mark.parametrize(
    "private_key",
    [
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(65537, 2560),
        rsa.generate_private_key(3, 2048),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        dsa.generate_private_key(2048),
        ed448.Ed448PrivateKey.generate(),
    ],
)
def test_weak_or_foreign_key(
    private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey | ed448.Ed448PrivateKey,
) -> None:
    digest = None if isinstance(private_key, ed448.Ed448PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private_key, digest)
    error = _refused(der_of(request))
    assert error.reason is Reason.KEY_TOO_WEAK
    assert error.violations[0].field == "csr.public_key"
    assert key_problem(private_key.public_key()) is not None


def test_unknown_kind_of_key() -> None:
    key = der.sequence(der.sequence(der.object_identifier("1.2.3.4")), der.bit_string(b"x"))
    info = der.sequence(der.integer(0), dn.EMPTY, key, b"\xa0\x00")
    assert _refused(_resign(info)).reason is Reason.KEY_TOO_WEAK


def test_point_that_is_not_on_the_curve() -> None:
    key = public_key_der(_KEY.public_key())
    info = der.sequence(der.integer(0), dn.EMPTY, key[:-1] + bytes([key[-1] ^ 1]), b"\xa0\x00")
    assert _refused(_resign(info)).reason is Reason.CSR_MALFORMED


@pytest.mark.parametrize("exponent", [3, 65536, 1 << 33 | 1])
def test_rsa_exponents(exponent: int) -> None:
    modulus = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        return  # The library refuses it by itself.
    assert key_problem(key) is not None


@pytest.mark.parametrize(
    ("san", "field"),
    [
        ([x509.DNSName("ok.example"), x509.DNSName("a b")], "csr.subject_alternative_names.dns_names[1]"),
        ([x509.DNSName("a\x00.example")], "csr.subject_alternative_names.dns_names[0]"),
        ([x509.UniformResourceIdentifier("nonsense")], "csr.subject_alternative_names.uris[0]"),
        ([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], "csr.subject_alternative_names"),
        ([x509.DirectoryName(x509.Name([]))], "csr.subject_alternative_names"),
        (
            [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")],
            "csr.subject_alternative_names",
        ),
    ],
)
def test_names_that_are_none(san: list[x509.GeneralName], field: str) -> None:
    error = _refused(der_of(csr(_KEY, san=san)))
    assert error.reason is Reason.NAME_NOT_ALLOWED
    assert [violation.field for violation in error.violations] == [field]


def test_hundred_and_one_names() -> None:
    error = _refused(der_of(csr(_KEY, san=[x509.DNSName(f"h{index}") for index in range(101)])))
    assert error.reason is Reason.NAME_NOT_ALLOWED


_REASONS = {Reason.CSR_MALFORMED, Reason.CSR_SIGNATURE_INVALID, Reason.KEY_TOO_WEAK, Reason.NAME_NOT_ALLOWED}


@given(st.integers(0, len(_PLAIN) - 1), st.integers(0, 255))
def test_no_changed_byte_surprises_the_reader(at: int, value: int) -> None:
    changed = bytearray(_PLAIN)
    changed[at] = value
    if bytes(changed) != _PLAIN:
        assert _refused(bytes(changed)).reason in _REASONS


@given(st.binary(max_size=200))
def test_no_bytes_surprise_the_reader(data: bytes) -> None:
    assert _refused(data).reason in _REASONS


_PIECES = st.recursive(
    st.tuples(
        st.sampled_from([0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x82, 0x86, 0x87]), st.binary(max_size=5)
    ),
    lambda inner: st.tuples(
        st.sampled_from([0x30, 0x31, 0xA0, 0xA4]),
        st.lists(inner.map(lambda piece: der.encode(*piece)), max_size=3).map(b"".join),
    ),
    max_leaves=4,
).map(lambda piece: der.encode(*piece))
_KNOWN = st.sampled_from(
    ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.32", "2.5.29.37", "1.3.6.1.5.5.7.1.24",
     "1.3.6.1.5.5.7.1.1", "1.3.6.1.4.1.311.21.7", "1.3.36.8.3.3", "1.2.3"]
)  # fmt: skip


@given(st.lists(st.builds(_extension, _KNOWN, st.one_of(_PIECES, st.binary(max_size=6))), max_size=3))
def test_no_extension_surprises_the_reader(extensions: list[bytes]) -> None:
    data = _resign(_info(attributes=_extension_request(*extensions)))
    try:
        parsed = parse_csr(data)
    except CertdError as error:
        reason = error.reason
    else:
        assert len(parsed.extensions) <= len(extensions)
        return
    assert reason in {Reason.CSR_MALFORMED, Reason.NAME_NOT_ALLOWED}


# Its key is of Ed25519, and its signature of RSASSA-PSS without the parameters that belong there.
_UNREADABLE_ALGORITHM = bytes.fromhex(
    "3081f230819f0201003028310b300906035504061302444531193017060355040a0c104dc3bc6c6c657220262053c3b6"
    "686e65302a300506032b657003210022b395f125feb85e60d00cfb4d93e2f49e936f65219aaa9f241c1d0234bc14cba0"
    "44304206092a864886f70d01090e3135303330310603551d11042a30288215786e2d2d62636865722d6b76612e30782e"
    "74657374810f415f42404558414d504c452e636f6d300b06092a864886f70d01010a034100f57e2daef8aa64c0110ffd"
    "4952374351a97d5d11499d318d472e1e2ad068b3f9233d1c5b11a9f2d432262eb16ded3555c0d690f6f3230e01141718"
    "dab002fb03"
)


def test_a_signature_algorithm_that_does_not_decode_is_refused_by_name() -> None:
    error = refused_with(lambda: parse_csr(_UNREADABLE_ALGORITHM), Reason.CSR_MALFORMED)
    assert "signature algorithm" in error.message
