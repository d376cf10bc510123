"""certctl managed export: the files of every format, who may read them, and what it asks of the server for them."""

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from certd.pki import pkcs8
from certd.pki.export_form import ExportForm, protect
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ExportManagedCertificateResponse, PassphraseProtection
from tests.api.test_client_export import UID, exporting, private_key_info
from tests.certctl import Certctl, encoded
from tests.fakes_server import FakeServer, Issued, make_leaf, running

WEB = "tenants/default/managedCertificates/web"
PASSPHRASE = b"correct horse"


@pytest.fixture(scope="module")
def web(root: Issued) -> Issued:
    return make_leaf(root, "www.example.internal")


@pytest.fixture
def fake(root: Issued, web: Issued) -> Iterator[FakeServer]:
    """A server that exports `web`, to a recipient's key or under a passphrase."""

    def answer(request: Any, context: grpc.ServicerContext) -> ExportManagedCertificateResponse:
        if request.HasField("passphrase"):
            response = under_passphrase(root, web, request.passphrase)
        else:
            response = exporting(web)(request, context)
        response.certificate.CopyFrom(encoded(web))
        response.chain.append(encoded(root))
        return response

    with running(FakeServer(), make_leaf(root, "localhost"), root) as server:
        server.answer(
            "GetManagedCertificate",
            ManagedCertificate(name=WEB, uid=UID, current_version=3, certificate=encoded(web), chain=[encoded(root)]),
        )
        server.answer("ExportManagedCertificate", answer)
        yield server


def under_passphrase(root: Issued, web: Issued, protection: PassphraseProtection) -> ExportManagedCertificateResponse:
    form = ExportForm(PassphraseProtection.Format.Name(protection.format))
    chain = [encoded(web).der, encoded(root).der]
    encrypted = protect(
        form, private_key_info(web.key), protection.passphrase, certificates=chain, friendly_name="of the server"
    )
    response = ExportManagedCertificateResponse(version=3)
    if form.is_pkcs12:
        response.pkcs12 = encrypted
    else:
        response.encrypted_private_key_pem = pkcs8.to_pem(encrypted).decode()
    return response


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    return written(tmp_path, PASSPHRASE + b"\n")


def written(folder: Path, passphrase: bytes) -> Path:
    file = folder / "pass.txt"
    file.touch(mode=0o600)
    file.write_bytes(passphrase)
    return file


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Returns content and mode of each file below a folder."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    return {
        each.relative_to(folder).as_posix(): (each.read_bytes(), stat.S_IMODE(each.stat().st_mode)) for each in files
    }


WAYS = pytest.mark.parametrize("way", [(), ("--server-side",)], ids=["here", "server-side"])
Way = tuple[str, ...]
Words = tuple[str | Path, ...]


@WAYS
@pytest.mark.parametrize("format_", ["pkcs8", "acm-compatible"])
def test_pem_files(
    fake: FakeServer,
    certctl: Certctl,
    root: Issued,
    web: Issued,
    tmp_path: Path,
    passphrase_file: Path,
    format_: str,
    way: Way,
) -> None:
    out = tmp_path / "out"
    arguments: Words = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", format_, *way)
    ended = certctl(*arguments, "--reason", "a new gateway", "--version", "3", "--out-dir", out)
    assert ended.code == 0, ended.err
    found = contents(out)
    assert found["cert.pem"] == (web.certificate_pem, 0o644)
    assert found["chain.pem"] == (root.certificate_pem, 0o644)
    key, mode = found.pop("key.pem")
    assert mode == 0o600
    assert load_pem_private_key(key, PASSPHRASE).public_key() == web.key.public_key()
    assert set(found) == {"cert.pem", "chain.pem"}
    (request,) = fake.requests("ExportManagedCertificate")
    assert (request.name, request.version, request.reason) == (WEB, 3, "a new gateway")
    assert request.HasField("passphrase") == bool(way)
    pem = certctl(*arguments, "-o", "pem")
    assert pem.out.count("BEGIN CERTIFICATE") == 2
    assert pem.out.count("BEGIN ENCRYPTED PRIVATE KEY") == 1


