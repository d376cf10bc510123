"""Private keys in files, as the tools of others write them, and files that only look like them."""

import base64
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from certd.pki import der
from certd.pki.encoding import pem
from certd.pki.key_spec import KeySpec

# Homebrew has it under another name, for macOS has a certtool of its own.
CERTTOOL = shutil.which("gnutls-certtool") or shutil.which("certtool") or "certtool"
PASSWORD = "sesame street"
_CURVES = {"prime256v1": KeySpec.EC_P256, "secp384r1": KeySpec.EC_P384, "secp521r1": KeySpec.EC_P521}


@dataclass(frozen=True)
class KeyFiles:
    """Good keys by how they were made, with their specs and the DER of their public keys; and bad ones."""

    good: dict[str, tuple[bytes, KeySpec, bytes]]
    bad: dict[str, bytes]


def run(*command: str, data: bytes = b"", directory: Path | None = None) -> bytes:
    finished = subprocess.run(command, input=data, capture_output=True, check=False, timeout=120, cwd=directory)
    assert finished.returncode == 0, (command, finished.stderr.decode())
    return finished.stdout


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return run("openssl", *arguments, data=data)


def decoded(block: bytes) -> bytes:
    """Returns what the last PEM block of a file holds."""
    return base64.b64decode(block[: block.rindex(b"-----END")].rpartition(b"-----\n")[2])


def sec1_without_curve(sec1: bytes) -> bytes:
    """Returns an ECPrivateKey whose curve stands elsewhere."""
    reader = der.Reader(sec1).enter(der.SEQUENCE)
    return der.sequence(reader.read_whole(der.INTEGER), reader.read_whole(der.OCTET_STRING))


def make_key_files(directory: Path) -> KeyFiles:
    """Has every tool make keys under `directory`; takes a few seconds."""
    made = _openssl_rsa() | _openssl_ec() | _openssl_edwards() | _gnutls() | _java(directory) | _openssh(directory)
    good = {
        name: (data, spec, public_key or openssl("pkey", "-pubout", "-outform", "DER", data=data))
        for name, (data, spec, public_key) in made.items()
    }
    return KeyFiles(good=good, bad=_bad(directory, good))


_Made = dict[str, tuple[bytes, KeySpec, bytes]]
"""Without the public key where openssl reads the private one."""


def _openssl_rsa() -> _Made:
    made: _Made = {}
    for bits in (2048, 3072, 4096):
        spec = KeySpec(f"RSA_{bits}")
        pkcs8 = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", f"rsa_keygen_bits:{bits}")
        made[f"openssl RSA {bits} PKCS#8"] = pkcs8, spec, b""
    pkcs8, spec, _ = made["openssl RSA 2048 PKCS#8"]
    public_key = openssl("pkey", "-pubout", "-outform", "DER", data=pkcs8)
    pkcs1 = openssl("rsa", "-traditional", data=pkcs8)
    return made | {
        "openssl RSA PKCS#1": (pkcs1, spec, public_key),
        "openssl RSA PKCS#8 DER": (openssl("pkey", "-outform", "DER", data=pkcs8), spec, public_key),
        "openssl RSA PKCS#1 DER": (openssl("rsa", "-traditional", "-outform", "DER", data=pkcs8), spec, public_key),
        "openssl RSA with text": (openssl("rsa", "-text", data=pkcs8), spec, public_key),
        "Windows line ends": (pkcs8.replace(b"\n", b"\r\n"), spec, public_key),
        "a byte order mark": (b"\xef\xbb\xbf" + pkcs8, spec, public_key),
        "no line end": (pkcs8.strip(), spec, public_key),
    }


def _openssl_ec() -> _Made:
    made: _Made = {}
    for curve, spec in _CURVES.items():
        generated = openssl("ecparam", "-name", curve, "-genkey")
        parameters, sec1 = generated.split(b"-----BEGIN EC PRIVATE KEY-----", 1)
        sec1 = b"-----BEGIN EC PRIVATE KEY-----" + sec1
        public_key = openssl("pkey", "-pubout", "-outform", "DER", data=sec1)
        bare = pem("EC PRIVATE KEY", sec1_without_curve(decoded(sec1))).encode()
        made |= {
            f"openssl {curve} SEC1 behind its parameters": (generated, spec, public_key),
            f"openssl {curve} SEC1 before its parameters": (sec1 + parameters, spec, public_key),
            f"openssl {curve} SEC1": (sec1, spec, public_key),
            f"openssl {curve} SEC1 DER": (decoded(sec1), spec, public_key),
            f"openssl {curve} PKCS#8": (openssl("pkey", data=sec1), spec, public_key),
            f"openssl {curve} PKCS#8 DER": (openssl("pkey", "-outform", "DER", data=sec1), spec, public_key),
            f"openssl {curve} compressed": (openssl("ec", "-conv_form", "compressed", data=sec1), spec, public_key),
            f"openssl {curve} without public key": (openssl("ec", "-no_public", data=sec1), spec, public_key),
            f"{curve} whose parameters alone name its curve": (parameters + bare, spec, public_key),
        }
    return made


