"""What certificates say of where their status and their issuer are found, and the CRLs that are signed for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.errors import CertdError, Reason
from certd.model.authority import Authority
from certd.model.names import AuthorityName
from certd.model.revocation_settings import (
    EVERY_SETTING,
    CrlSettings,
    OcspSettings,
    RevocationSettings,
    SettingsChange,
)
from certd.services.authority_changes import Change, NewSettings
from certd.services.authority_views import AuthorityView
from certd.services.certificates import CertificateView
from certd.store import certificates, revocation_lists
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.awaiting import activate, certified, create_awaiting, parents
from tests.services.conftest import ADMINISTRATOR, World, configuration, running_world
from tests.services.revocation_books import settle
from tests.services.rotated_books import activate as activate_key
from tests.services.rotated_books import prepare, retire

CA = AuthorityName("default", "ca")
BASE = "http://pki.example.internal"


def settings(
    *,
    crl: CrlSettings = CrlSettings(),  # noqa: B008  # Frozen.
    ocsp: OcspSettings = OcspSettings(),  # noqa: B008  # Frozen.
    **others: object,
) -> SettingsChange:
    """All settings as they are given."""
    return SettingsChange(given=RevocationSettings(crl=crl, ocsp=ocsp, **others), paths=EVERY_SETTING)  # type: ignore[arg-type]  # Fields.


def update(world: World, change: SettingsChange, name: AuthorityName = CA) -> AuthorityView:
    return world.core.authority_changes.update(ADMINISTRATOR, Change(name=name), NewSettings(revocation=change))


def said(der: bytes | None) -> dict[str, list[str]]:
    """What a certificate says: URLs by what they lead to, in their order."""
    assert der is not None
    found: dict[str, list[str]] = {}
    for extension in x509.load_der_x509_certificate(der).extensions:
        value = extension.value
        if isinstance(value, x509.CRLDistributionPoints):
            (point,) = value
            found["crl"] = [name.value for name in point.full_name or []]
        elif isinstance(value, x509.AuthorityInformationAccess):
            for each in value:
                kind = "ocsp" if each.access_method == AuthorityInformationAccessOID.OCSP else "issuer"
                found.setdefault(kind, []).append(each.access_location.value)
        elif extension.oid.dotted_string == "2.5.29.56":
            found["noRevAvail"] = [value.public_bytes().hex()]
            assert not extension.critical
    return found


def of_ca(world: World, view: CertificateView | None = None) -> dict[str, list[str]]:
    return said((view or world.issue("www.example.internal")).der)


def urls_under(authority: Authority, *bases: str, crl: str = ".crl") -> dict[str, list[str]]:
    path = f"{authority.uid}/{authority.key.number}"
    return {
        "ocsp": [f"{base}/ocsp/{path}" for base in bases],
        "issuer": [f"{base}/ca/{path}.cer" for base in bases],
        "crl": [f"{base}/crl/{path}{crl}" for base in bases],
    }


def authority_of(world: World, name: str = "ca") -> Authority:
    return world.core.authorities.get(ADMINISTRATOR, AuthorityName("default", name)).authority


def list_urls(world: World, authority: Authority, partition: int = 0) -> list[str]:
    with world.core.store.read("test.lists") as tx:
        return revocation_lists.urls(tx, authority.uid, authority.key.number, partition)


def invalid(call: Callable[[], object], *fields: str) -> None:
    with pytest.raises(CertdError) as caught:
        call()
    assert caught.value.reason is Reason.FIELD_INVALID
    assert {violation.field for violation in caught.value.violations} == {f"authority.revocation.{f}" for f in fields}


def test_certificates_name_crl_responder_and_issuer_of_their_authority(ca: World) -> None:
    root, authority = authority_of(ca, "root"), authority_of(ca)
    assert of_ca(ca) == urls_under(authority, BASE)
    # An authority's own certificate says what its issuer's settings are, and a root's nothing.
    assert said(authority.certificate) == urls_under(root, BASE)
    assert said(root.certificate) == {}
    assert list_urls(ca, authority) == urls_under(authority, BASE)["crl"]
    assert list_urls(ca, root) == urls_under(root, BASE)["crl"]


def test_identities_and_the_server_say_nothing(world: World) -> None:
    system = world.core.system_authority.get()
    with world.core.store.read("test.system") as tx:
        rows = certificates.page(tx, [system.uid], after=None, limit=10)
    issued = [row for row in rows if row.der is not None]
    assert len(issued) >= 2
    assert all(said(row.der) == {} for row in issued)
    assert list_urls(world, system) == []


def test_hosts_of_its_own_stand_in_place_of_the_server_in_their_order(ca: World) -> None:
    other, third = "http://crl.example.com/pub", "http://192.0.2.7:8080"
    view = update(
        ca,
        settings(crl=CrlSettings(base_urls=(other, third)), ocsp=OcspSettings(base_urls=(third,))),
    )
    assert view.warnings == ()
    authority = view.authority
    found = of_ca(ca)
    assert found["crl"] == urls_under(authority, other, third)["crl"]
    assert found["ocsp"] == urls_under(authority, third)["ocsp"]
    assert found["issuer"] == urls_under(authority, BASE)["issuer"]
    # What older certificates name stays on the CRL.
    assert list_urls(ca, authority) == urls_under(authority, BASE, other, third)["crl"]


@pytest.mark.parametrize(
    ("change", "absent"),
    [
        (settings(crl=CrlSettings(enabled=False)), {"crl"}),
        (settings(crl=CrlSettings(omit_extension=True)), {"crl"}),
        (settings(ocsp=OcspSettings(enabled=False)), {"ocsp"}),
        (settings(ocsp=OcspSettings(omit_extension=True)), {"ocsp"}),
        (settings(omit_issuer_url=True), {"issuer"}),
        (
            settings(crl=CrlSettings(enabled=False), ocsp=OcspSettings(enabled=False), omit_issuer_url=True),
            {"crl", "ocsp", "issuer"},
        ),
    ],
)
def test_what_is_off_or_left_out_is_not_named_by_new_certificates(
    ca: World, change: SettingsChange, absent: set[str]
) -> None:
    before = ca.issue("old.example.internal")
    view = update(ca, change)
    assert of_ca(ca).keys() == {"crl", "ocsp", "issuer"} - absent
    # Those of before keep their URLs, and the CRL goes on.
    assert of_ca(ca, before) == urls_under(view.authority, BASE)
    assert list_urls(ca, view.authority) == urls_under(view.authority, BASE)["crl"]
    # And back again.
    update(ca, settings())
    assert of_ca(ca).keys() == {"crl", "ocsp", "issuer"}


def test_certificates_are_spread_over_partitions_which_they_and_the_books_name(ca: World) -> None:
    view = update(ca, settings(crl=CrlSettings(partitioned=True, partition_count=3)))
    authority = view.authority
    for partition in range(4):
        crl = f"/{partition}.crl" if partition else ".crl"
        assert list_urls(ca, authority, partition) == urls_under(authority, BASE, crl=crl)["crl"]
    assert list_urls(ca, authority, 4) == []
    found = set()
    for number in range(40):
        issued = ca.issue(f"n{number}.example.internal")
        with ca.core.store.read("test.row") as tx:
            row = certificates.get(tx, authority.uid, issued.certificate.serial)
        assert row is not None
        assert row == issued.certificate
        assert said(row.der) == urls_under(authority, BASE, crl=f"/{row.crl_partition}.crl")
        found.add(row.crl_partition)
    # That one of three is never drawn has a chance of one in ten million.
    assert found == {1, 2, 3}
    # Fewer: the others stay, for certificates name them.
    update(ca, settings(crl=CrlSettings(partitioned=True, partition_count=2)))
    assert list_urls(ca, authority, 3) != []
    update(ca, settings())
    assert ca.issue("whole.example.internal").certificate.crl_partition is None
    assert of_ca(ca) == urls_under(authority, BASE)


def test_one_setting_changes_alone(ca: World) -> None:
    first = update(ca, settings(crl=CrlSettings(partitioned=True, partition_count=5), omit_issuer_url=True)).authority
    only = SettingsChange(
        given=RevocationSettings(ocsp=OcspSettings(enabled=False)), paths=frozenset({"ocsp.enabled", "crl.lifetime"})
    )
    second = update(ca, only).authority
    assert second.revocation.crl == first.revocation.crl
    assert second.revocation.omit_issuer_url
    assert second.revocation.ocsp == OcspSettings(enabled=False)
    assert update(ca, only).authority.revision == second.revision


def test_settings_that_contradict_each_other_are_refused_and_change_nothing(ca: World) -> None:
    other = ("http://crl.example.com",)
    invalid(lambda: update(ca, settings(crl=CrlSettings(omit_extension=True, base_urls=other))), "crl.base_urls")
    invalid(lambda: update(ca, settings(crl=CrlSettings(omit_extension=True, partitioned=True))), "crl.partitioned")
    invalid(
        lambda: update(
            ca,
            settings(
                ocsp=OcspSettings(omit_extension=True, base_urls=other), omit_issuer_url=True, issuer_base_urls=other
            ),
        ),
        "ocsp.base_urls",
        "issuer_base_urls",
    )
    assert authority_of(ca).revocation == RevocationSettings()
    # Also where one of the two stands in the books already.
    update(ca, settings(crl=CrlSettings(base_urls=other)))
    only = SettingsChange(
        given=RevocationSettings(crl=CrlSettings(omit_extension=True)), paths=frozenset({"crl.omit_extension"})
    )
    invalid(lambda: update(ca, only), "crl.base_urls")
    assert of_ca(ca).keys() == {"crl", "ocsp", "issuer"}


def test_an_outside_parent_says_what_it_likes_and_the_authority_signs_crls_from_its_activation(world: World) -> None:
    create_awaiting(world)
    sub = authority_of(world, "sub")
    assert list_urls(world, sub) == []
    middle = parents(world)
    activate(world, certified(world, middle), middle.chain)
    assert list_urls(world, sub) == urls_under(sub, BASE)["crl"]
    assert said(world.issue("www.example.internal", authority="sub").der) == urls_under(sub, BASE)


def test_settings_reach_a_key_that_does_not_sign_yet_and_one_that_signs_no_more(ca: World) -> None:
    prepare(ca)
    one, two = authority_of(ca), replace(authority_of(ca), key=replace(authority_of(ca).key, number=2))
    view = update(ca, settings(crl=CrlSettings(partitioned=True, partition_count=2)))
    for authority in (one, two):
        for partition in range(3):
            crl = f"/{partition}.crl" if partition else ".crl"
            assert list_urls(ca, authority, partition) == urls_under(authority, BASE, crl=crl)["crl"]
    assert list_urls(ca, replace(one, key=replace(one.key, number=3))) == []
    activate_key(ca, 2)
    issued = ca.issue("www.example.internal")
    assert said(issued.der) == urls_under(two, BASE, crl=f"/{issued.certificate.crl_partition}.crl")
    retire(ca, 1)
    other = "http://crl.example.com"
    update(ca, settings(crl=CrlSettings(base_urls=(other,))))
    # A key that is retired signs a last CRL and no other, and no certificate ever again.
    assert list_urls(ca, one) == urls_under(one, BASE)["crl"]
    assert list_urls(ca, two) == urls_under(two, BASE, other)["crl"]
    assert view.authority.key.number == 1


def test_without_a_base_url_certificates_say_nothing_and_the_answer_says_so(
    tmp_path: Path, token_settings: TokenSettings
) -> None:
    config = configuration(tmp_path, token_settings)
    clock = FakeClock()
    with running_world(
        config.model_copy(update={"web": config.web.model_copy(update={"base_url": None})}), clock
    ) as it:
        root = it.create_root()
        (warning,) = root.warnings
        assert warning.field == "authority.revocation"
        for said_of in ("CRL", "OCSP responder", "certificate of their issuer", "[web] base_url"):
            assert said_of in warning.message
        it.create_subordinate()
        assert of_ca(it) == {}
        assert it.core.authorities.get(ADMINISTRATOR, CA).warnings == ()
        assert list_urls(it, authority_of(it)) == []
        # What has hosts of its own needs none.
        view = update(it, settings(crl=CrlSettings(base_urls=(BASE,)), ocsp=OcspSettings(enabled=False)))
        (warning,) = view.warnings
        assert "where the certificate of their issuer is" in warning.message
        assert of_ca(it) == {"crl": urls_under(view.authority, BASE)["crl"]}


def test_partitions_have_crls_once_certificates_can_name_them(tmp_path: Path, token_settings: TokenSettings) -> None:
    config, clock = configuration(tmp_path, token_settings), FakeClock()
    unreached = config.model_copy(update={"web": config.web.model_copy(update={"base_url": None})})

    def lists_of(it: World) -> dict[int, tuple[str, ...]]:
        authority = authority_of(it)
        with it.core.store.read("test.lists") as tx:
            return {one.key.partition: one.urls for one in revocation_lists.of_key(tx, authority.uid, 1)}

    with running_world(config, clock) as it:
        it.create_root()
        it.create_subordinate()
        expected = {0: tuple(urls_under(authority_of(it), BASE)["crl"])}
        assert lists_of(it) == expected
    with running_world(unreached, clock) as it:
        # Where the complete CRL has a URL of before, too.
        (warning,) = update(it, settings(crl=CrlSettings(partitioned=True, partition_count=2))).warnings
        assert "its partitions have no CRLs" in warning.message
        assert it.issue("www.example.internal").certificate.crl_partition is None
        settle(it)
        assert it.core.publication.list_troubles.problems() == []
        assert lists_of(it) == expected
    with running_world(config, clock) as it:
        authority = authority_of(it)
        expected |= {number: tuple(urls_under(authority, BASE, crl=f"/{number}.crl")["crl"]) for number in (1, 2)}
        assert lists_of(it) == expected
        assert it.issue("www.example.internal").certificate.crl_partition in {1, 2}


def test_another_base_url_is_on_the_crls_before_anything_names_it(
    tmp_path: Path, token_settings: TokenSettings
) -> None:
    config, clock = configuration(tmp_path, token_settings), FakeClock()
    partitioned = settings(crl=CrlSettings(partitioned=True, partition_count=2))
    with running_world(config, clock) as it:
        it.create_root()
        it.create_subordinate(revocation=partitioned)
        authority = authority_of(it)
    other = "http://pki.example.com"
    web = config.web.model_copy(update={"base_url": other})
    with running_world(config.model_copy(update={"web": web}), clock) as it:
        for partition, crl in ((0, ".crl"), (1, "/1.crl"), (2, "/2.crl")):
            assert list_urls(it, authority, partition) == urls_under(authority, BASE, other, crl=crl)["crl"]
        assert of_ca(it)["issuer"] == urls_under(authority, other)["issuer"]
    with running_world(config, clock) as it:
        assert list_urls(it, authority) == urls_under(authority, BASE, other)["crl"]
