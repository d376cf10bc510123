"""WrappingKeyService: convert, call `services.wrapping_key_rotation`, convert back."""

from functools import partial
from typing import Any

from certd.api.call import Call, Methods
from certd.model.request_limits import RequestLimits
from certd.services.wrapping_key_rotation import WrappingKeyRotation


def methods(rotation: WrappingKeyRotation, limits: RequestLimits) -> Methods:
    """Returns the functions that answer these methods."""
    return {
        "ListWrappingKeys": partial(list_wrapping_keys, rotation, limits),
        "GetWrappingKey": partial(get_wrapping_key, rotation, limits),
        "RotateWrappingKey": partial(rotate_wrapping_key, rotation, limits),
        "DestroyWrappingKey": partial(destroy_wrapping_key, rotation, limits),
    }


def list_wrapping_keys(rotation: WrappingKeyRotation, limits: RequestLimits, request: Any, call: Call) -> Any:
    """ListWrappingKeys."""
    raise NotImplementedError


def get_wrapping_key(rotation: WrappingKeyRotation, limits: RequestLimits, request: Any, call: Call) -> Any:
    """GetWrappingKey."""
    raise NotImplementedError


def rotate_wrapping_key(rotation: WrappingKeyRotation, limits: RequestLimits, request: Any, call: Call) -> Any:
    """RotateWrappingKey."""
    raise NotImplementedError


def destroy_wrapping_key(rotation: WrappingKeyRotation, limits: RequestLimits, request: Any, call: Call) -> Any:
    """DestroyWrappingKey."""
    raise NotImplementedError