def _openssl_edwards() -> _Made:
    ed25519 = openssl("genpkey", "-algorithm", "ED25519")
    return {
        "openssl Ed25519": (ed25519, KeySpec.ED25519, b""),
        "openssl Ed25519 DER": (
            openssl("pkey", "-outform", "DER", data=ed25519),
            KeySpec.ED25519,
            openssl("pkey", "-pubout", "-outform", "DER", data=ed25519),
        ),
    }


def _gnutls() -> _Made:
    made: _Made = {}
    for name, spec, arguments in (
        ("RSA", KeySpec.RSA_3072, ("--key-type=rsa", "--bits=3072")),
        ("ECDSA", KeySpec.EC_P384, ("--key-type=ecdsa", "--curve=secp384r1")),
        ("Ed25519", KeySpec.ED25519, ("--key-type=ed25519",)),
    ):
        # What it writes begins with the numbers of the key, for people.
        made[f"certtool {name}"] = run(CERTTOOL, "--generate-privkey", *arguments), spec, b""
    for name, (pem_file, spec, _) in list(made.items()):
        converted = run(CERTTOOL, "--key-info", "--outder", "--no-text", data=pem_file)
        made[f"{name} DER"] = converted, spec, openssl("pkey", "-pubout", "-outform", "DER", data=pem_file)
    return made


def _java(directory: Path) -> _Made:
    """What Java's keytool made, taken out of the keystore by openssl, which writes the attributes before the key."""
    made: _Made = {}
    for name, spec, arguments in (
        ("RSA", KeySpec.RSA_2048, ("-keyalg", "RSA", "-keysize", "2048")),
        ("EC", KeySpec.EC_P521, ("-keyalg", "EC", "-groupname", "secp521r1")),
        ("Ed25519", KeySpec.ED25519, ("-keyalg", "Ed25519")),
    ):
        store = keystore(directory / f"{name}.p12", "PKCS12", *arguments)
        taken = openssl("pkcs12", "-in", str(store), "-passin", f"pass:{PASSWORD}", "-nodes", "-nocerts")
        assert taken.startswith(b"Bag Attributes")
        made[f"keytool {name}"] = taken, spec, b""
    return made


def keystore(file: Path, kind: str, *arguments: str) -> Path:
    """Has keytool make a keystore with one key."""
    which = ("-genkeypair", "-keystore", str(file), "-storetype", kind, "-alias", "key", "-dname", "CN=key")
    # The virtual machine is told to begin quickly; it makes one key and ends.
    run("keytool", "-J-XX:TieredStopAtLevel=1", *which, *arguments, "-storepass", PASSWORD, "-keypass", PASSWORD)
    return file


def _openssh(directory: Path) -> _Made:
    made: _Made = {}
    for name, spec, arguments in (
        ("RSA", KeySpec.RSA_3072, ("-t", "rsa", "-b", "3072")),
        ("P-256", KeySpec.EC_P256, ("-t", "ecdsa", "-b", "256")),
        ("P-384", KeySpec.EC_P384, ("-t", "ecdsa", "-b", "384")),
        ("P-521", KeySpec.EC_P521, ("-t", "ecdsa", "-b", "521")),
        ("Ed25519", KeySpec.ED25519, ("-t", "ed25519")),
    ):
        file = ssh_key(directory / name, *arguments)
        line = file.with_name(f"{name}.pub").read_bytes()
        public_key = load_ssh_public_key(line).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        made[f"ssh-keygen {name}"] = file.read_bytes(), spec, public_key
        if name == "Ed25519":
            continue
        for form in ("PEM", "PKCS8"):
            run("ssh-keygen", "-q", "-p", "-P", "", "-N", "", "-m", form, "-f", str(file))
            made[f"ssh-keygen {name} as {form}"] = file.read_bytes(), spec, public_key
    return made


def ssh_key(file: Path, *arguments: str, passphrase: str = "") -> Path:
    """Has ssh-keygen make a key, and its public half beside it."""
    run("ssh-keygen", "-q", *arguments, "-N", passphrase, "-C", "somebody@example", "-f", str(file))
    return file


