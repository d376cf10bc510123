"""What another CA issued under the key of an authority is taken over: once, whole, and on CRLs from then on."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from certd.errors import CertdError, Reason
from certd.model.certificate import CertificateState, RevocationReason
from certd.model.event import EventType
from certd.model.names import CertificateName, ProfileName
from certd.pki.revocation_list import EXPIRED_CERTIFICATES_ON_CRL
from certd.services.certificates import NewCertificate
from certd.services.issued_import import GivenCertificate, GivenCertificates, Imported
from certd.services.revocation_lists import WantedList
from certd.store import revocation_schema
from certd.token.settings import TokenSettings
from tests.outside_parent import OutsideAuthority, certify, name, outside_authority
from tests.services.conftest import ADMINISTRATOR, STRANGER, World, csr_for
from tests.services.revocation_books import revoke
from tests.services.rotated_books import activate, name_of, prepare
from tests.services.test_adoption import adopt, old_root

DAY = timedelta(days=1)


@pytest.fixture(name="old")
def adopted(world: World, token_settings: TokenSettings, tmp_path: Path) -> OutsideAuthority:
    root = old_root(world, token_settings, tmp_path)
    adopt(world, root.der)
    return root


def issued(world: World, old: OutsideAuthority, common_name: str = "leaf", *, days: int = 90) -> bytes:
    """Returns what the old CA issued."""
    made = certify(
        old,
        now=world.clock.now(),
        subject=name(common_name),
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        authority=False,
        ends=timedelta(days=days),
        extensions=[(x509.SubjectAlternativeName([x509.DNSName(f"{common_name}.example.internal")]), False)],
    )
    return made.public_bytes(Encoding.DER)


def take(
    world: World,
    certificates: Sequence[GivenCertificate],
    *,
    key_number: int | None = None,
    next_crl_number: int = 0,
    validate_only: bool = False,
) -> Imported:
    given = GivenCertificates(
        authority=name_of("old"),
        certificates=certificates,
        key_number=key_number,
        next_crl_number=next_crl_number,
    )
    return world.core.rotation.issued_import.take(ADMINISTRATOR, given, validate_only=validate_only)


def counts(found: Imported) -> tuple[int, int, int]:
    return found.imported, found.revoked, found.unchanged


def serial_of(der: bytes) -> str:
    text = f"{x509.load_der_x509_certificate(der).serial_number:x}"
    return text if len(text) % 2 == 0 else f"0{text}"


def record(world: World, serial: str, *, revoke_time: datetime | None = None, days: int = 90) -> GivenCertificate:
    return GivenCertificate(
        serial_number=serial,
        not_after=world.clock.now() + timedelta(days=days),
        subject="CN=long gone",
        revoke_time=revoke_time,
        reason=RevocationReason.SUPERSEDED,
    )


def crl_of(world: World) -> x509.CertificateRevocationList:
    view = world.core.publication.lists.generate(ADMINISTRATOR, WantedList(authority=name_of("old")))
    return x509.load_der_x509_crl(view.der)


def test_certificates_are_taken_over_and_a_second_time_nothing_changes(world: World, old: OutsideAuthority) -> None:
    good, bad = issued(world, old, "good"), issued(world, old, "bad")
    since = world.clock.now() - timedelta(days=3)
    given = [
        GivenCertificate(certificate=good),
        GivenCertificate(certificate=bad, revoke_time=since, reason=RevocationReason.KEY_COMPROMISE),
        record(world, "0A"),
        record(world, "0B", revoke_time=since),
        # By a clock that is ahead.
        record(world, "0C", revoke_time=world.clock.now() + timedelta(minutes=1)),
    ]
    assert counts(take(world, given, validate_only=True)) == (5, 0, 0)
    assert counts(take(world, given)) == (5, 0, 0)
    assert counts(take(world, given)) == (0, 0, 5)
    get = world.core.certificates.get
    found = get(ADMINISTRATOR, CertificateName("default", "old", serial_of(good)))
    assert (found.der, found.profile_name, found.certificate.state) == (good, "", CertificateState.ISSUED)
    assert found.chain == (old.der,)
    found = get(ADMINISTRATOR, CertificateName("default", "old", serial_of(bad)))
    assert (found.certificate.state, found.certificate.revoke_time) == (CertificateState.REVOKED, since)
    found = get(ADMINISTRATOR, CertificateName("default", "old", "0b"))
    assert (found.der, found.certificate.subject_text) == (None, "CN=long gone")
    crl = crl_of(world)
    assert {f"{one.serial_number:x}" for one in crl} == {serial_of(bad).lstrip("0"), "b", "c"}
    assert max(one.revocation_date_utc for one in crl) <= world.clock.now()
    event = next(one for one in world.events() if one.type is EventType.CERTIFICATES_IMPORTED)
    assert (event.details["imported"], event.details["unchanged"]) == ("5", "0")


def test_a_revocation_that_the_books_lack_is_written(world: World, old: OutsideAuthority) -> None:
    leaf = issued(world, old)
    own = world.issue("www.example.internal", authority="old").certificate.serial
    since = world.clock.now() - timedelta(days=1)
    take(world, [GivenCertificate(certificate=leaf)])
    revocations = [record(world, serial_of(leaf), revoke_time=since), record(world, own, revoke_time=since)]
    assert counts(take(world, revocations)) == (0, 2, 0)
    assert counts(take(world, revocations)) == (0, 0, 2)
    for serial in (serial_of(leaf), own):
        row = world.core.certificates.get(ADMINISTRATOR, CertificateName("default", "old", serial)).certificate
        assert (row.state, row.revoke_time, row.revocation_reason) == (
            CertificateState.REVOKED,
            since,
            RevocationReason.SUPERSEDED,
        )
    assert len(list(crl_of(world))) == 2


def test_a_crl_says_nothing_of_what_had_ended_before_the_key_was_adopted(world: World, old: OutsideAuthority) -> None:
    new = NewCertificate(
        authority=name_of("old"),
        csr=csr_for(subject="Example Code"),
        profile=ProfileName("default", "code-signing"),
    )
    code = world.core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=30)
    revoke(world, code)
    assert x509.load_der_x509_certificate(old.der).not_valid_before_utc < world.clock.now() < promised(world)
    # Nor before what the old CA knew was taken over, all that ever was or not.
    world.clock.advance(3 * DAY)
    take(world, [record(world, "0B", revoke_time=world.clock.now())])
    assert promised(world) == world.clock.now() + timedelta(seconds=1)


def promised(world: World) -> datetime:
    """Returns since when revoked certificates that have ended are on the CRL, as that says."""
    (promise,) = [one.value for one in crl_of(world).extensions if one.oid.dotted_string == EXPIRED_CERTIFICATES_ON_CRL]
    assert isinstance(promise, x509.UnrecognizedExtension)
    return datetime.strptime(promise.value[2:].decode() + "+0000", "%Y%m%d%H%M%SZ%z")


def test_what_the_key_did_not_sign_is_refused_whole(world: World, old: OutsideAuthority) -> None:
    stranger = outside_authority("Stranger", now=world.clock.now())
    namesake = outside_authority("Old Root", now=world.clock.now())
    given = [
        GivenCertificate(certificate=issued(world, old)),
        GivenCertificate(certificate=issued(world, stranger)),
        GivenCertificate(certificate=issued(world, namesake)),
        record(world, "not a number"),
        GivenCertificate(serial_number="0C"),
        record(world, "0D", revoke_time=world.clock.now() + timedelta(hours=1)),
        record(world, "0E"),
        record(world, "0e"),
        replace(record(world, "0F", revoke_time=world.clock.now()), invalidity_time=world.clock.now() + DAY),
    ]
    with pytest.raises(CertdError) as caught:
        take(world, given)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert [violation.field for violation in caught.value.violations] == [
        "certificates[1].certificate",
        "certificates[2].certificate",
        "certificates[3].serial_number",
        "certificates[4].not_after_time",
        "certificates[5].revoke_time",
        "certificates[7]",
        "certificates[8].invalidity_time",
    ]
    assert EventType.CERTIFICATES_IMPORTED not in {event.type for event in world.events()}


def test_records_stand_under_the_key_that_signed_them(world: World, old: OutsideAuthority) -> None:
    prepare(world, "old")
    activate(world, 2, "old")
    leaf = issued(world, old)
    with pytest.raises(CertdError) as caught:
        take(world, [GivenCertificate(certificate=leaf)])
    assert caught.value.reason is Reason.FIELD_INVALID
    assert counts(take(world, [GivenCertificate(certificate=leaf)], key_number=1)) == (1, 0, 0)
    found = world.core.certificates.get(ADMINISTRATOR, CertificateName("default", "old", serial_of(leaf)))
    assert found.chain == (old.der,)
    with pytest.raises(CertdError) as caught:
        take(world, [GivenCertificate(certificate=leaf)], key_number=3)
    assert caught.value.reason is Reason.AUTHORITY_KEY_NOT_FOUND


def test_crl_numbers_go_on_from_those_of_the_old_ca(world: World, old: OutsideAuthority) -> None:
    assert old.der
    high = 10**15
    take(world, [record(world, "0A", revoke_time=world.clock.now())], next_crl_number=high)
    assert crl_of(world).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number >= high
    with world.core.store.read("test.lists") as tx:
        assert tx.execute(select(revocation_schema.revocation_lists.c.claimed_number)).scalar_one() >= high


def test_a_stranger_may_not(world: World, old: OutsideAuthority) -> None:
    assert old.der
    with pytest.raises(CertdError) as caught:
        world.core.rotation.issued_import.take(
            STRANGER,
            GivenCertificates(authority=name_of("old"), certificates=[record(world, "0A")]),
            validate_only=True,
        )
    assert caught.value.reason is Reason.PERMISSION_MISSING
