"""What other programs make of OCSP answers, asked for over HTTP as they ask, with the URL that certificates name."""

import base64
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pkilint import loader, pkix, report
from pkilint.pkix import extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity

from certd.core import Core
from certd.model.authority import AuthorityType
from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, CertificateName
from certd.model.revocation_settings import OcspSettings, RevocationSettings, SettingsChange
from certd.pki import distinguished_name
from certd.pki.encoding import certificate_pem
from certd.pki.key_spec import KeySpec, generate_private_key
from certd.pki.status_locations import responder_url
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.ocsp_jobs import subject_of
from certd.services.revocation import NewRevocation
from certd.web.app import application
from certd.web.ocsp_shortcut import shortcut
from certd.web.server import serve
from tests.interop.conftest import Made, System
from tests.interop.hierarchy import run
from tests.recipes.programs import find_program, free_port, serving
from tests.services.conftest import ADMINISTRATOR
from tests.waiting import eventually

GO = shutil.which("go") or "/usr/local/go/bin/go"
HOST = "www.example.internal"
_NGINX = """
daemon off;
pid {place}/nginx.pid;
error_log stderr info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {place}/nginx-body;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {place}/served.pem;
        ssl_certificate_key {place}/served.key;
        ssl_trusted_certificate {place}/authority.pem;
        ssl_stapling on;
        ssl_stapling_verify on;
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responding:
    """An authority whose responder answers, and a certificate of each state."""

    url: str
    folder: Path
    root: Path
    authority: Path
    good: Path
    revoked: Path


@pytest.fixture(scope="session")
def listener(system: System) -> Iterator[str]:
    """The base URL of the server."""
    core = system.core
    app = application(
        chains=core.public_certificates,
        lists=core.publication.published_lists,
        answers=core.publication.answering.answers,
        health=core.health,
        clock=core.clock,
    )
    quick = shortcut(core.publication.answering.answers.memory, core.clock)
    web = serve(app, host="127.0.0.1", port=0, shortcut=quick)
    yield f"http://127.0.0.1:{web.port}"
    web.stop()


@pytest.fixture(scope="session", params=[KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.ED25519])
def responding(
    request: pytest.FixtureRequest, system: System, made: Made, listener: str, tmp_path_factory: pytest.TempPathFactory
) -> Responding:
    spec: KeySpec = request.param
    return made.once(
        ("responding", spec), lambda: _responding(system.core, listener, tmp_path_factory.mktemp("ocsp"), spec)
    )


def _responding(core: Core, base_url: str, folder: Path, spec: KeySpec) -> Responding:
    ident = str(spec).lower().replace("_", "-")
    root, authority = AuthorityName("default", f"ocsp-root-{ident}"), AuthorityName("default", f"ocsp-{ident}")
    settings = RevocationSettings(ocsp=OcspSettings(base_urls=(base_url,)))
    named = SettingsChange(given=settings, paths=frozenset({"ocsp"}))
    made = None
    for one, issuer in ((root, None), (authority, root)):
        new = NewAuthority(
            name=one,
            type=AuthorityType.ROOT if issuer is None else AuthorityType.SUBORDINATE,
            key_spec=spec,
            subject=distinguished_name.parse_text(f"O=Example,CN=OCSP {one.authority}"),
            issuer=issuer,
            revocation=named,
        )
        made = core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False).authority
        place = folder / ("root.pem" if issuer is None else "authority.pem")
        place.write_text(certificate_pem(made.certificate or b""))
    assert made is not None
    # Signed by a responder, as it is a minute later.
    core.publication.answering.presigning.advance(subject_of(made.uid, 1))
    for which in ("good", "revoked"):
        _issue(core, authority, folder, which)
    certificate = x509.load_pem_x509_certificate((folder / "revoked.pem").read_bytes())
    revoked = NewRevocation(
        name=CertificateName(authority.tenant, authority.authority, f"{certificate.serial_number:032x}"),
        reason=RevocationReason.KEY_COMPROMISE,
        invalidity_time=None,
    )
    core.revocation.revoke(ADMINISTRATOR, revoked, key=None, validate_only=False)
    return Responding(
        url=responder_url(base_url, made.uid, 1),
        folder=folder,
        root=folder / "root.pem",
        authority=folder / "authority.pem",
        good=folder / "good.pem",
        revoked=folder / "revoked.pem",
    )


def _issue(core: Core, authority: AuthorityName, folder: Path, which: str) -> None:
    key = generate_private_key(KeySpec.EC_P256)
    names = x509.SubjectAlternativeName([x509.DNSName(HOST)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    view = core.certificates.issue(
        ADMINISTRATOR, NewCertificate(authority=authority, csr=csr), key=None, validate_only=False, timeout=60
    )
    (folder / f"{which}.pem").write_text(certificate_pem(view.der or b""))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{which}.key").write_bytes(private)


def _openssl(responding: Responding, *options: str | Path) -> str:
    bundle = responding.folder / "bundle.pem"
    bundle.write_text(responding.root.read_text() + responding.authority.read_text())
    # A hash stands before the certificates that are named by it.
    first: list[str | Path] = [one for one in options if one == "-sha256"]
    rest: list[str | Path] = [one for one in options if one != "-sha256"]
    ended = run("openssl", "ocsp", *first, "-issuer", responding.authority, "-CAfile", bundle, *rest)
    assert ended.returncode == 0, ended.stdout
    assert "Response verify OK" in ended.stdout, ended.stdout
    return ended.stdout


@pytest.mark.parametrize("options", [("-no_nonce",), ("-nonce",), ("-sha256", "-no_nonce")])
def test_openssl_reads_the_state(responding: Responding, options: tuple[str, ...]) -> None:
    for leaf, state in ((responding.good, "good"), (responding.revoked, "revoked")):
        told = _openssl(responding, *options, "-cert", leaf, "-url", responding.url)
        assert f"{leaf}: {state}" in told
        assert ("keyCompromise" in told) is (state == "revoked")
        assert "Nonce" not in told
    unknown = _openssl(responding, *options, "-serial", "0x1234", "-url", responding.url)
    assert "0x1234: unknown" in unknown


def test_openssl_reads_several_in_one_answer(responding: Responding) -> None:
    leaves = ("-cert", responding.good, "-cert", responding.revoked)
    told = _openssl(responding, *leaves, "-url", responding.url)
    assert f"{responding.good}: good" in told
    assert f"{responding.revoked}: revoked" in told


def test_curl_gets_and_posts_what_openssl_verifies(responding: Responding) -> None:
    question, answer = responding.folder / "question.der", responding.folder / "answer.der"
    made = run(
        *("openssl", "ocsp", "-issuer", responding.authority, "-cert", responding.revoked),
        *("-no_nonce", "-reqout", question),
    )
    assert made.returncode == 0, made.stdout
    text = base64.b64encode(question.read_bytes()).decode()
    posts = ("-H", "Content-Type: application/ocsp-request", "--data-binary", f"@{question}", responding.url)
    ways = (posts, (f"{responding.url}/{quote(text, safe='')}",), (f"{responding.url}/{text}",))
    answers = set()
    for way in ways:
        assert run("curl", "-sSf", "-o", answer, *way).returncode == 0
        answers.add(answer.read_bytes())
        told = _openssl(responding, "-cert", responding.revoked, "-respin", answer, "-no_nonce")
        assert f"{responding.revoked}: revoked" in told
    assert len(answers) == 1


def test_gnutls_reads_the_state(responding: Responding) -> None:
    for leaf, state in ((responding.good, "good"), (responding.revoked, "revoked")):
        for nonce in ("--no-nonce", "--nonce"):
            ended = run(
                *("ocsptool", f"--ask={responding.url}", nonce, f"--load-cert={leaf}"),
                *(f"--load-issuer={responding.authority}", f"--load-trust={responding.authority}"),
            )
            assert f"Certificate Status: {state}" in ended.stdout, ended.stdout
            assert "Verifying OCSP Response: Success" in ended.stdout, ended.stdout


def _has_ed25519(responding: Responding) -> bool:
    return "ed25519" in run("openssl", "x509", "-in", responding.authority, "-noout", "-text").stdout.lower()


@pytest.mark.skipif(shutil.which("ocspclnt") is None, reason="there is no ocspclnt of NSS on this machine")
def test_nss_reads_the_state(responding: Responding, tmp_path: Path) -> None:
    # It finds the responder in the certificate, and has never known Ed25519.
    if _has_ed25519(responding):
        pytest.skip("NSS does not verify Ed25519")
    database = ("-d", f"sql:{tmp_path}")
    assert run("certutil", "-N", *database, "--empty-password").returncode == 0
    for file, trust in (("root", "CT,,"), ("authority", ",,"), ("good", ",,"), ("revoked", ",,")):
        added = run("certutil", "-A", *database, "-n", file, "-t", trust, "-i", responding.folder / f"{file}.pem")
        assert added.returncode == 0, added.stdout
    good = run("ocspclnt", "-S", "good", *database)
    assert (good.returncode, "good" in good.stdout) == (0, True), good.stdout
    revoked = run("ocspclnt", "-S", "revoked", *database)
    assert "revoked" in revoked.stdout.lower(), revoked.stdout


@pytest.mark.skipif(not Path(GO).exists(), reason="there is no Go on this machine")
def test_go_reads_the_state(responding: Responding, tmp_path: Path) -> None:
    built = tmp_path / "reader"
    made = run("env", "-C", Path(__file__).with_name("ocsp_reader"), GO, "build", "-o", built, ".")
    assert made.returncode == 0, made.stdout
    ended = run(built, responding.url, responding.authority, responding.good, responding.revoked)
    assert ended.stdout.splitlines() == ["good 0 true", "revoked 1 true"]


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """OcspResponses.java, compiled once."""
    folder = tmp_path_factory.mktemp("java")
    made = run("javac", "-d", folder, Path(__file__).with_name("OcspResponses.java"))
    assert made.returncode == 0, made.stdout
    return ("java", "-cp", folder, "OcspResponses")


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java on this machine")
def test_java_reads_the_state(responding: Responding, java: tuple[str | Path, ...]) -> None:
    ended = run(*java, responding.url, responding.authority, responding.good, responding.revoked)
    good, revoked = ended.stdout.splitlines()
    assert good == "good"
    assert revoked.startswith("REVOKED")
    assert "KEY_COMPROMISE" in revoked


def test_pkilint_finds_nothing(responding: Responding) -> None:
    validator = ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
    for leaf in (responding.good, responding.revoked):
        for nonce in ("-no_nonce", "-nonce"):
            answer = responding.folder / "linted.der"
            _openssl(responding, nonce, "-cert", leaf, "-url", responding.url, "-respout", answer)
            loaded = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(answer.read_bytes(), "answer")
            results = validator.validate(loaded.root)
            assert report.get_findings_count(results, ValidationFindingSeverity.NOTICE) == 0, [
                (str(one.node.path), found.finding.code) for one in results for found in one.finding_descriptions
            ]


def test_nginx_staples_an_answer_that_clients_accept(responding: Responding, tmp_path: Path) -> None:
    if _has_ed25519(responding):
        pytest.skip("the leaf alone matters here, and others staple in the same way")
    port = free_port()
    (tmp_path / "nginx.conf").write_text(_NGINX.format(place=tmp_path, port=port))
    (tmp_path / "served.pem").write_text(responding.good.read_text() + responding.authority.read_text())
    (tmp_path / "served.key").write_bytes((responding.folder / "good.key").read_bytes())
    (tmp_path / "authority.pem").write_text(responding.authority.read_text() + responding.root.read_text())
    nginx = find_program("nginx")
    with serving((nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf"), port=port, folder=tmp_path):

        def stapled() -> str | None:
            shown = run(
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, "-status"),
                *("-CAfile", responding.root, "-verify_return_error"),
            ).stdout
            return shown if "OCSP Response Status: successful" in shown else None

        # The first who connects has nginx ask.
        shown = eventually(stapled, within=60, pause=0.2)
    assert "Cert Status: good" in shown
    assert "Verify return code: 0 (ok)" in shown
