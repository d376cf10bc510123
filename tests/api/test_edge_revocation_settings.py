"""Settings of authorities at the edge: what comes in, what a mask picks, what contradicts itself."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from certd.model.authority import UsageMode
from certd.model.revocation_settings import (
    EVERY_SETTING,
    CrlSettings,
    OcspSettings,
    RevocationSettings,
    SettingsChange,
)
from certd.services.authority_changes import NewSettings  # noqa: TC001  # As its neighbours.
from certd.v1 import authority_pb2, authority_service_pb2
from tests.api.edge_messages import AUTHORITY_NAME, call, create_authority, refused
from tests.api.edge_server import AUTHORITY, Edge
from tests.api.test_edge_authority_changes import update

Settings = authority_pb2.Authority.RevocationSettings
Crl, Ocsp = Settings.Crl, Settings.Ocsp
URL, OTHER = "http://crl.example.com", "http://192.0.2.7:8080/pub"


def lasting(**duration: float) -> Duration:
    found = Duration()
    found.FromTimedelta(timedelta(**duration))
    return found


WHOLE = Settings(
    crl=Crl(enabled=True, partitioned=True, partition_count=64, lifetime=lasting(days=1), base_urls=[URL, OTHER]),
    ocsp=Ocsp(enabled=True, lifetime=lasting(hours=12), omit_extension=True),
    issuer_base_urls=[URL],
)
PARSED = RevocationSettings(
    crl=CrlSettings(partitioned=True, partition_count=64, lifetime=timedelta(days=1), base_urls=(URL, OTHER)),
    ocsp=OcspSettings(lifetime=timedelta(hours=12), omit_extension=True),
    issuer_base_urls=(URL,),
)


def settings(**parts: Any) -> Message:
    return update("revocation", revocation=Settings(**parts))


def change_of(edge: Edge) -> SettingsChange:
    new: NewSettings = edge.told.last[2]
    assert (new.labels, new.deletion_protection) == (None, None)
    assert new.revocation is not None
    return new.revocation


def test_a_new_authority_comes_in_whole(edge: Edge) -> None:
    call(
        edge,
        create_authority(revocation=WHOLE, usage_mode=authority_pb2.Authority.SHORT_LIVED, deletion_protection=True),
    )
    new = edge.told.last[1]
    assert new.revocation == SettingsChange(given=PARSED, paths=EVERY_SETTING, enables=frozenset({"crl", "ocsp"}))
    assert (new.usage_mode, new.deletion_protection) == (UsageMode.SHORT_LIVED, True)
    call(edge, create_authority())
    new = edge.told.last[1]
    assert (new.revocation, new.usage_mode, new.deletion_protection) == (None, UsageMode.GENERAL_PURPOSE, False)


def test_what_is_not_said_has_its_default_and_enables_nothing(edge: Edge) -> None:
    call(edge, create_authority(revocation=Settings(crl=Crl(), ocsp=Ocsp(enabled=False))))
    assert edge.told.last[1].revocation == SettingsChange(
        given=RevocationSettings(ocsp=OcspSettings(enabled=False)), paths=EVERY_SETTING
    )


def test_settings_go_out_whole(edge: Edge) -> None:
    authority = replace(AUTHORITY, revocation=PARSED, usage_mode=UsageMode.SHORT_LIVED, deletion_protection=True)
    edge.authorities.view = replace(edge.authorities.view, authority=authority)
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    shown = Settings()
    shown.CopyFrom(WHOLE)
    shown.crl.omit_extension, shown.omit_issuer_url = False, False
    assert answer.revocation == shown
    assert (answer.usage_mode, answer.deletion_protection) == (authority_pb2.Authority.SHORT_LIVED, True)
    # Defaults are said too, so that nobody need know them.
    edge.authorities.view = replace(edge.authorities.view, authority=AUTHORITY)
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert answer.revocation == Settings(
        crl=Crl(enabled=True, partitioned=False, partition_count=16, lifetime=lasting(days=7)),
        ocsp=Ocsp(enabled=True, lifetime=lasting(days=2)),
    )


@pytest.mark.parametrize(
    ("paths", "given", "expected", "which"),
    [
        (("revocation",), WHOLE, PARSED, EVERY_SETTING),
        (("revocation.crl",), WHOLE, RevocationSettings(crl=PARSED.crl), {"crl"}),
        (
            ("revocation.crl.lifetime", "revocation.ocsp.omit_extension"),
            WHOLE,
            RevocationSettings(crl=CrlSettings(lifetime=timedelta(days=1)), ocsp=OcspSettings(omit_extension=True)),
            {"crl.lifetime", "ocsp.omit_extension"},
        ),
        # What the mask names and the message does not say becomes the default again.
        (("revocation.crl.base_urls",), Settings(), RevocationSettings(), {"crl.base_urls"}),
        # What it does not name is not even looked at.
        (
            ("revocation.omit_issuer_url",),
            Settings(crl=Crl(base_urls=["nonsense"]), omit_issuer_url=True),
            RevocationSettings(omit_issuer_url=True),
            {"omit_issuer_url"},
        ),
        # Without a mask it is what is said.
        (
            (),
            Settings(ocsp=Ocsp(enabled=False)),
            RevocationSettings(ocsp=OcspSettings(enabled=False)),
            {"ocsp.enabled"},
        ),
    ],
)
def test_a_mask_picks_settings(
    edge: Edge, paths: tuple[str, ...], given: Settings, expected: RevocationSettings, which: set[str]
) -> None:
    call(edge, update(*paths, revocation=given))
    change = change_of(edge)
    assert (change.given, change.paths) == (expected, frozenset(which))


def test_the_star_is_everything(edge: Edge) -> None:
    call(edge, update("*", revocation=WHOLE))
    new: NewSettings = edge.told.last[2]
    assert (new.labels, new.deletion_protection) == ({}, False)
    assert new.revocation is not None
    assert (new.revocation.given, new.revocation.paths) == (PARSED, EVERY_SETTING)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (settings(crl=Crl(lifetime=lasting(minutes=59))), {"crl.lifetime"}),
        (settings(crl=Crl(lifetime=lasting(days=366, seconds=1))), {"crl.lifetime"}),
        (settings(crl=Crl(lifetime=lasting(days=1, milliseconds=1))), {"crl.lifetime"}),
        (settings(ocsp=Ocsp(lifetime=lasting(days=31))), {"ocsp.lifetime"}),
        (settings(crl=Crl(partitioned=True, partition_count=1)), {"crl.partition_count"}),
        (settings(crl=Crl(partitioned=True, partition_count=4097)), {"crl.partition_count"}),
        (settings(crl=Crl(partitioned=True, partition_count=-1)), {"crl.partition_count"}),
        (settings(crl=Crl(base_urls=[f"http://h{number}.example" for number in range(5)])), {"crl.base_urls"}),
        (settings(crl=Crl(base_urls=[URL, URL.upper().replace("HTTP", "http")])), {"crl.base_urls"}),
        (
            settings(
                crl=Crl(base_urls=["https://crl.example.com", URL]),
                ocsp=Ocsp(base_urls=[URL, "http://u@h.example"]),
                issuer_base_urls=["http://h.example/?q"],
            ),
            {"crl.base_urls[0]", "ocsp.base_urls[1]", "issuer_base_urls[0]"},
        ),
        # What says how something is that is said not to be.
        (settings(crl=Crl(enabled=False, partitioned=True)), {"crl.partitioned"}),
        (
            settings(crl=Crl(enabled=False, base_urls=[URL], lifetime=lasting(days=1))),
            {"crl.base_urls", "crl.lifetime"},
        ),
        (settings(ocsp=Ocsp(enabled=False, omit_extension=True)), {"ocsp.omit_extension"}),
        (settings(crl=Crl(partition_count=4)), {"crl.partition_count"}),
        (
            update("revocation.crl.enabled", "revocation.crl.lifetime",
                   revocation=Settings(crl=Crl(enabled=False, lifetime=lasting(days=1)))),
            {"crl.lifetime"},
        ),
    ],
)  # fmt: skip
def test_every_bad_setting_is_named(edge: Edge, request_: Message, expected: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == {f"authority.revocation.{field}" for field in expected}


def test_settings_that_contradict_nothing_pass(edge: Edge) -> None:
    for request in (
        settings(crl=Crl(enabled=False, partitioned=False), ocsp=Ocsp(enabled=False)),
        # The count may be set before it counts, one setting at a time.
        update("revocation.crl.partition_count", revocation=Settings(crl=Crl(partition_count=4))),
        settings(crl=Crl(partitioned=True, partition_count=4096, lifetime=lasting(days=366))),
        settings(ocsp=Ocsp(lifetime=lasting(hours=1)), crl=Crl(lifetime=lasting(hours=1))),
    ):
        call(edge, request)


@pytest.mark.parametrize("path", ["revocation.", "revocation.crl.", "revocation.nonsense", "revocation.crl.enabled.x"])
def test_a_path_below_that_is_none_is_named(edge: Edge, path: str) -> None:
    failure = refused(edge, update("labels", path, revocation=WHOLE))
    assert [field for field, _ in failure.violations] == ["update_mask.paths[1]"]


def test_a_mode_of_another_release_is_named(edge: Edge) -> None:
    failure = refused(edge, create_authority(usage_mode=9))
    assert [field for field, _ in failure.violations] == ["authority.usage_mode"]
