"""WrappingKeyService: convert, call `services.wrapping_key_rotation`, convert back."""

from functools import partial
from typing import Final

from certd.api import fields, x509
from certd.api.call import Call, Methods
from certd.model.names import TenantName, WrappingKeyName
from certd.model.request_limits import RequestLimits
from certd.services.paging import Page
from certd.services.wrapping_key_rotation import WrappingKeyRotation, WrappingKeyView
from certd.v1 import wrapping_key_pb2, wrapping_key_service_pb2

_LONGEST_ETAG: Final = 128


def methods(rotation: WrappingKeyRotation, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "ListWrappingKeys": partial(list_wrapping_keys, rotation, limits),
        "GetWrappingKey": partial(get_wrapping_key, rotation),
        "RotateWrappingKey": partial(rotate_wrapping_key, rotation),
        "DestroyWrappingKey": partial(destroy_wrapping_key, rotation),
    }


def list_wrapping_keys(
    rotation: WrappingKeyRotation,
    limits: RequestLimits,
    request: wrapping_key_service_pb2.ListWrappingKeysRequest,
    call: Call,
) -> wrapping_key_service_pb2.ListWrappingKeysResponse:
    """ListWrappingKeys."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    asked = violations.attempt(
        lambda: fields.page_request(request.page_size, request.page_token, largest=limits.page_size)
    )
    violations.check()

    def answer(page: Page[WrappingKeyView]) -> wrapping_key_service_pb2.ListWrappingKeysResponse:
        return wrapping_key_service_pb2.ListWrappingKeysResponse(
            wrapping_keys=[wrapping_key_message(view) for view in page.items], next_page_token=page.next_page_token
        )

    return fields.page_that_fits(asked, lambda smaller: rotation.page(call.caller, parent, smaller), answer)


def get_wrapping_key(
    rotation: WrappingKeyRotation, request: wrapping_key_service_pb2.GetWrappingKeyRequest, call: Call
) -> wrapping_key_pb2.WrappingKey:
    """GetWrappingKey."""
    return wrapping_key_message(rotation.get(call.caller, WrappingKeyName.parse("name", request.name)))


def rotate_wrapping_key(
    rotation: WrappingKeyRotation, request: wrapping_key_service_pb2.RotateWrappingKeyRequest, call: Call
) -> wrapping_key_pb2.WrappingKey:
    """RotateWrappingKey."""
    violations = fields.Violations()
    parent = violations.attempt(lambda: TenantName.parse("parent", request.parent))
    key = violations.attempt(lambda: fields.request_key("RotateWrappingKey", request, request.request_id))
    violations.check()
    return wrapping_key_message(rotation.rotate(call.caller, parent, key=key))


def destroy_wrapping_key(
    rotation: WrappingKeyRotation, request: wrapping_key_service_pb2.DestroyWrappingKeyRequest, call: Call
) -> wrapping_key_pb2.WrappingKey:
    """DestroyWrappingKey."""
    violations = fields.Violations()
    name = violations.attempt(lambda: WrappingKeyName.parse("name", request.name))
    etag = violations.attempt(lambda: fields.text("etag", request.etag, longest=_LONGEST_ETAG))
    violations.attempt(lambda: fields.required("etag", present=bool(request.etag) or request.validate_only))
    key = violations.attempt(lambda: fields.request_key("DestroyWrappingKey", request, request.request_id))
    violations.check()
    view = rotation.destroy(call.caller, name, etag=etag, key=key, validate_only=request.validate_only)
    return wrapping_key_message(view)


def wrapping_key_message(view: WrappingKeyView) -> wrapping_key_pb2.WrappingKey:
    """Returns a wrapping key as a message."""
    key = view.wrapping_key
    message = wrapping_key_pb2.WrappingKey(
        name=key.name,
        state=wrapping_key_pb2.WrappingKey.State.Value(key.state),
        key_id=key.key_id.hex(),
        reseal_count=key.reseal_count,
        resealed_count=key.resealed_count,
        create_time=x509.timestamp(key.create_time),
        escrowed=key.escrowed,
        etag=key.etag,
        warnings=x509.warning_messages(view.warnings),
    )
    if key.rotate_time is not None:
        message.rotate_time.CopyFrom(x509.timestamp(key.rotate_time))
    if key.retire_time is not None:
        message.retire_time.CopyFrom(x509.timestamp(key.retire_time))
    if key.destroy_time is not None:
        message.destroy_time.CopyFrom(x509.timestamp(key.destroy_time))
    return message