@WAYS
@pytest.mark.parametrize("format_", ["pkcs12-modern", "pkcs12-legacy"])
def test_one_file_of_pkcs12(
    fake: FakeServer,
    certctl: Certctl,
    root: Issued,
    web: Issued,
    tmp_path: Path,
    passphrase_file: Path,
    format_: str,
    way: Way,
) -> None:
    arguments: Words = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", format_, *way)
    ended = certctl(*arguments, "--out-dir", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert str(tmp_path / "out" / "bundle.p12") in ended.out
    ((name, (data, mode)),) = contents(tmp_path / "out").items()
    assert (name, mode) == ("bundle.p12", 0o600)
    opened = load_pkcs12(data, PASSPHRASE)
    assert opened.key is not None
    assert opened.cert is not None
    assert opened.key.public_key() == web.key.public_key()
    assert opened.cert.certificate == web.certificate
    assert opened.cert.friendly_name == (b"of the server" if way else b"web")
    assert [each.certificate for each in opened.additional_certs] == [root.certificate]
    (request,) = fake.requests("ExportManagedCertificate")
    assert request.HasField("passphrase") == bool(way)
    printed = json.loads(certctl(*arguments, "-o", "json").out)
    assert printed["pkcs12"]
    assert "encryptedPrivateKeyPem" not in printed


@WAYS
def test_der_files(
    fake: FakeServer, certctl: Certctl, root: Issued, web: Issued, tmp_path: Path, passphrase_file: Path, way: Way
) -> None:
    out = tmp_path / "out"
    (out / "chain").mkdir(parents=True)
    # Of a chain that was longer, and of somebody else.
    (out / "chain" / "2.der").write_bytes(b"former")
    (out / "chain" / "notes.der").write_bytes(b"notes")
    arguments: Words = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", "der", *way)
    ended = certctl(*arguments, "--out-dir", out)
    assert ended.code == 0, ended.err
    found = contents(out)
    key, mode = found["key.der"]
    assert mode == 0o600
    assert load_der_private_key(key, PASSPHRASE).public_key() == web.key.public_key()
    assert found["cert.der"] == (encoded(web).der, 0o644)
    assert found["chain/1.der"] == (encoded(root).der, 0o644)
    assert set(found) == {"cert.der", "chain/1.der", "chain/notes.der", "key.der"}
    assert fake.requests("ExportManagedCertificate")


def test_pkcs7_holds_no_key_and_asks_for_none(
    fake: FakeServer, certctl: Certctl, root: Issued, web: Issued, tmp_path: Path
) -> None:
    ended = certctl("managed", "export", "web", "--format", "pkcs7", "--out-dir", tmp_path / "out")
    assert ended.code == 0, ended.err
    # What takes a second says so.
    assert ended.err in {"", "certctl: exporting …\n"}
    ((name, (data, mode)),) = contents(tmp_path / "out").items()
    assert (name, mode) == ("chain.p7b", 0o644)
    held = {each.public_bytes(Encoding.DER) for each in load_der_pkcs7_certificates(data)}
    assert held == {encoded(web).der, encoded(root).der}
    # Nothing was exported, so nothing is recorded.
    assert [call for call in fake.calls if "Export" in str(call)] == []


def test_a_truststore_holds_the_chain_alone(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path, passphrase_file: Path
) -> None:
    arguments: Words = ("managed", "export", "web", "--format", "truststore", "--passphrase-file", passphrase_file)
    ended = certctl(*arguments, "--out-dir", tmp_path / "out")
    assert ended.code == 0, ended.err
    # What takes a second says so.
    assert ended.err in {"", "certctl: exporting …\n"}
    ((name, (data, _)),) = contents(tmp_path / "out").items()
    assert name == "truststore.p12"
    opened = load_pkcs12(data, PASSPHRASE)
    assert opened.key is None
    assert [(each.certificate, each.friendly_name) for each in opened.additional_certs] == [
        (root.certificate, b"Test Root")
    ]
    assert not fake.requests("ExportManagedCertificate")


def test_what_is_its_own_root_is_in_its_truststore(
    fake: FakeServer, certctl: Certctl, root: Issued, tmp_path: Path, passphrase_file: Path
) -> None:
    fake.answer("GetManagedCertificate", ManagedCertificate(name=WEB, current_version=1, certificate=encoded(root)))
    arguments: Words = ("managed", "export", "web", "--format", "truststore", "--passphrase-file", passphrase_file)
    assert certctl(*arguments, "--out-dir", tmp_path / "out").code == 0
    opened = load_pkcs12((tmp_path / "out" / "truststore.p12").read_bytes(), PASSPHRASE)
    assert [each.certificate for each in opened.additional_certs] == [root.certificate]


@pytest.mark.parametrize("format_", ["pkcs7", "truststore"])
def test_what_has_no_certificate_yet_says_so(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, passphrase_file: Path, format_: str
) -> None:
    fake.answer("GetManagedCertificate", ManagedCertificate(name=WEB, state=ManagedCertificate.PENDING))
    more = () if format_ == "pkcs7" else ("--passphrase-file", passphrase_file)
    ended = certctl("managed", "export", "web", "--format", format_, *more, "--out-dir", tmp_path / "out")
    assert ended.code == 1
    assert ended.err.startswith("certctl: STATE_FORBIDS: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format_", "weak"),
    [("pkcs8", False), ("pkcs12-modern", False), ("der", False), ("pkcs12-legacy", True), ("acm-compatible", True)],
)
def test_the_weak_formats_come_with_a_warning(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, passphrase_file: Path, format_: str, *, weak: bool
) -> None:
    arguments: Words = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", format_)
    ended = certctl(*arguments, "--out-dir", tmp_path / "out")
    assert ended.code == 0
    assert (f"warning: {format_} is weak" in ended.err) == weak
    assert fake.requests("ExportManagedCertificate")