def _bad(directory: Path, good: _Made) -> dict[str, bytes]:
    """Returns what is no private key that can be imported."""
    rsa, ec = good["openssl RSA 2048 PKCS#8"][0], good["openssl prime256v1 PKCS#8"][0]
    rsa_der, sec1 = good["openssl RSA PKCS#8 DER"][0], good["openssl prime256v1 SEC1"][0]
    store = str(keystore(directory / "store.p12", "PKCS12", "-keyalg", "EC", "-groupname", "secp256r1"))
    certificate = run("keytool", "-exportcert", "-keystore", store, "-alias", "key", "-storepass", PASSWORD)
    request = openssl("req", "-new", "-key", "/dev/stdin", "-subj", "/CN=key", data=ec)
    encrypt = ("-aes256", "-passout", f"pass:{PASSWORD}")
    dsa = openssl("dsaparam", "-genkey", "-noout", "1024")
    ssh_rsa = ssh_key(directory / "ssh", "-t", "rsa", "-b", "2048")
    return {
        "encrypted PKCS#8": openssl("pkey", *encrypt, data=rsa),
        "encrypted PKCS#8 DER": openssl("pkcs8", "-topk8", "-outform", "DER", "-passout", f"pass:{PASSWORD}", data=rsa),
        "encrypted PKCS#1": openssl("rsa", "-traditional", *encrypt, data=rsa),
        "encrypted SEC1": openssl("ec", *encrypt, data=ec),
        "encrypted OpenSSH": ssh_key(directory / "locked", "-t", "ed25519", passphrase=PASSWORD).read_bytes(),
        "encrypted by certtool": run(
            CERTTOOL, "--generate-privkey", "--pkcs8", "--password", PASSWORD, "--key-type=ecdsa", "--curve=secp256r1"
        ),
        "two keys": rsa + ec,
        "the same key twice": ec + ec,
        "beginnings alone": b"-----BEGIN EC PRIVATE KEY-----" * 500,
        "a public key": openssl("pkey", "-pubout", data=rsa),
        "a public key in DER": openssl("pkey", "-pubout", "-outform", "DER", data=rsa),
        "a public key of PKCS#1": openssl("rsa", "-RSAPublicKey_out", data=rsa),
        "a public key of PKCS#1 in DER": openssl("rsa", "-RSAPublicKey_out", "-outform", "DER", data=rsa),
        "a public key of OpenSSH": ssh_rsa.with_name("ssh.pub").read_bytes(),
        "a certificate": openssl("x509", "-inform", "DER", data=certificate),
        "a certificate in DER": certificate,
        "a request": request,
        "a request in DER": openssl("req", "-outform", "DER", data=request),
        "a key and its certificate": rsa + openssl("x509", "-inform", "DER", data=certificate),
        "an unknown label": ec.replace(b"PRIVATE KEY", b"SECRET KEY"),
        "explicit parameters": openssl("ecparam", "-name", "prime256v1", "-genkey", "-param_enc", "explicit"),
        "explicit parameters alone": openssl(
            "ec", "-param_enc", "explicit", data=openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
        ),
        "explicit parameters in PKCS#8": openssl(
            *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit")
        ),
        "parameters alone": openssl("ecparam", "-name", "prime256v1"),
        "parameters twice": openssl("ecparam", "-name", "prime256v1") * 2 + sec1,
        "parameters of RSA": openssl("ecparam", "-name", "prime256v1") + rsa,
        "parameters of another curve": openssl("ecparam", "-name", "secp384r1") + sec1,
        "no curve": pem("EC PRIVATE KEY", sec1_without_curve(decoded(sec1))).encode(),
        "RSA 1024": openssl("genrsa", "1024"),
        "RSA 1024 of OpenSSH": ssh_key(directory / "short", "-t", "rsa", "-b", "1024").read_bytes(),
        "RSA 2056": openssl("genrsa", "2056"),
        "RSA with exponent 3": openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_pubexp:3"),
        "RSA of three primes": openssl("genrsa", "-traditional", "-primes", "3", "2048"),
        "RSA-PSS": openssl("genpkey", "-algorithm", "RSA-PSS"),
        "DSA": openssl("dsa", data=dsa),
        "DSA PKCS#8": openssl("pkey", data=dsa),
        "DSA DER": openssl("dsa", "-outform", "DER", data=dsa),
        "secp256k1": openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout"),
        "brainpool": openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"),
        "X25519": openssl("genpkey", "-algorithm", "X25519"),
        "X448": openssl("genpkey", "-algorithm", "X448"),
        "Ed448": openssl("genpkey", "-algorithm", "ED448"),
        "a finite field": openssl("genpkey", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"),
        "something after DER": rsa_der + b"\x00",
        "something after PEM": ec + b"junk\n",
        "something after base64": pem("PRIVATE KEY", decoded(ec) + b"\x00").encode(),
        "cut off": ec[:-30],
        "without its beginning": ec[30:],
        "PEM that is cut off within": ec.replace(b"\n", b"\n-----END ", 1),
        "no base64": ec.replace(b"M", b"*", 1),
        "the wrong label": ec.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY"),
        "another wrong label": rsa.replace(b"PRIVATE KEY", b"OPENSSH PRIVATE KEY"),
        "cut off DER": rsa_der[:-1],
        "PKCS#12": Path(store).read_bytes(),
        "a Java keystore": keystore(
            directory / "store.jks", "JKS", "-keyalg", "EC", "-groupname", "secp256r1"
        ).read_bytes(),
        "PuTTY": b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n",
        "JSON": b'{"kty": "EC", "crv": "P-256", "d": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlYw"}',
        "nothing": b"",
        "white space": b" \n\t\n",
        "text": b"the key is under the mat",
        "another SEQUENCE": der.sequence(der.octet_string(b"secret")),
        "too long": ec + b"\n" * (16 << 10),
    }
