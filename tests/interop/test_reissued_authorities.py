"""Other programs verify what an authority issued before it got another certificate, by every chain that there is."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.model.authority import AuthorityType
from certd.model.names import AuthorityName
from certd.pki import distinguished_name
from certd.pki.encoding import certificate_pem
from certd.pki.key_spec import KeySpec
from certd.services.authority_changes import Change
from certd.services.authority_plan import NewAuthority
from certd.services.authority_reissue import Reissue
from certd.services.certificates import NewCertificate
from tests.interop.conftest import Made, System
from tests.interop.hierarchy import HOST, run
from tests.interop.test_gnutls import CERTTOOL
from tests.services.conftest import ADMINISTRATOR, csr_for

_PURPOSE = "1.3.6.1.5.5.7.3.1"


class Line:
    """A root, two authorities below it, and what the lowest issued."""

    def __init__(self, system: System, spec: KeySpec) -> None:
        self._core = system.core
        prefix = f"reissued-{spec.value.lower().replace('_', '-')}"
        self.names = [AuthorityName("default", f"{prefix}-{place}") for place in range(3)]
        for place, name in enumerate(self.names):
            new = NewAuthority(
                name=name,
                type=AuthorityType.SUBORDINATE if place else AuthorityType.ROOT,
                subject=distinguished_name.parse_text(f"CN={name.authority},O=Example"),
                key_spec=spec,
                lifetime=timedelta(days=365 * (10, 5, 3)[place]),
                path_length=2 - place,
                issuer=self.names[place - 1] if place else None,
            )
            self._core.authorities.create(ADMINISTRATOR, new, key=None, validate_only=False)
        self.leaf = self.issue()

    def issue(self) -> bytes:
        new = NewCertificate(authority=self.names[2], csr=csr_for(HOST))
        view = self._core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
        assert view.der is not None
        return view.der

    def reissue(self, place: int) -> None:
        self._core.authority_life.reissue.reissue(ADMINISTRATOR, Change(name=self.names[place]), Reissue())

    def chain(self) -> tuple[bytes, ...]:
        """Returns the chain of the lowest, the root last."""
        return self._core.authorities.get(ADMINISTRATOR, self.names[2]).authority.full_chain


@pytest.fixture(scope="module", params=[KeySpec.EC_P256, KeySpec.RSA_2048, KeySpec.ED25519], ids=str)
def line(system: System, made: Made, request: pytest.FixtureRequest) -> Line:
    return made.once(("line", request.param), lambda: Line(system, request.param))


def _pem(path: Path, *certificates: bytes) -> Path:
    path.write_text("".join(certificate_pem(der) for der in certificates))
    return path


def _verified(folder: Path, leaf: bytes, chain: tuple[bytes, ...], root: bytes) -> None:
    trusted, above = _pem(folder / "root.pem", root), _pem(folder / "above.pem", *chain[:-1])
    openssl = run(
        *("openssl", "verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver", "-CAfile", trusted),
        *("-untrusted", above, _pem(folder / "leaf.pem", leaf)),
    )
    assert openssl.returncode == 0, openssl.stdout
    bundle = _pem(folder / "bundle.pem", leaf, *chain[:-1])
    gnutls = run(
        *(CERTTOOL, "--verify", "--verify-profile=medium", f"--load-ca-certificate={trusted}", f"--infile={bundle}"),
        *(f"--verify-hostname={HOST}", f"--verify-purpose={_PURPOSE}"),
    )
    assert gnutls.returncode == 0, gnutls.stdout


def test_leaves_of_before_and_after_verify_by_old_and_new_chains(line: Line, tmp_path: Path) -> None:
    chains = [line.chain()]
    for place in (2, 1, 0):
        line.reissue(place)
        chains.append(line.chain())
    assert len(set(chains)) == len(chains)
    leaves = [line.leaf, line.issue()]
    for chain in chains:
        for leaf in leaves:
            # A relying party has the root of before, or that of after.
            for root in (chains[0][-1], chains[-1][-1]):
                _verified(tmp_path, leaf, chain, root)


def test_the_new_certificates_say_what_those_of_before_do(line: Line) -> None:
    before = [x509.load_der_x509_certificate(der) for der in line.chain()]
    for place in range(3):
        line.reissue(place)
    for old, new in zip(before, map(x509.load_der_x509_certificate, line.chain()), strict=True):
        assert new.serial_number != old.serial_number
        assert new.public_key() == old.public_key()
        assert new.subject.public_bytes() == old.subject.public_bytes()
        assert {one.oid for one in new.extensions} == {one.oid for one in old.extensions}
        for one in old.extensions:
            assert new.extensions.get_extension_for_oid(one.oid).value == one.value
        assert new.public_bytes(Encoding.DER) != old.public_bytes(Encoding.DER)
