"""As much of MQTT 3.1.1 as a session with a publication takes."""

import ssl
from typing import Final

TOPIC: Final = b"state"
_CONNACK: Final = bytes((0x20, 2, 0, 0))


class Session:
    """A session over a connection, clean at its begin."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        # Protocol level 4, a clean session, no keep-alive, no name of its own.
        connection.sendall(_packet(0x10, _text(b"MQTT") + bytes((4, 2, 0, 0)) + _text(b"")))
        assert self._read(4) == _CONNACK

    def subscribe(self) -> None:
        self.connection.sendall(_packet(0x82, bytes((0, 1)) + _text(TOPIC) + bytes((0,))))
        assert self._read(5) == bytes((0x90, 3, 0, 1, 0))

    def publish(self, payload: bytes) -> None:
        """Publishes, and waits until the broker says that it has it."""
        self.connection.sendall(publication(payload))
        self.acknowledged()

    def acknowledged(self) -> None:
        assert self._read(4) == bytes((0x40, 2, 0, 2))

    def received(self) -> bytes:
        """Waits for the next publication."""
        kind, length = self._read(2)
        assert kind & 0xF0 == 0x30
        return self._read(length)[2 + len(TOPIC) :]

    def _read(self, length: int) -> bytes:
        read = b""
        while len(read) < length:
            piece = self.connection.recv(length - len(read))
            assert piece, "the broker closed the connection"
            read += piece
        return read


def publication(payload: bytes) -> bytes:
    """Returns the packet of a publication that is to be acknowledged."""
    return _packet(0x32, _text(TOPIC) + bytes((0, 2)) + payload)


def _packet(kind: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes((kind, len(content))) + content


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value