def test_a_passphrase_that_java_does_not_take_comes_with_a_warning(
    fake: FakeServer, certctl: Certctl, tmp_path: Path
) -> None:
    file = written(tmp_path, "pässwörd".encode())
    arguments: Words = (
        "managed",
        "export",
        "web",
        "--passphrase-file",
        file,
        "--out-dir",
        tmp_path / "out",
        "--format",
    )
    for format_ in ("pkcs12-modern", "truststore"):
        ended = certctl(*arguments, format_)
        assert ended.code == 0
        assert "Java" in ended.err
        assert "pässwörd" not in ended.err
    assert certctl(*arguments, "pkcs8").err == ""
    assert fake.calls


@pytest.mark.parametrize(
    ("format_", "passphrase"),
    [
        ("pkcs8", b"seven77"),
        ("pkcs12-modern", b"seven77"),
        ("pkcs12-modern", b"\xff" * 9),
        ("pkcs12-legacy", b"x" * 1025),
        ("truststore", b"seven77"),
        ("der", b"seven77"),
        ("acm-compatible", b"abc"),
        ("acm-compatible", b"x" * 129),
        ("acm-compatible", b"seven#77"),
    ],
)
def test_a_passphrase_against_the_rules_is_refused_before_anything_is_asked(
    fake: FakeServer, certctl: Certctl, tmp_path: Path, format_: str, passphrase: bytes
) -> None:
    file = written(tmp_path, passphrase)
    ended = certctl(
        *("managed", "export", "web", "--passphrase-file", file, "--format", format_, "--out-dir", tmp_path / "out")
    )
    assert ended.code == 1
    assert "FIELD_INVALID: passphrase-file: must be" in ended.err
    assert not any(word in ended.err for word in ("seven", "abc", "xxx"))
    assert not fake.calls


