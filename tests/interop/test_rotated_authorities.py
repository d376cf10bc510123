"""Other programs verify what was issued before and after the keys of root and authority were rotated, by both roots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from certd.core import Core
from certd.model.authority import AuthorityType
from certd.model.certificate import RevocationReason
from certd.model.names import AuthorityName, CertificateName
from certd.pki import distinguished_name
from certd.pki.encoding import certificate_pem
from certd.pki.encoding import pem as pem_of
from certd.pki.key_spec import KeySpec
from certd.services.authority_changes import Change
from certd.services.authority_keys import NewKey
from certd.services.authority_plan import NewAuthority
from certd.services.certificates import NewCertificate
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from tests.interop.conftest import Made, System
from tests.interop.hierarchy import HOST, run
from tests.interop.mbedtls import judged
from tests.interop.test_gnutls import CERTTOOL
from tests.interop.test_go import GO
from tests.services.conftest import ADMINISTRATOR, csr_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the keys of one generation signed. Every file is PEM."""

    root: Path
    authority: Path
    cross: Path
    """The root's key, certified by that of the other generation."""
    good: Path
    revoked: Path
    revocations: Path
    """CRL of the authority's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A root with two keys that certify each other, an authority with two keys below it, and their leaves."""

    path_length: int
    """Of the root; the chains with a cross-certificate have one authority that is not the root itself."""
    old: Generation
    new: Generation

    @property
    def ways(self) -> tuple[tuple[Path, Generation, tuple[Path, ...]], ...]:
        """A root that is trusted, whose leaves are verified, and what stands between them, from below."""
        old, new = self.old, self.new
        return (
            (old.root, old, (old.authority,)),
            (new.root, new, (new.authority,)),
            (new.root, old, (old.authority, old.cross)),
            (old.root, new, (new.authority, new.cross)),
        )

    @property
    def ways_for_who_counts_all(self) -> tuple[tuple[Path, Generation, tuple[Path, ...]], ...]:
        """As `ways`, for programs that count cross-certificates in path lengths.

        RFC 5280, section 6.1.4 (l), counts no certificate whose subject is its issuer. GnuTLS and Go count every
        one, and mbedTLS the highest: they refuse the chains with a cross-certificate below one of path length 1.
        """
        return self.ways if self.path_length > 1 else self.ways[:2]


@pytest.fixture(scope="module", params=[(KeySpec.EC_P256, 1), (KeySpec.RSA_2048, 2)], ids=lambda one: str(one[0]))
def rotated(
    request: pytest.FixtureRequest, system: System, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Rotated:
    spec, path_length = request.param
    return made.once(
        ("rotated", spec), lambda: _rotated(system.core, tmp_path_factory.mktemp("rotated"), spec, path_length)
    )


def _rotated(core: Core, folder: Path, spec: KeySpec, path_length: int) -> Rotated:
    names = [AuthorityName("default", f"rotated-{place}-{spec.lower().replace('_', '-')}") for place in ("root", "ca")]
    for name, issuer in zip(names, (None, names[0]), strict=True):
        new = NewAuthority(
            name=name,
            type=AuthorityType.ROOT if issuer is None else AuthorityType.SUBORDINATE,
            key_spec=spec,
            subject=distinguished_name.parse_text(f"O=Example,CN={name.authority}"),
            issuer=issuer,
            path_length=path_length if issuer is None else 0,
        )
        core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False)
    before = _issued(core, names[1]), _issued(core, names[1])
    for name in names:
        core.rotation.keys.prepare(ADMINISTRATOR, Change(name=name), NewKey(cross_certify=name is names[0]))
        core.rotation.changes.activate(ADMINISTRATOR, Change(name=name), 2)
    after = _issued(core, names[1]), _issued(core, names[1])
    for _, revoked in (before, after):
        _revoke(core, names[1], revoked)
    return Rotated(
        path_length=path_length,
        old=_generation(core, folder / "old", names, before, number=1),
        new=_generation(core, folder / "new", names, after, number=2),
    )


def _issued(core: Core, authority: AuthorityName) -> bytes:
    new = NewCertificate(authority=authority, csr=csr_for(HOST))
    return core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=60).der or b""


def _revoke(core: Core, authority: AuthorityName, der: bytes) -> None:
    serial = f"{x509.load_der_x509_certificate(der).serial_number:032x}"
    name = CertificateName(authority.tenant, authority.authority, serial)
    new = NewRevocation(name=name, reason=RevocationReason.SUPERSEDED, invalidity_time=None)
    core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)


