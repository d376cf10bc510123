"""Where an authority may stand, and what nobody below it may have."""

from dataclasses import replace

import pytest

from certd.errors import Reason
from certd.pki import distinguished_name as dn
from certd.pki.description import describe
from certd.pki.names import SubjectAlternativeNames
from certd.pki.preparation import CertificateRequest, Issuer, Prepared, Validity, prepare
from certd.pki.profiles import ROOT_CA, SUBORDINATE_CA, Profile
from certd.pki.status_locations import StatusLocations
from tests.unit.memory_authority import NOW, SERIAL, MemoryAuthority, prepare_leaf, public_key, refused_with, root

_SECOND = NOW.replace(microsecond=0)
_NONE = SubjectAlternativeNames()


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def _prepare_authority(
    issuer: Issuer, *, path_length: int | None = 0, subject: str = "CN=Below", profile: Profile = SUBORDINATE_CA
) -> Prepared:
    request = CertificateRequest(
        public_key=public_key(), subject=dn.parse_text(subject), names=_NONE, path_length=path_length
    )
    return prepare(issuer=issuer, request=request, profile=profile, validity=Validity(), serial=SERIAL, now=NOW)


@pytest.mark.parametrize(
    ("above", "path_length"),
    [(0, 0), (1, 1), (2, 3), (2, 4), (4, -1)],
)
def test_path_length_without_room(above: int, path_length: int) -> None:
    issuer = root(path_length=above).issuer
    error = refused_with(lambda: _prepare_authority(issuer, path_length=path_length), Reason.PROFILE_FORBIDS)
    assert error.violations[0].field == "path_length"


def test_path_length_of_an_issuer_without_constraint() -> None:
    issuer = replace(root().issuer, path_length=None)
    assert describe(_prepare_authority(issuer, path_length=3).lint_certificate).path_length == 3


def test_path_length_that_nobody_asked_for_is_zero() -> None:
    assert describe(_prepare_authority(root().issuer, path_length=None).lint_certificate).path_length == 0


def test_leaf_has_no_path_length(authority: MemoryAuthority) -> None:
    error = refused_with(lambda: prepare_leaf(authority, path_length=0), Reason.PROFILE_FORBIDS)
    assert error.violations[0].field == "path_length"


def test_authority_needs_a_subject_and_has_no_alternative_names(authority: MemoryAuthority) -> None:
    refused_with(lambda: _prepare_authority(authority.issuer, subject=""), Reason.NAME_NOT_ALLOWED)
    names = SubjectAlternativeNames(dns_names=("a",))
    refused_with(
        lambda: prepare_leaf(authority, subject="CN=Below", names=names, profile=SUBORDINATE_CA),
        Reason.NAME_NOT_ALLOWED,
    )


def test_root_profile_signs_its_own_key_alone(authority: MemoryAuthority) -> None:
    error = refused_with(lambda: _prepare_authority(authority.issuer, profile=ROOT_CA), Reason.PROFILE_FORBIDS)
    assert error.violations[0].field == "profile"


@pytest.mark.parametrize("subject", ["CN=Example Root,O=Example", "CN=example  ROOT,O=EXAMPLE"])
def test_nobody_gets_the_name_of_the_authority(authority: MemoryAuthority, subject: str) -> None:
    error = refused_with(lambda: _prepare_authority(authority.issuer, subject=subject), Reason.PROFILE_FORBIDS)
    assert error.violations[0].field == "subject"


def test_key_of_the_authority_gets_no_leaf(authority: MemoryAuthority) -> None:
    error = refused_with(lambda: prepare_leaf(authority, key=authority.issuer.public_key), Reason.PROFILE_FORBIDS)
    assert error.violations[0].field == "csr.public_key"


@pytest.mark.parametrize("serial", [0, -1, 1 << 159, 1 << 200])
def test_serial_out_of_bounds(authority: MemoryAuthority, serial: int) -> None:
    error = refused_with(lambda: prepare_leaf(authority, serial=serial), Reason.LINT_FAILED)
    assert error.metadata == {"lint": "rfc5280_4_1_2_2_serial_number"}


def test_url_that_is_not_http_does_not_pass_the_lint(authority: MemoryAuthority) -> None:
    secure = MemoryAuthority(
        issuer=replace(authority.issuer, locations=StatusLocations(issuer_urls=("https://pki.example/ca.cer",))),
        private_key=authority.private_key,
        certificate=authority.certificate,
    )
    error = refused_with(lambda: prepare_leaf(secure), Reason.LINT_FAILED)
    assert error.metadata == {"lint": "rfc5280_4_2_2_1_authority_information_access"}
