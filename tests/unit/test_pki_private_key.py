"""Private keys in files: what every tool writes is read, what is none is refused, and no byte of it is told."""

import base64
import math
from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certd.errors import CertdError, Reason
from certd.pki import der
from certd.pki.encoding import pem
from certd.pki.key_spec import KeySpec, generate_private_key, public_key_der
from certd.pki.private_key import LONGEST_PRIVATE_KEY, PrivateKey, parse_private_key, private_key_info
from certd.pki.private_numbers import RsaNumbers
from tests.unit.key_files import KeyFiles, decoded, make_key_files, openssl

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
_RSA_ALGORITHM = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), b"\x05\x00")
_ED25519_ALGORITHM = der.sequence(der.object_identifier("1.3.101.112"))
_TRIALS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return make_key_files(tmp_path_factory.mktemp("keys"))


def refused(data: bytes, reason: Reason = Reason.FIELD_INVALID, *, says: str = "") -> CertdError:
    """Checks that a file is refused in the right form, and that nothing of it is told."""
    with pytest.raises(CertdError) as caught:
        private_key_info(data, field="plain")
    error = caught.value
    assert error.reason is reason, error
    assert [violation.field for violation in error.violations] == ["plain"]
    assert says in error.message
    assert error.message.startswith("plain ")
    assert "; " in error.message, "a message has a remedy"
    assert error.__cause__ is None
    assert error.__context__ is None
    told = f"{error.message} {error.violations} {error.args} {error.metadata} {error!r}".encode()
    assert not [piece for piece in pieces(data) if piece in told]
    return error


def pieces(data: bytes) -> Iterator[bytes]:
    """Yields every stretch of key material in a file in the forms in which it might be told."""
    raw = data if data.startswith(b"\x30") else b"".join(line for line in data.split() if len(line) >= 48)
    try:
        binary = raw if data.startswith(b"\x30") else base64.b64decode(raw)
    except ValueError:
        binary = b""
    for at in range(0, len(raw) - 12, 12):
        yield raw[at : at + 12]
    for at in range(0, len(binary) - 8, 8):
        piece = binary[at : at + 8]
        forms = (piece.hex().encode(), repr(piece)[2:-1].encode(), str(int.from_bytes(piece)).encode())
        # Eight zeros are a 0, which stands everywhere.
        yield from (form for form in forms if len(form) >= 12)


