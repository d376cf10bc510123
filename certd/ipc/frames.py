"""Frames on a stream socket: four bytes of length, big-endian, then a protobuf `Frame`.

A peer that breaks the framing is treated as a peer that is gone: reading raises `ConnectionAbortedError`.
"""

import math
import socket
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from certd.errors import CertdError, Reason, Violation
from certd.internal.ipc_pb2 import Failure, FieldViolation, Frame

MAXIMUM_FRAME_BYTES = 32 * 1024 * 1024
_LENGTH_BYTES = 4
# Larger reads are slower: the kernel hands a socketpair's bytes over in pieces of about this size.
_RECEIVE_BYTES = 32_768


def encode(frames: Iterable[Frame]) -> bytes:
    """Returns the bytes of `frames`; FIELD_INVALID when one is larger than `MAXIMUM_FRAME_BYTES`."""
    parts = []
    for frame in frames:
        content = frame.SerializeToString()
        if len(content) > MAXIMUM_FRAME_BYTES:
            message = f"A frame of {len(content)} bytes exceeds {MAXIMUM_FRAME_BYTES}; ask for less in one call."
            raise CertdError(Reason.FIELD_INVALID, message)
        parts += [len(content).to_bytes(_LENGTH_BYTES), content]
    return b"".join(parts)


class FrameReader:
    """Reads frames from a blocking stream socket. For one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def read(self) -> list[Frame]:
        """Waits for a frame and returns all that have arrived whole; an empty list at the end of the stream.

        Raises:
            ConnectionAbortedError: the peer sent something that is no frame, or one that is too large.
            OSError: the connection broke.
        """
        while True:
            if frames := self._take_whole_frames():
                return frames
            received = self._connection.recv(_RECEIVE_BYTES)
            if not received:
                return []
            self._buffer += received

    def _take_whole_frames(self) -> list[Frame]:
        frames = []
        start = 0
        while len(self._buffer) - start >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[start : start + _LENGTH_BYTES])
            if length > MAXIMUM_FRAME_BYTES:
                raise ConnectionAbortedError(f"a frame of {length} bytes exceeds {MAXIMUM_FRAME_BYTES}")
            end = start + _LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            try:
                frames.append(Frame.FromString(bytes(self._buffer[start + _LENGTH_BYTES : end])))
            except DecodeError as error:
                raise ConnectionAbortedError("the peer sent something that is no frame") from error
            start = end
        del self._buffer[:start]
        return frames


def failure_of(error: CertdError) -> Failure:
    """Returns the message of an error."""
    return Failure(
        reason=error.reason.value,
        message=error.message,
        metadata=error.metadata,
        retry_after_milliseconds=0 if error.retry_after is None else max(1, math.ceil(error.retry_after * 1000)),
        violations=[FieldViolation(field=v.field, description=v.description) for v in error.violations],
    )


def error_of(failure: Failure) -> CertdError:
    """Returns the error of a message; one with a reason that this program does not know becomes INTERNAL."""
    known = failure.reason in Reason.__members__
    return CertdError(
        Reason(failure.reason) if known else Reason.INTERNAL,
        failure.message,
        metadata=dict(failure.metadata),
        violations=tuple(Violation(v.field, v.description) for v in failure.violations),
        retry_after=failure.retry_after_milliseconds / 1000 or None,
    )