def _generation(
    core: Core, folder: Path, names: Sequence[AuthorityName], leaves: tuple[bytes, bytes], *, number: int
) -> Generation:
    folder.mkdir()
    views = [core.authorities.get(ADMINISTRATOR, name) for name in names]
    root, authority = (next(key.certificate or b"" for key in view.keys if key.number == number) for view in views)
    (cross,) = views[0].cross_certificates[number]
    wanted = WantedList(authority=names[1], key_number=number)
    revocations = folder / "revocations.crl"
    revocations.write_text(pem_of("X509 CRL", core.publication.lists.generate(ADMINISTRATOR, wanted).der))
    return Generation(
        root=_pem(folder / "root.pem", root),
        authority=_pem(folder / "authority.pem", authority),
        cross=_pem(folder / "cross.pem", cross),
        good=_pem(folder / "good.pem", leaves[0]),
        revoked=_pem(folder / "revoked.pem", leaves[1]),
        revocations=revocations,
    )


def _pem(place: Path, der: bytes) -> Path:
    place.write_text(certificate_pem(der))
    return place


def _bundle(folder: Path, *certificates: Path) -> Path:
    place = folder / "bundle.pem"
    place.write_text("".join(one.read_text() for one in certificates))
    return place


def test_openssl_finds_every_way(rotated: Rotated, tmp_path: Path) -> None:
    for root, generation, above in rotated.ways:
        lists = [word for one in (rotated.old, rotated.new) for word in ("-CRLfile", one.revocations)]
        command = ("openssl", "verify", "-x509_strict", "-check_ss_sig", "-verify_hostname", HOST, "-CAfile", root)
        asked = (*command, "-untrusted", _bundle(tmp_path, *above), "-crl_check", *lists)
        assert run(*asked, generation.good).stdout == f"{generation.good}: OK\n"
        assert "certificate revoked" in run(*asked, generation.revoked).stdout


def test_gnutls_finds_the_ways(rotated: Rotated, tmp_path: Path) -> None:
    for root, generation, above in rotated.ways_for_who_counts_all:
        for leaf in (generation.good, generation.revoked):
            bundle = _bundle(tmp_path, leaf, *above)
            ended = run(
                *(CERTTOOL, "--verify", "--verify-profile=medium", f"--load-ca-certificate={root}"),
                *(f"--infile={bundle}", f"--load-crl={generation.revocations}", f"--verify-hostname={HOST}"),
            )
            revoked = leaf is generation.revoked
            assert (ended.returncode != 0, "revoked" in ended.stdout) == (revoked, revoked), ended.stdout


@pytest.mark.skipif(not Path(GO).exists(), reason="there is no Go on this machine")
def test_go_finds_the_ways(rotated: Rotated, tmp_path: Path) -> None:
    program = tmp_path / "verify"
    built = run(GO, "build", "-o", program, Path(__file__).with_name("verify.go"))
    assert built.returncode == 0, built.stdout
    for root, generation, above in rotated.ways_for_who_counts_all:
        ended = run(program, root, _bundle(tmp_path, *above), HOST, generation.good)
        assert ended.stdout == f"{generation.good}: OK\n"


def test_mbedtls_finds_the_ways(mbedtls: Path, rotated: Rotated, tmp_path: Path) -> None:
    every = [one for generation in (rotated.old, rotated.new) for one in (generation.authority, generation.cross)]
    for root, generation, above in rotated.ways_for_who_counts_all:
        # It takes the first certificate that has the name of the issuer, whichever key is in it: more may follow.
        for sent in (above, (generation.authority, generation.cross, *every)):
            leaves, lists = [generation.good, generation.revoked], [generation.revocations]
            told = judged(mbedtls, root, _bundle(tmp_path, *sent), leaves, lists=lists)
            assert told == ["good", "The certificate has been revoked (is on a CRL);"]


def test_mbedtls_has_to_be_given_the_list_of_the_key(mbedtls: Path, rotated: Rotated) -> None:
    """It looks for a CRL by the issuer's name alone, which both keys of an authority have, and believes no other's."""
    old, new = rotated.old, rotated.new
    for generation, other in ((old, new), (new, old)):
        for lists in ([other.revocations], [other.revocations, generation.revocations]):
            told = judged(mbedtls, generation.root, generation.authority, [generation.good], lists=lists)
            assert told == ["The CRL is not correctly signed by the trusted CA;"]


def test_neither_root_vouches_for_the_other_without_a_cross_certificate(
    mbedtls: Path, rotated: Rotated, tmp_path: Path
) -> None:
    old, new = rotated.old, rotated.new
    for root, generation in ((old.root, new), (new.root, old)):
        above = _bundle(tmp_path, old.authority, new.authority)
        assert run("openssl", "verify", "-CAfile", root, "-untrusted", above, generation.good).returncode != 0
        (told,) = judged(mbedtls, root, above, [generation.good])
        assert told == "The certificate is not correctly signed by the trusted CA;"