def test_what_every_tool_writes_is_read(files: KeyFiles) -> None:
    for name, (data, spec, public_key) in files.good.items():
        info, found, found_spec = private_key_info(data)
        assert (found_spec, found) == (spec, public_key), name
        # The form in which certd keeps it is one that openssl takes for a sound key, and the same one.
        assert openssl("pkey", "-inform", "DER", "-pubout", "-outform", "DER", data=bytes(info)) == public_key, name
        assert openssl("pkey", "-inform", "DER", "-check", "-noout", data=bytes(info)), name
        assert public_key_der(parse_private_key(data).public_key()) == public_key, name


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ("encrypted PKCS#8", "encrypted PKCS#8 DER", "encrypted PKCS#1", "encrypted SEC1", "encrypted by certtool"),
            "is encrypted; decrypt it first: openssl pkey",
        ),
        (("encrypted OpenSSH",), "is encrypted; decrypt a copy of it first: ssh-keygen"),
        (("two keys", "the same key twice"), "has 2 private keys"),
        (("beginnings alone",), "has 500 PEM blocks"),
        (("a public key", "a public key of PKCS#1"), "has a public key"),
        (("a public key in DER", "a public key of PKCS#1 in DER", "a public key of OpenSSH"), "is a public key"),
        (("a certificate", "a request", "a key and its certificate"), "has a certificate or a request"),
        (("a certificate in DER", "a request in DER"), "is a certificate or a request"),
        (("an unknown label",), "the unknown label SECRET KEY"),
        (
            ("explicit parameters", "explicit parameters alone", "explicit parameters in PKCS#8"),
            "has explicit EC parameters, of a curve that anybody may have made up; name the curve instead: openssl ec",
        ),
        (("parameters alone",), "has EC parameters and no private key"),
        (("parameters twice", "parameters of RSA"), "has EC parameters that belong to no key"),
        (("parameters of another curve",), "names two different curves"),
        (("no curve",), "does not name its curve"),
        (("something after DER", "something after base64"), "has something after the end of its key"),
        (("something after PEM",), "has something after its last PEM block"),
        (("cut off", "PEM that is cut off within"), "has a PEM block without its beginning or its end"),
        (("without its beginning", "text"), "is neither PEM nor DER"),
        (("no base64",), "is not base64"),
        (("the wrong label", "cut off DER"), "does not decode"),
        (("another wrong label",), "does not begin as one"),
        (("PKCS#12",), "is PKCS#12; take the key out of it first, as PEM: openssl pkcs12"),
        (("a Java keystore",), "is a Java keystore; convert it first: keytool"),
        (("PuTTY",), "is a key file of PuTTY; convert it first: puttygen"),
        (("JSON",), "is JSON"),
        (("nothing", "white space"), "is empty"),
        (("another SEQUENCE",), "is no private key in DER"),
        (("too long",), f"is longer than {LONGEST_PRIVATE_KEY} bytes"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_what_is_no_private_key_is_refused(files: KeyFiles, names: tuple[str, ...], says: str) -> None:
    for name in names:
        refused(files.bad[name], says=says)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ("RSA 1024", "RSA 1024 of OpenSSH"),
            "is an RSA key of 1024 bits, which is not accepted; use a key that is RSA",
        ),
        (("RSA 2056",), "is an RSA key of 2056 bits"),
        (("RSA with exponent 3",), "has an RSA exponent"),
        (("RSA of three primes",), "is an RSA key of more than two primes"),
        (("RSA-PSS",), "is an RSA key that is bound to RSASSA-PSS"),
        (("DSA", "DSA PKCS#8", "DSA DER"), "is a DSA key"),
        (("secp256k1",), "is an EC key on the curve 1.3.132.0.10"),
        (("brainpool",), "is an EC key on the curve 1.3.36.3.3.2.8.1.1.7"),
        (("X25519",), "is an X25519 key"),
        (("X448",), "is an X448 key"),
        (("Ed448",), "is an Ed448 key"),
        (("a finite field",), "is a Diffie-Hellman key"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_keys_of_other_kinds_and_sizes_are_refused(files: KeyFiles, names: tuple[str, ...], says: str) -> None:
    for name in names:
        refused(files.bad[name], Reason.KEY_TOO_WEAK, says=says)


def test_what_the_library_of_python_writes_is_read() -> None:
    forms = (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH)
    for spec in KeySpec:
        key = generate_private_key(spec)
        for form in forms if spec is not KeySpec.ED25519 else (PrivateFormat.PKCS8, PrivateFormat.OpenSSH):
            encodings = (Encoding.PEM,) if form is PrivateFormat.OpenSSH else (Encoding.PEM, Encoding.DER)
            for encoding in encodings:
                found = private_key_info(key.private_bytes(encoding, form, NoEncryption()))
                assert found[1:] == (public_key_der(key.public_key()), spec), (spec, form, encoding)


def test_every_bad_file_is_refused(files: KeyFiles) -> None:
    for name, data in files.bad.items():
        with pytest.raises(CertdError):
            parse_private_key(data)
        assert name


# The numbers of an RSA key.


def numbers() -> dict[str, int]:
    found = RSA.private_numbers()
    return {
        "version": 0,
        "n": found.public_numbers.n,
        "e": found.public_numbers.e,
        "d": found.d,
        "p": found.p,
        "q": found.q,
        "dp": found.dmp1,
        "dq": found.dmq1,
        "qinv": found.iqmp,
    }


def pkcs1(**changes: int) -> bytes:
    return der.sequence(*map(der.integer, (numbers() | changes).values()))


def openssh_rsa(**changes: int) -> bytes:
    """Returns an OpenSSH file with these numbers in its private part."""
    n, e, d, qinv, p, q = ((numbers() | changes)[name] for name in ("n", "e", "d", "qinv", "p", "q"))
    fields = b"".join(_string(_mpint(number)) for number in (n, e, d, qinv, p, q))
    return openssh(_string(b"ssh-rsa") + fields, RSA)


def openssh(private: bytes, key: PrivateKey) -> bytes:
    """Returns an OpenSSH file with the public part of `key`, and a private part."""
    public = base64.b64decode(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    inner = b"\x01\x02\x03\x04" * 2 + private + _string(b"comment")
    inner += bytes(range(1, 1 + -len(inner) % 8))
    return openssh_pem(b"openssh-key-v1\0" + _string(b"none") * 2 + _string(b""), 1, _string(public) + _string(inner))


def openssh_pem(begin: bytes, count: int, rest: bytes) -> bytes:
    return pem("OPENSSH PRIVATE KEY", begin + count.to_bytes(4) + rest).encode()


def _string(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content


def _mpint(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1) if number else b""


def test_the_numbers_of_these_tests_are_those_of_a_key() -> None:
    assert private_key_info(pkcs1())[2] is KeySpec.RSA_2048
    assert private_key_info(openssh_rsa())[2] is KeySpec.RSA_2048
    # The factors may stand in either order.
    found = numbers()
    swapped = pkcs1(p=found["q"], q=found["p"], dp=found["dq"], dq=found["dp"], qinv=pow(found["p"], -1, found["q"]))
    assert private_key_info(swapped)[1] == public_key_der(RSA.public_key())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (lambda k: {"p": k["p"] + 2}, "p times q is not its modulus"),
        (lambda k: {"q": k["q"] - 2}, "p times q is not its modulus"),
        (lambda k: {"n": k["n"] + 2}, "p times q is not its modulus"),
        (lambda k: {"p": k["n"], "q": 1}, "p times q is not its modulus"),
        (lambda k: {"d": k["d"] + 2}, "its private exponent does not undo its public one"),
        (lambda _k: {"e": 65539}, "its private exponent does not undo its public one"),
        (lambda _k: {"e": 2}, "has an RSA exponent or modulus that no key has"),
        (lambda k: {"qinv": k["qinv"] + 1}, "its CRT numbers do not follow"),
        (lambda k: {"p": -k["p"], "q": -k["q"]}, "not between 0 and the modulus"),
        (lambda k: {"d": -k["d"]}, "not between 0 and the modulus"),
        (lambda k: {"d": k["d"] + (k["p"] - 1) * (k["q"] - 1) * 4}, "not between 0 and the modulus"),
        (lambda _k: {"d": 0}, "not between 0 and the modulus"),
    ],
)
def test_rsa_numbers_that_do_not_belong_together_are_refused(
    changes: Callable[[dict[str, int]], dict[str, int]], says: str
) -> None:
    changed = changes(numbers())
    refused(pkcs1(**changed), says=says)
    refused(der.sequence(der.integer(0), _RSA_ALGORITHM, der.octet_string(pkcs1(**changed))), says=says)
    if all(number > 0 for number in changed.values()):
        refused(openssh_rsa(**changed), says=says)


@pytest.mark.parametrize("name", ["dp", "dq"])
def test_crt_exponents_that_do_not_follow_are_refused(name: str) -> None:
    refused(pkcs1(**{name: numbers()[name] + 2}), says="its CRT numbers do not follow")


def test_a_factor_that_is_no_prime_is_found_by_a_signature() -> None:
    prime = numbers()["q"]
    while True:
        small = rsa.generate_private_key(65537, 1024).private_numbers()
        composite = small.p * small.q
        below = math.lcm(composite - 1, prime - 1)
        if (composite * prime).bit_length() == 2048 and math.gcd(65537, below) == 1:
            break
    d = pow(65537, -1, below)
    changed = pkcs1(
        n=composite * prime,
        d=d,
        p=composite,
        q=prime,
        dp=d % (composite - 1),
        dq=d % (prime - 1),
        qinv=pow(prime, -1, composite),
    )
    refused(changed, says="what it signs does not verify")


def test_a_modulus_that_anybody_factors_is_refused() -> None:
    close = numbers()["p"]
    refused(pkcs1(n=close * close, q=close), Reason.KEY_TOO_WEAK, says="prime factors so close to each other")


def test_a_longer_modulus_is_not_looked_at() -> None:
    refused(pkcs1(n=1 << 40_000), Reason.KEY_TOO_WEAK, says="is an RSA key of 40001 bits")


def test_the_numbers_of_a_key_do_not_show() -> None:
    found = numbers()
    shown = repr(RsaNumbers(n=found["n"], e=found["e"], d=found["d"], p=found["p"], q=found["q"], qinv=found["qinv"]))
    assert shown == "RsaNumbers(…)"


# PKCS#8 and SEC1, element by element.


def ec_numbers() -> tuple[bytes, bytes]:
    point = EC.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return EC.private_numbers().private_value.to_bytes(32), point


def sec1(value: bytes, *more: bytes, version: int = 1) -> bytes:
    return der.sequence(der.integer(version), der.octet_string(value), *more)


_P256 = der.object_identifier("1.2.840.10045.3.1.7")
_CURVE = der.encode(der.context(0), _P256)


def test_an_ec_key_is_held_against_the_public_key_beside_it() -> None:
    value, point = ec_numbers()
    public = der.encode(der.context(1), der.bit_string(point))
    assert private_key_info(sec1(value, _CURVE, public))[2] is KeySpec.EC_P256
    # Old versions of OpenSSL left out leading zeros, and others write more of them.
    assert private_key_info(sec1(b"\x00" + value, _CURVE, public))[2] is KeySpec.EC_P256
    other = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value.to_bytes(32)
    for wrong in (sec1(other, _CURVE, public), pkcs8_ec(other, public=der.bit_string(point))):
        refused(wrong, says="the public key in it is not that of its private number")
    cut = der.encode(der.context(1), der.encode(der.BIT_STRING, b"\x01" + point[:-1] + b"\x00"))
    refused(sec1(value, _CURVE, cut), says="a public key in it that does not decode")
    mine = ec.derive_private_key(int.from_bytes(other), ec.SECP256R1()).public_key()
    others = der.bit_string(mine.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    refused(pkcs8_ec(value, public, public=others), says="has two different public keys")


def pkcs8_ec(value: bytes, *inner: bytes, public: bytes | None = None, curve: bytes = _P256, version: int = 1) -> bytes:
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.2.1"), curve)
    more = () if public is None else (b"\x81" + public[1:],)
    return der.sequence(der.integer(version), algorithm, der.octet_string(sec1(value, *inner)), *more)


def test_pkcs8_of_either_version_is_read() -> None:
    value, point = ec_numbers()
    attributes = der.encode(der.context(0), b"")
    assert private_key_info(pkcs8_ec(value, version=0))[2] is KeySpec.EC_P256
    assert private_key_info(pkcs8_ec(value, _CURVE, public=der.bit_string(point)))[2] is KeySpec.EC_P256
    raw, public = ED25519.private_bytes_raw(), ED25519.public_key().public_bytes_raw()
    inner = der.octet_string(der.octet_string(raw))
    with_both = der.sequence(der.integer(1), _ED25519_ALGORITHM, inner, attributes, b"\x81\x21\x00" + public)
    assert private_key_info(with_both)[1] == public_key_der(ED25519.public_key())
    wrong = der.sequence(der.integer(1), _ED25519_ALGORITHM, inner, b"\x81\x21\x00" + bytes(32))
    refused(wrong, says="the public key in it is not that of its private one")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pkcs8_ec(bytes(32)), "not between 0 and the order"),
        (pkcs8_ec(b"\xff" * 32), "not between 0 and the order"),
        (pkcs8_ec(b""), "not between 0 and the order"),
        (pkcs8_ec(b"\x01", der.encode(der.context(0), der.object_identifier("1.3.132.0.34"))), "two different curves"),
        (pkcs8_ec(b"\x01", curve=b""), "does not name its curve"),
        (pkcs8_ec(b"\x01", curve=b"\x05\x00"), "does not name its curve"),
        (pkcs8_ec(b"\x01", version=2), "PKCS#8 of an unknown version"),
        (sec1(b"\x01", version=2), "EC key of an unknown version"),
        (sec1(b"\x01", _CURVE, der.octet_string(b"")), "something after the end of its key"),
        (
            der.sequence(der.integer(0), _RSA_ALGORITHM, der.octet_string(pkcs1()), b"\x05\x00"),
            "something after the end",
        ),
        (
            der.sequence(der.integer(0), _RSA_ALGORITHM, der.octet_string(pkcs1() + b"\x05\x00")),
            "something after the end",
        ),
        (der.sequence(der.integer(0), _ED25519_ALGORITHM, der.octet_string(der.octet_string(bytes(31)))), "32 octets"),
        (der.sequence(der.integer(0), _ED25519_ALGORITHM, der.octet_string(bytes(34))), "does not decode"),
        (pkcs1(version=7), "belongs to no RSA key"),
        (pkcs1()[:1] + b"\x84" + len(pkcs1()[4:]).to_bytes(4) + pkcs1()[4:], "does not decode"),
    ],
    ids=range(15),
)
def test_an_element_that_is_wrong_is_refused(data: bytes, says: str) -> None:
    refused(data, says=says)


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
def test_a_block_holds_what_its_label_says(label: str) -> None:
    for key in (RSA, EC, ED25519):
        encoded = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        block = pem(label, encoded).encode()
        if label == "PRIVATE KEY":
            assert private_key_info(block)[1] == public_key_der(key.public_key())
        else:
            refused(block)


