"""Who is at the other end of a unix socket, as the kernel says."""

import socket
import struct
import sys

_UCRED = struct.Struct("3i")
"""Linux, `struct ucred`: process, user, group."""
_XUCRED = struct.Struct("IIh")
"""macOS, the head of `struct xucred`: version, user, number of groups. The whole has room for sixteen groups."""
_XUCRED_BYTES = 76
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1


def peer_user_id(connection: socket.socket) -> int:
    """Returns the user id of the process that connected; raises OSError when the kernel does not say."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        return int(_XUCRED.unpack_from(credentials)[1])
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


def limit_send_time(connection: socket.socket, seconds: int) -> None:
    """Makes a send fail with OSError that the peer does not drain within `seconds`, instead of hanging for ever."""
    # struct timeval: two longs. A Python-level timeout would also bound reads, which wait without end on purpose.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))
