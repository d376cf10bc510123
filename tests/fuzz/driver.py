"""Makes the calls, on several threads, and judges every answer at once."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from certd.api.status import CODES
from certd.client.failure import decode
from certd.errors import Reason
from certd.v1 import (
    authority_service_pb2,
    certificate_service_pb2,
    managed_certificate_service_pb2,
    profile_service_pb2,
)
from tests.daemon import Installation, RunningDaemon
from tests.fuzz.requests import Request, Requests
from tests.fuzz.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

_FILES = (authority_service_pb2, certificate_service_pb2, managed_certificate_service_pb2, profile_service_pb2)
_ANSWERS = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.output_type)
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
_NEVER = frozenset({
    *(Reason.INTERNAL, Reason.TOKEN_UNAVAILABLE, Reason.PREPARATION_UNAVAILABLE, Reason.STORE_UNAVAILABLE),
    *(Reason.SHUTTING_DOWN, Reason.DEADLINE_EXCEEDED, Reason.OWNERSHIP_LOST),
    *(Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_REVOKED, Reason.PERMISSION_MISSING),
})  # fmt: skip
"""What a healthy server never answers to somebody who may do everything, whatever the request is."""
_WITH_VIOLATIONS = "INVALID_ARGUMENT"
_CALL_SECONDS = 60.0
_MOST_FAULTS = 50
LONGEST_CALL = 5.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that must not be."""

    what: str
    method: str
    payload: bytes
    """The request."""


@dataclass(slots=True)
class Tally:
    """What came of the calls."""

    calls: int = 0
    bent: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """By method and reason, `OK` for answers."""
    item_reasons: Counter[str] = field(default_factory=Counter)
    """Of the items of batches, and of the findings of checks."""
    slowest: dict[str, float] = field(default_factory=dict)
    """Seconds, by method."""
    faults: list[Fault] = field(default_factory=list)
    issued: int = 0

    def add(self, other: "Tally") -> None:
        self.calls += other.calls
        self.bent += other.bent
        self.reasons.update(other.reasons)
        self.item_reasons.update(other.item_reasons)
        for method, seconds in other.slowest.items():
            self.slowest[method] = max(seconds, self.slowest.get(method, 0.0))
        self.faults += other.faults
        self.issued += other.issued