# OpenSSH's own form.


def test_openssh_parts_that_do_not_belong_together_are_refused() -> None:
    value, point = ec_numbers()
    name = b"ecdsa-sha2-nistp256"
    good = _string(name) + _string(b"nistp256") + _string(point) + _string(_mpint(int.from_bytes(value)))
    assert private_key_info(openssh(good, EC))[1] == public_key_der(EC.public_key())
    refused(openssh(good, ec.generate_private_key(ec.SECP256R1())), says="the public key in it is not that of")
    other_point = good.replace(point, point[:-1] + bytes((point[-1] ^ 1,)))
    refused(openssh(other_point, EC), says="the public key in it is not that of its private number")
    refused(openssh(good.replace(b"\x08nistp256", b"\x08nistp384"), EC), Reason.KEY_TOO_WEAK, says="on another curve")
    raw, public = ED25519.private_bytes_raw(), ED25519.public_key().public_bytes_raw()
    edwards = _string(b"ssh-ed25519") + _string(public) + _string(raw + public)
    assert private_key_info(openssh(edwards, ED25519))[1] == public_key_der(ED25519.public_key())
    refused(openssh(_string(b"ssh-ed25519") + _string(public) + _string(raw + raw), ED25519), says="cut off or damaged")
    others = generate_private_key(KeySpec.ED25519).public_key()
    assert isinstance(others, ed25519.Ed25519PublicKey)
    wrong = others.public_bytes_raw()
    mixed = _string(b"ssh-ed25519") + _string(wrong) + _string(raw + wrong)
    refused(openssh(mixed, ED25519), says="the public key in it is not that of its private one")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (b"ssh-dss", "is a DSA key"),
        (b"sk-ssh-ed25519@openssh.com", "a key in a security device"),
        (b"ssh-future", "an OpenSSH key of another kind"),
    ],
)
def test_openssh_keys_of_other_kinds_are_refused(kind: bytes, says: str) -> None:
    refused(openssh(_string(kind) + _string(b"\x01" * 20), ED25519), Reason.KEY_TOO_WEAK, says=says)


