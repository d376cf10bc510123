"""What other programs make of CRLs: that they are the authority's, and which certificates they revoke."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import loader, pkix, report
from pkilint.pkix import crl as pkilint_crl
from pkilint.pkix import extension, name
from pkilint.validation import ValidationFindingSeverity

from certd.core import Core
from certd.model.authority import AuthorityType
from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, CertificateName, ProfileName
from certd.pki import distinguished_name
from certd.pki.encoding import certificate_pem
from certd.pki.encoding import pem as pem_of
from certd.pki.key_spec import KeySpec, default_signature_algorithm, generate_private_key, hash_of
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from tests.interop import mbedtls as mbedtls_program
from tests.interop.conftest import Made, System
from tests.interop.hierarchy import run
from tests.services.conftest import ADMINISTRATOR, csr_for
from tests.services.revocation_books import partitioned

CERTTOOL = shutil.which("gnutls-certtool") or shutil.which("certtool") or "certtool"
GO = shutil.which("go") or "/usr/local/go/bin/go"
PARTITIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A certificate, and the CRL that it names."""

    pem: Path
    serial: str
    list_pem: Path
    list_der: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Authorities, what they issued, and what they say of that. Every CRL is there as PEM and as DER."""

    key_spec: KeySpec
    root: Path
    authority: Path
    root_list: Path
    complete: Path
    good: Leaf
    revoked: Leaf
    code: Leaf
    """Revoked, too; what it signed is judged when it has long ended."""

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return (self.good, self.revoked, self.code)


@pytest.fixture(scope="session", params=[KeySpec.RSA_2048, KeySpec.EC_P256, KeySpec.EC_P384, KeySpec.ED25519])
def published(
    request: pytest.FixtureRequest, system: System, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Published:
    spec: KeySpec = request.param
    return made.once(("published", spec), lambda: _published(system.core, tmp_path_factory.mktemp("lists"), spec))


def _published(core: Core, folder: Path, spec: KeySpec) -> Published:
    ident = str(spec).lower().replace("_", "-")
    root, authority = AuthorityName("default", f"lists-root-{ident}"), AuthorityName("default", f"lists-{ident}")
    for one, issuer in ((root, None), (authority, root)):
        new = NewAuthority(
            name=one,
            type=AuthorityType.ROOT if issuer is None else AuthorityType.SUBORDINATE,
            key_spec=spec,
            subject=distinguished_name.parse_text(f"O=Example Société,CN=Lists {one.authority}"),
            issuer=issuer,
            revocation=None if issuer is None else partitioned(PARTITIONS),
        )
        made = core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False).authority
        (folder / f"{one.authority}.pem").write_text(certificate_pem(made.certificate or b""))
    code = ProfileName("default", "code-signing")
    issued = {
        "good": _issue(core, authority, csr_for("good.example.internal"), None),
        "revoked": _issue(core, authority, csr_for("bad.example.internal"), None),
        "code": _issue(core, authority, csr_for(subject="Bad Code"), code),
    }
    for which, reason in (("revoked", RevocationReason.KEY_COMPROMISE), ("code", RevocationReason.UNSPECIFIED)):
        certificate = issued[which][0]
        since = certificate.not_valid_before_utc if which == "revoked" else None
        revoked = NewRevocation(
            name=CertificateName(authority.tenant, authority.authority, _serial(certificate)),
            reason=reason,
            invalidity_time=since,
        )
        core.revocation.revoke(ADMINISTRATOR, revoked, key=None, validate_only=False)
    for number in range(PARTITIONS + 1):
        _list(core, folder, authority, number)
    _list(core, folder, root, 0)
    for which, (certificate, _) in issued.items():
        (folder / f"{which}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    leaves = {
        which: Leaf(
            pem=folder / f"{which}.pem",
            serial=_serial(certificate),
            list_pem=folder / f"{authority.authority}-{partition}.crl.pem",
            list_der=folder / f"{authority.authority}-{partition}.crl",
        )
        for which, (certificate, partition) in issued.items()
    }
    return Published(
        key_spec=spec,
        root=folder / f"{root.authority}.pem",
        authority=folder / f"{authority.authority}.pem",
        root_list=folder / f"{root.authority}-0.crl",
        complete=folder / f"{authority.authority}-0.crl",
        **leaves,
    )


def _issue(
    core: Core, authority: AuthorityName, csr: bytes, profile: ProfileName | None
) -> tuple[x509.Certificate, int]:
    new = NewCertificate(authority=authority, csr=csr, profile=profile)
    view = core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=60)
    return x509.load_der_x509_certificate(view.der or b""), view.certificate.crl_partition or 0


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:032x}"


def _list(core: Core, folder: Path, authority: AuthorityName, partition: int) -> None:
    view = core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=authority, partition=partition))
    place = folder / f"{authority.authority}-{partition}.crl"
    place.write_bytes(view.der)
    place.with_name(f"{place.name}.pem").write_text(pem_of("X509 CRL", view.der))


def _pem(place: Path) -> Path:
    return place.with_name(f"{place.name}.pem")


def _judged(published: Published, leaf: Leaf, list_pem: Path) -> str:
    return run(
        *("openssl", "verify", "-CAfile", published.root, "-untrusted", published.authority, "-crl_check_all"),
        *("-CRLfile", list_pem, "-CRLfile", _pem(published.root_list), leaf.pem),
    ).stdout


def test_openssl_believes_the_list_that_a_certificate_names(published: Published) -> None:
    assert _judged(published, published.good, published.good.list_pem).strip() == f"{published.good.pem}: OK"
    for leaf in (published.revoked, published.code):
        assert "certificate revoked" in _judged(published, leaf, leaf.list_pem)


def test_openssl_believes_the_complete_list(published: Published) -> None:
    assert _judged(published, published.good, _pem(published.complete)).strip() == f"{published.good.pem}: OK"
    for leaf in (published.revoked, published.code):
        assert "certificate revoked" in _judged(published, leaf, _pem(published.complete))


def test_openssl_does_not_take_the_list_of_another_partition_for_it(published: Published) -> None:
    for leaf in published.leaves:
        (number,) = {"1", "2"} - {leaf.list_der.stem.rpartition("-")[2]}
        other = leaf.list_der.with_name(f"{leaf.list_der.stem.rpartition('-')[0]}-{number}.crl")
        assert "OK" not in _judged(published, leaf, _pem(other))


def test_openssl_reads_what_the_entries_say(published: Published) -> None:
    text = run("openssl", "crl", "-inform", "DER", "-in", published.complete, "-noout", "-text").stdout
    assert "Key Compromise" in text
    assert "Invalidity Date" in text
    assert text.count("CRL entry extensions") == 1
    assert text.count("Serial Number") == 2


@pytest.mark.parametrize("which", ["complete", "partition"])
def test_gnutls_verifies_them(published: Published, which: str) -> None:
    place = _pem(published.complete) if which == "complete" else published.revoked.list_pem
    ended = run(CERTTOOL, "--verify-crl", f"--load-ca-certificate={published.authority}", f"--infile={place}")
    assert ended.returncode == 0, ended.stdout
    assert "Verified" in ended.stdout
    ended = run(CERTTOOL, "--verify-crl", f"--load-ca-certificate={published.root}", f"--infile={place}")
    assert "Not verified" in ended.stdout


def test_gnutls_finds_what_is_revoked(published: Published) -> None:
    for leaf, good in ((published.good, True), (published.revoked, False)):
        bundle = leaf.pem.with_name("bundle.pem")
        bundle.write_text(leaf.pem.read_text() + published.authority.read_text())
        ended = run(
            *(CERTTOOL, "--verify", f"--load-ca-certificate={published.root}", f"--infile={bundle}"),
            f"--load-crl={_pem(published.complete)}",
        )
        assert (ended.returncode == 0, "revoked" in ended.stdout) == (good, not good), ended.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """revocation_list.go."""
    if not Path(GO).exists():
        pytest.skip("there is no Go on this machine")
    built = tmp_path_factory.mktemp("go") / "revocation-list"
    ended = run(GO, "build", "-o", built, Path(__file__).with_name("revocation_list.go"))
    assert ended.returncode == 0, ended.stdout
    return built


def test_go_reads_them(program: Path, published: Published) -> None:
    ended = run(program, published.authority, published.complete)
    number, *entries = ended.stdout.splitlines()
    assert number.startswith("number 1")
    assert set(entries) == {f"{published.revoked.serial} 1", f"{published.code.serial} 0"}
    ended = run(program, published.authority, published.revoked.list_der)
    assert f"{published.revoked.serial} 1" in ended.stdout.splitlines()
    assert run(program, published.root, published.complete).returncode == 1


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java on this machine")
def test_java_judges_by_them(published: Published) -> None:
    java = ("java", Path(__file__).with_name("RevocationLists.java"), published.root, published.authority)
    leaves = [leaf.pem for leaf in published.leaves]
    of_partitions = sorted({leaf.list_der for leaf in published.leaves})
    for lists in ([published.complete], of_partitions):
        ended = run(*java, str(len(lists) + 1), published.root_list, *lists, *leaves)
        good, revoked, code = ended.stdout.splitlines()
        assert good == "good", ended.stdout
        assert revoked.startswith("REVOKED"), ended.stdout
        assert "KEY_COMPROMISE" in revoked
        assert code.startswith("REVOKED"), ended.stdout
    # Without a list nothing is known.
    ended = run(*java, "1", published.root_list, leaves[0])
    assert ended.stdout.startswith("UNDETERMINED_REVOCATION_STATUS")


@pytest.mark.skipif(shutil.which("crlutil") is None, reason="there is no NSS on this machine")
def test_nss_finds_what_is_revoked(published: Published, tmp_path: Path) -> None:
    # NSS knows no issuing distribution point, which is critical: it reads complete CRLs alone.
    if published.key_spec is KeySpec.ED25519:
        pytest.skip("NSS verifies no certificates of Ed25519")
    database = f"sql:{tmp_path}"
    _ok("certutil", "-N", "-d", database, "--empty-password")
    for nickname, trust, place in (("root", "CT,C,C", published.root), ("ca", ",,", published.authority)):
        _ok("certutil", "-A", "-d", database, "-n", nickname, "-t", trust, "-a", "-i", place)
    for leaf, nickname in ((published.good, "good"), (published.revoked, "revoked")):
        _ok("certutil", "-A", "-d", database, "-n", nickname, "-t", ",,", "-a", "-i", leaf.pem)
        _ok("certutil", "-V", "-d", database, "-n", nickname, "-u", "V")
    _ok("crlutil", "-I", "-d", database, "-i", published.complete, "-t", "1")
    _ok("certutil", "-V", "-d", database, "-n", "good", "-u", "V")
    ended = run("certutil", "-V", "-d", database, "-n", "revoked", "-u", "V")
    assert ended.returncode != 0
    assert "revoked" in ended.stdout.lower()


def _asked(program: Path, published: Published, leaf: Leaf, host: str, *lists: Path) -> str:
    """Returns what mbedTLS says of a leaf."""
    (told,) = mbedtls_program.judged(program, published.root, published.authority, [leaf.pem], lists=lists, host=host)
    return told


def test_mbedtls_finds_what_is_revoked(mbedtls: Path, published: Published) -> None:
    if published.key_spec is KeySpec.ED25519:
        pytest.skip("mbedTLS knows no Ed25519")
    hosts = {"good.example.internal": published.good, "bad.example.internal": published.revoked}
    for host, leaf in {**hosts, "Bad Code": published.code}.items():
        # It misses no list: without one, it knows of nothing that is revoked.
        assert _asked(mbedtls, published, leaf, host) == "good"
        told = _asked(mbedtls, published, leaf, host, published.root_list, published.complete)
        assert told == ("good" if leaf is published.good else "The certificate has been revoked (is on a CRL);")


def test_mbedtls_believes_no_list_of_another_key(mbedtls: Path, published: Published, tmp_path: Path) -> None:
    if published.key_spec is KeySpec.ED25519:
        pytest.skip("mbedTLS knows no Ed25519")
    issuer, now = x509.load_pem_x509_certificate(published.authority.read_bytes()).subject, datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(now - timedelta(hours=1))
    forged = tmp_path / "forged.crl"
    forged.write_bytes(
        builder.next_update(now + timedelta(days=1))
        .sign(generate_private_key(published.key_spec), hash_of(default_signature_algorithm(published.key_spec)))
        .public_bytes(Encoding.DER)
    )
    altered = tmp_path / "altered.crl"
    signed = published.complete.read_bytes()
    serial = bytes.fromhex(published.revoked.serial)
    assert serial in signed
    altered.write_bytes(signed.replace(serial, bytes([serial[0]]) + bytes(reversed(serial[1:]))))
    for place in (forged, altered):
        told = _asked(mbedtls, published, published.good, "good.example.internal", place)
        assert told == "The CRL is not correctly signed by the trusted CA;", place


def test_mbedtls_reads_no_list_of_a_partition(mbedtls: Path, published: Published) -> None:
    # As NSS it knows no issuing distribution point, which is critical; it refuses the whole list, and says so.
    if published.key_spec is KeySpec.ED25519:
        pytest.skip("mbedTLS knows no Ed25519")
    place = published.good.list_der
    told = _asked(mbedtls, published, published.good, "good.example.internal", place)
    assert told.startswith(f"{place} cannot be read: X509 - The extension tag or value is invalid"), told


def _ok(*command: str | Path) -> None:
    ended = run(*command)
    assert ended.returncode == 0, ended.stdout


def test_pkilint_finds_nothing(published: Published) -> None:
    validator = pkilint_crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            pkilint_crl.create_issuer_validator_container([]),
            pkilint_crl.create_validity_validator_container([]),
            pkilint_crl.create_extensions_validator_container([]),
        ],
    )
    for place in {published.root_list, published.complete, *(leaf.list_der for leaf in published.leaves)}:
        document = loader.RFC5280CertificateListDocumentLoader().load_der_document(place.read_bytes(), place.name)
        results = validator.validate(document.root)
        findings = {
            f"{one.finding.severity.name} {one.finding.code}: {one.message}"
            for result in results
            for one in result.finding_descriptions
            if one.finding.severity >= ValidationFindingSeverity.INFO
        }
        assert findings == set(), report.ReportGeneratorPlaintext(results, ValidationFindingSeverity.INFO).generate()
