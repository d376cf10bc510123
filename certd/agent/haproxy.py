"""HAProxy's runtime API: a certificate is replaced in the process that runs, without a reload.

The file that its configuration names is written before, with the other files of the bundle, so that an HAProxy that
starts anew has the same. HAProxy takes a certificate in one transaction for the whole process; every answer is read,
and at the end it is asked what it has.
"""

import hashlib
import re
import socket
import threading
import time
from typing import Final

from certd.agent import config, formats
from certd.agent.bundle import Bundle
from certd.agent.errors import AgentError

_LONGEST_ANSWER: Final = 4 << 20
_LONGEST_TOLD: Final = 300
_PIECE: Final = 65_536
_COMBINED: Final = config.File(path="combined", format="combined", mode=0o600)
_ONE_AT_A_TIME: Final = threading.Lock()
"""There is one transaction for all certificates of an HAProxy."""


class HAProxyTarget:
    """An HAProxy that serves a certificate.

    Args:
        haproxy: its configuration.
    """

    def __init__(self, haproxy: config.HAProxy) -> None:
        self._haproxy = haproxy
        self._name = haproxy.certificate

    def deploy(self, bundle: Bundle) -> None:
        """Replaces the certificate; raises AgentError with what HAProxy says, and then it serves what it did."""
        with _ONE_AT_A_TIME:
            deadline = time.monotonic() + self._haproxy.timeout
            self._refuse_other_transaction(deadline)
            self._set(bundle, deadline)
            self._commit(deadline)
            shown = self._shown(deadline)
        if shown.get("SHA1 FingerPrint") != _fingerprint(bundle):
            raise AgentError(f"HAProxy shows another certificate as {self._name} than it was just given")
        if shown.get("Status") != "Used":
            raise AgentError(f"HAProxy has {self._name} and uses it nowhere; name it in a bind line or a crt-list")

    def restore(self, bundle: Bundle) -> None:
        """Replaces the certificate when HAProxy, started anew perhaps, has another one; raises AgentError."""
        if self._shown(time.monotonic() + self._haproxy.timeout).get("SHA1 FingerPrint") != _fingerprint(bundle):
            self.deploy(bundle)

    def _refuse_other_transaction(self, deadline: float) -> None:
        """Raises AgentError while another certificate is being replaced: what we set would go into its place."""
        for line in self._ask("show ssl cert", deadline).splitlines():
            if line.startswith("*") and line != f"*{self._name}":
                other = line.removeprefix("*")
                raise AgentError(
                    f"HAProxy has an open transaction for {other}; unless somebody is about to commit it,"
                    f" end it with: abort ssl cert {other}"
                )

    def _set(self, bundle: Bundle, deadline: float) -> None:
        content = formats.content(bundle, _COMBINED).decode()
        said = self._ask(f"set ssl cert {self._name} <<\n{content}", deadline)
        if not said:
            raise AgentError(
                f"HAProxy hung up when it was given {self._name}: certificate, chain and key are {len(content)} bytes"
                " and must fit in its tune.bufsize (16384 unless it is set); set a larger one"
            )
        begun = re.search(r"Transaction (?:created|updated) for certificate (.*)!", said)
        if begun is None:
            raise self._refused(said, deadline)
        if begun[1] != self._name:
            # It went into a transaction that somebody began meanwhile, which must not be committed with it.
            self._abort(begun[1], deadline)
            raise AgentError(f"HAProxy had a transaction for {begun[1]}, which began meanwhile; it was aborted")

    def _commit(self, deadline: float) -> None:
        said = self._ask(f"commit ssl cert {self._name}", deadline)
        if "Success!" not in said.splitlines():
            raise self._refused(said, deadline)

    def _refused(self, said: str, deadline: float) -> AgentError:
        self._abort(self._name, deadline)
        text = " ".join(said.split())[:_LONGEST_TOLD]
        if text == "Permission denied":
            text = 'permission denied; its "stats socket" needs "level admin"'
        return AgentError(f"HAProxy refused {self._name}: {text or 'it gave no answer'}")

    def _abort(self, name: str, deadline: float) -> None:
        # Where there is no transaction it says so, which is as well.
        self._ask(f"abort ssl cert {name}", deadline)

    def _shown(self, deadline: float) -> dict[str, str]:
        said = self._ask(f"show ssl cert {self._name}", deadline)
        found = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        if "SHA1 FingerPrint" not in found:
            raise AgentError(
                f"HAProxy has no certificate {self._name}: {' '.join(said.split())[:_LONGEST_TOLD]};"
                " name it as `show ssl cert` lists it"
            )
        return found

    def _ask(self, command: str, deadline: float) -> str:
        """Returns the answer to a command; a connection each, which HAProxy closes behind it."""
        where = self._haproxy.socket
        try:
            with self._connected(deadline) as connection:
                connection.sendall(f"{command}\n".encode())
                answer = bytearray()
                while True:
                    connection.settimeout(_left(deadline))
                    piece = connection.recv(_PIECE)
                    if not piece:
                        return answer.decode(errors="replace").strip()
                    answer += piece
                    if len(answer) > _LONGEST_ANSWER:
                        raise AgentError(f"HAProxy at {where} answers without an end")
        except ConnectionResetError:
            # It closed while it was still being told.
            return ""
        except TimeoutError as error:
            raise AgentError(f"HAProxy at {where} did not answer within {self._haproxy.timeout:g} s") from error
        except OSError as error:
            raise AgentError(
                f"HAProxy at {where} cannot be reached: {(error.strerror or str(error)).lower()}"
            ) from error

    def _connected(self, deadline: float) -> socket.socket:
        where = self._haproxy.socket
        if not where.startswith("/"):
            host, _, port = where.rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), timeout=_left(deadline))
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(where)
        except BaseException:
            connection.close()
            raise
        return connection


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _fingerprint(bundle: Bundle) -> str:
    # No more than the name under which HAProxy shows it.
    return hashlib.sha1(bundle.certificate, usedforsecurity=False).hexdigest().upper()