def test_an_openssh_block_holds_one_key_and_nothing_else() -> None:
    raw, public = ED25519.private_bytes_raw(), ED25519.public_key().public_bytes_raw()
    edwards = _string(b"ssh-ed25519") + _string(public) + _string(raw + public)
    good = decoded(openssh(edwards, ED25519))
    begin = good[: good.index(b"\x00\x00\x00\x01\x00\x00\x00\x33")]
    rest = good[len(begin) + 4 :]
    assert private_key_info(openssh_pem(begin, 1, rest))[2] is KeySpec.ED25519
    refused(openssh_pem(begin, 2, rest), says="has 2 private keys in one OpenSSH block")
    refused(openssh_pem(begin, 1, rest + b"\x00"), says="has something after the end of its OpenSSH key")
    refused(openssh_pem(begin, 1, rest[:-1]), says="cut off or damaged")
    refused(openssh_rsa(d=0), says="cut off or damaged")
    refused(openssh(edwards + _string(b"one more"), ED25519), says="has something after the end of its OpenSSH key")
    checked = rest.replace(b"\x01\x02\x03\x04" * 2, b"\x01\x02\x03\x04" + b"\x01\x02\x03\x05")
    refused(openssh_pem(begin, 1, checked), says="cut off or damaged")


# Whatever is changed, the answer is a refusal in words of ours or a key.