class Driver:
    """Callers with a connection each.

    Args:
        daemon: whom they call.
        world: what they know of it.
        requests: makes what they send.
        seed: makes the requests those of an earlier run, as far as answers do not change them.
        callers: how many call at once.
    """

    def __init__(self, daemon: RunningDaemon, world: World, requests: Requests, *, seed: int, callers: int) -> None:
        self._world = world
        self._callers = [
            _Caller(_channel(daemon), world, requests, random.Random(f"{seed}/{number}")) for number in range(callers)
        ]

    def run(self, count: int) -> Tally:
        """Makes so many calls and returns what came of them; ends early after many faults."""
        shares = [count // len(self._callers)] * len(self._callers)
        shares[0] += count - sum(shares)
        tallies = [Tally() for _ in self._callers]
        stop = threading.Event()
        threads = [
            threading.Thread(target=caller.run, args=(share, tally, stop), daemon=True)
            for caller, share, tally in zip(self._callers, shares, tallies, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        whole = Tally()
        for tally in tallies:
            whole.add(tally)
        # A caller that died counts as a fault: its share is missing.
        if not stop.is_set() and whole.calls != count:
            whole.faults.append(Fault(f"{count - whole.calls} calls were not made: a caller failed", "", b""))
        return whole

    def close(self) -> None:
        for caller in self._callers:
            caller.channel.close()


def _channel(daemon: RunningDaemon) -> grpc.Channel:
    made: Installation = daemon.installation
    credentials = grpc.ssl_channel_credentials(
        root_certificates=made.trust_bundle.read_bytes(),
        private_key=made.private_key.read_bytes(),
        certificate_chain=made.certificate.read_bytes(),
    )
    longest = 64 << 20
    options = [
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", longest),
        ("grpc.max_send_message_length", longest),
    ]
    return grpc.secure_channel(daemon.grpc, credentials, options=options)


class _Caller:
    def __init__(self, channel: grpc.Channel, world: World, requests: Requests, draw: random.Random) -> None:
        self.channel = channel
        self._world = world
        self._requests = requests
        self._draw = draw
        self._methods: dict[str, Callable[..., Any]] = {}

    def run(self, count: int, tally: Tally, stop: threading.Event) -> None:
        for _ in range(count):
            if stop.is_set():
                return
            request = self._requests.request(self._draw)
            self._call(request, tally)
            tally.calls += 1
            tally.bent += request.bent
            if len(tally.faults) >= _MOST_FAULTS:
                stop.set()

    def _call(self, request: Request, tally: Tally) -> None:
        method = self._methods.get(request.method)
        if method is None:
            method = self._methods[request.method] = self.channel.unary_unary(request.method, _as_it_is, _as_it_is)
        short = request.method.rpartition("/")[2]
        began = time.perf_counter()
        try:
            answer = method(request.payload, timeout=_CALL_SECONDS)
        except grpc.RpcError as error:
            outcome, wrong = _judge_failure(error)
        else:
            outcome = "OK"
            wrong = self._take(_ANSWERS[request.method].FromString(answer), request, tally)
        seconds = time.perf_counter() - began
        tally.slowest[short] = max(seconds, tally.slowest.get(short, 0.0))
        tally.reasons[f"{short} {outcome}"] += 1
        if seconds > LONGEST_CALL:
            wrong.append(f"it took {seconds:.1f} s, or stood behind one that did")
        tally.faults += [Fault(what, request.method, request.payload) for what in wrong]

    def _take(self, answer: Message, request: Request, tally: Tally) -> list[str]:
        """Learns from an answer; returns what is wrong with it."""
        self._world.learn(answer, revocable=request.revocable)
        wrong: list[str] = []
        if request.method.endswith("/DeleteProfile"):
            self._world.forget(_profile_of(request.payload))
        if isinstance(answer, certificate_service_pb2.BatchIssueCertificatesResponse):
            for result in answer.results:
                error = result.error
                reason = error.reason if result.HasField("error") else "OK"
                tally.item_reasons[reason] += 1
                if reason != "OK":
                    code = next((code.name for code in grpc.StatusCode if code.value[0] == error.code), "")
                    paths = [violation.field for violation in error.violations]
                    wrong += [f"an item of the batch: {what}" for what in _judge(code, reason, error.message, paths)]
        elif isinstance(answer, profile_service_pb2.CheckProfileResponse):
            for finding in answer.findings:
                tally.item_reasons[finding.reason] += 1
                if finding.reason not in Reason.__members__ or Reason(finding.reason) in _NEVER:
                    wrong.append(f"a finding with the reason {finding.reason}: {finding.description}")
                if not finding.description:
                    wrong.append(f"a finding {finding.reason} without words")
        return wrong


def _profile_of(payload: bytes) -> str:
    return profile_service_pb2.DeleteProfileRequest.FromString(payload).name


def _as_it_is(data: bytes) -> bytes:
    return data


def _judge_failure(error: grpc.RpcError) -> tuple[str, list[str]]:
    failure = decode(error)
    if not failure.answered:
        return failure.reason, [f"{failure.code} without a reason of certd: {failure.message}"]
    paths = [violation.field for violation in failure.violations]
    return failure.reason, _judge(failure.code, failure.reason, failure.message, paths)


def _judge(code: str, reason: str, message: str, paths: list[str]) -> list[str]:
    """Returns what is wrong with a refusal."""
    if reason not in Reason.__members__:
        return [f"{code} with the reason {reason}, which is none"]
    wrong = []
    if Reason(reason) in _NEVER:
        wrong.append(f"{reason}: {message}")
    if CODES[Reason(reason)].name != code:
        wrong.append(f"{reason} with the code {code}")
    if not message:
        wrong.append(f"{reason} without words")
    if code == _WITH_VIOLATIONS and not any(paths):
        wrong.append(f"{reason} names no field: {message}")
    return wrong