def test_a_passphrase_of_acm_may_be_short(fake: FakeServer, certctl: Certctl, web: Issued, tmp_path: Path) -> None:
    file = written(tmp_path, b"four\n")
    arguments: Words = ("managed", "export", "web", "--passphrase-file", file, "--format", "acm-compatible")
    assert certctl(*arguments, "--out-dir", tmp_path / "out").code == 0
    key = load_pem_private_key((tmp_path / "out" / "key.pem").read_bytes(), b"four")
    assert key.public_key() == web.key.public_key()
    parsed = subprocess.run(
        ["openssl", "asn1parse", "-in", tmp_path / "out" / "key.pem"], capture_output=True, text=True, check=True
    ).stdout
    assert ":0800" in parsed
    assert "hmacWith" not in parsed
    assert fake.calls


PASS = ("--passphrase-file", "pass.txt")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out-dir", "out"), "--passphrase-file"),
        (("--format", "truststore", "--out-dir", "out"), "--passphrase-file"),
        (("--format", "pkcs7", *PASS, "--out-dir", "out"), "leave out --passphrase-file"),
        (("--format", "pkcs7", "--out-dir", "out", "--version", "2"), "leave out --version"),
        (("--format", "pkcs7", "--out-dir", "out", "--reason", "x"), "nothing is recorded"),
        (("--format", "truststore", *PASS, "--out-dir", "out", "--server-side"), "no key"),
        (PASS, "-o json or -o pem"),
        ((*PASS, "--format", "pkcs12-modern", "-o", "pem"), "or print them with -o json"),
        ((*PASS, "--format", "pkcs12-legacy", "-o", "pem", "--out-dir", "out"), "leave out -o pem"),
        ((*PASS, "--format", "der", "-o", "json"), "--out-dir"),
        ((*PASS, "--format", "truststore", "-o", "json"), "--out-dir"),
        (("--format", "pkcs7", "-o", "pem"), "--out-dir"),
        ((*PASS, "--format", "jks"), "jks"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_asked(
    fake: FakeServer,
    certctl: Certctl,
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, PASSPHRASE)
    ended = certctl("managed", "export", "web", *arguments)
    assert ended.code == 2
    assert told in " ".join(ended.err.split())
    assert not fake.calls
    assert not (tmp_path / "out").exists()


def test_a_pkcs12_of_the_server_that_is_another_is_refused(
    fake: FakeServer, certctl: Certctl, root: Issued, web: Issued, tmp_path: Path, passphrase_file: Path
) -> None:
    other = make_leaf(root, "other.example.internal")
    arguments: Words = ("managed", "export", "web", "--passphrase-file", passphrase_file, "--format", "pkcs12-legacy")
    protection = PassphraseProtection(passphrase=PASSPHRASE, format=PassphraseProtection.PKCS12_LEGACY)
    wrong = PassphraseProtection(passphrase=b"battery staple", format=PassphraseProtection.PKCS12_LEGACY)
    for bundle, told in (
        (under_passphrase(root, other, protection), "holds other certificates"),
        (under_passphrase(other, web, protection), "holds other certificates"),
        (under_passphrase(root, web, wrong), "does not open"),
        (ExportManagedCertificateResponse(version=3), "does not open"),
    ):
        bundle.certificate.CopyFrom(encoded(web))
        bundle.chain.append(encoded(root))
        fake.answer("ExportManagedCertificate", bundle)
        ended = certctl(*arguments, "--server-side", "--out-dir", tmp_path / "out")
        assert ended.code == 1
        assert ended.err.splitlines()[-1].startswith("certctl: ANSWER_INCONSISTENT: ")
        assert told in ended.err
    assert not (tmp_path / "out").exists()