@st.composite
def changed_keys(draw: st.DrawFn) -> bytes:
    keys: tuple[PrivateKey, ...] = (RSA, EC, ED25519)
    key = draw(st.sampled_from(keys))
    form = draw(st.sampled_from((PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL, PrivateFormat.OpenSSH)))
    encoding = draw(st.sampled_from((Encoding.DER, Encoding.PEM)))
    if form is PrivateFormat.OpenSSH:
        encoding = Encoding.PEM
    elif key is ED25519:
        form = PrivateFormat.PKCS8
    data = bytearray(key.private_bytes(encoding, form, NoEncryption()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(("flip", "drop", "insert", "cut")))
        if what == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[at + 1 :]
        if not data:
            break
    return bytes(data)


@_TRIALS
@given(changed_keys())
def test_a_changed_file_is_refused_in_our_words_or_a_sound_key(data: bytes) -> None:
    refusal = None
    try:
        info, public_key, _ = private_key_info(data)
    except CertdError as error:
        refusal = error
    if refusal is None:
        assert private_key_info(bytes(info))[1] == public_key
        return
    assert refusal.reason in {Reason.FIELD_INVALID, Reason.KEY_TOO_WEAK}
    assert refusal.__context__ is None
    assert not [piece for piece in pieces(data) if piece in str(refusal).encode()]


@_TRIALS
@given(st.binary(max_size=400).map(lambda content: b"\x30" + content) | st.binary(max_size=400))
def test_any_bytes_are_refused_in_our_words(data: bytes) -> None:
    with pytest.raises(CertdError) as caught:
        parse_private_key(data)
    assert caught.value.__context__ is None
