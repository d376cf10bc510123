"""WrappingKeyService at the edge: what reaches the service, what it answers, which broken fields are named."""

from datetime import timedelta
from typing import Any

import pytest

from certd.model.access import Caller
from certd.model.names import TenantName, WrappingKeyName
from certd.v1.wrapping_key_pb2 import WrappingKey
from certd.v1.wrapping_key_service_pb2 import (
    DestroyWrappingKeyRequest,
    GetWrappingKeyRequest,
    ListWrappingKeysRequest,
    RotateWrappingKeyRequest,
)
from tests.api.edge_messages import REQUEST_ID, call, moment_of, refused
from tests.api.edge_server import ALICE, Edge
from tests.api.edge_wrapping_keys import MADE

NAME = "tenants/default/wrappingKeys/3"
CALLER = Caller(principal=ALICE, serial="01")
SHOWN = WrappingKey(
    name=NAME,
    state=WrappingKey.DESTROYED,
    key_id="000102030405060708090a0b0c0d0e0f",
    reseal_count=7,
    resealed_count=6,
    create_time=moment_of(MADE),
    rotate_time=moment_of(MADE + timedelta(days=1)),
    retire_time=moment_of(MADE + timedelta(days=2)),
    destroy_time=moment_of(MADE + timedelta(days=3)),
    escrowed=True,
    etag="000102030405060708090a0b0c0d0e0f-9",
)


def test_a_key_is_shown_with_its_progress(edge: Edge) -> None:
    assert call(edge, GetWrappingKeyRequest(name=NAME)) == SHOWN
    assert edge.told.last == (CALLER, WrappingKeyName("default", 3))


def test_keys_are_listed_in_pages(edge: Edge) -> None:
    answer = call(edge, ListWrappingKeysRequest(parent="tenants/default", page_size=7, page_token="t"))
    assert list(answer.wrapping_keys) == [SHOWN]
    assert answer.next_page_token == "next"
    caller, parent, asked = edge.told.last
    assert (caller, parent, asked.size, asked.token) == (CALLER, TenantName("default"), 7, "t")


def test_a_rotation_answers_the_new_key(edge: Edge) -> None:
    made = call(edge, RotateWrappingKeyRequest(parent="tenants/default", request_id=REQUEST_ID))
    assert (made.name, made.state) == ("tenants/default/wrappingKeys/4", WrappingKey.PRIMARY)
    assert not made.HasField("rotate_time")
    assert not made.HasField("retire_time")
    assert not made.HasField("destroy_time")
    caller, parent, key = edge.told.last
    assert (caller, parent, key.request_id) == (CALLER, TenantName("default"), REQUEST_ID.lower())
    call(edge, RotateWrappingKeyRequest(parent="tenants/default"))
    assert edge.told.last == (CALLER, TenantName("default"), None)


def test_a_destruction_answers_what_it_leaves_behind(edge: Edge) -> None:
    gone = call(edge, DestroyWrappingKeyRequest(name=NAME, etag="e", request_id=REQUEST_ID))
    assert [(warning.field, warning.message) for warning in gone.warnings] == [("name", "backups hold 6 keys")]
    caller, name, etag, key, validate_only = edge.told.last
    assert (caller, name, etag, validate_only) == (CALLER, WrappingKeyName("default", 3), "e", False)
    assert key.request_id == REQUEST_ID.lower()
    call(edge, DestroyWrappingKeyRequest(name=NAME, validate_only=True))
    assert edge.told.last == (CALLER, WrappingKeyName("default", 3), "", None, True)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (GetWrappingKeyRequest(), ["name"]),
        (GetWrappingKeyRequest(name="tenants/default/wrappingKeys/0"), ["name"]),
        (GetWrappingKeyRequest(name="tenants/default/wrappingKeys/-1"), ["name"]),
        (GetWrappingKeyRequest(name="tenants/default/wrappingKeys/٣"), ["name"]),
        (GetWrappingKeyRequest(name=f"tenants/default/wrappingKeys/{'9' * 19}"), ["name"]),
        (GetWrappingKeyRequest(name="tenants/Default/wrappingKeys/1"), ["name"]),
        (
            ListWrappingKeysRequest(parent="tenants/-", page_size=1001, page_token="t" * 1025),
            ["parent", "page_size", "page_token"],
        ),
        (RotateWrappingKeyRequest(parent=NAME, request_id="1"), ["parent", "request_id"]),
        (DestroyWrappingKeyRequest(name="3", request_id="1"), ["name", "etag", "request_id"]),
        (DestroyWrappingKeyRequest(name=NAME, etag="e" * 129), ["etag"]),
        (DestroyWrappingKeyRequest(name=NAME, etag="e\n", validate_only=True), ["etag"]),
    ],
)
def test_every_field_that_breaks_a_rule_is_named(edge: Edge, request_: Any, expected: list[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert [field for field, _ in failure.violations] == expected
