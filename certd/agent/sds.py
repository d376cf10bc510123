"""The agent as a server of secrets, from which Envoy gets its certificates over a unix socket and is sent each new one.

For a certificate `web` of the configuration there are two secrets: `web`, certificate, chain and private key, and
`web:roots`, the roots that vouch for it. A new version goes to every Envoy that asked, without being asked again, and
counts as served once each has taken it. One that refuses keeps what it had; the refusal is told with Envoy's own words.

One that left what it was sent unanswered for the time limit holds up no later version until it answers something.

gRPC tells nothing of who is at the other end of a unix socket: no SO_PEERCRED (unix(7)), and all peers have the same
address. So the streams of one program are bounded by the node that it says it is. That stops one that goes wrong, not
one that means harm and calls itself something else each time; but who may connect has the private keys already.
"""

import hashlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from certd.agent.bundle import Bundle
from certd.agent.commands import StoppedError
from certd.agent.config import Sds
from certd.agent.errors import AgentError
from certd.agent.sds_socket import bind
from certd.agent.sds_subscription import MOST_NAMES, TYPE_URL, Answer, NotUnderstood, Offer, Published, Subscription
from certd.envoy.secrets_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
    Secret,
)
from certd.pki.encoding import pem

ROOTS: Final = ":roots"
"""After the name of a certificate: its roots. No name of a certificate has a colon."""
MOST_STREAMS: Final = 256
"""Envoy opens one for each secret."""
MOST_STREAMS_OF_ONE: Final = 192
"""Of one node. Two that follow each other, in a hot restart of Envoy, have them together."""
ASK_WITHIN: Final = 30.0
"""Seconds in which a stream has to ask for something. Envoy does as it opens it."""
_SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
_MOST_BYTES: Final = 4 << 20
"""Of a request: Envoy tells in its first one all that it was built with."""
_GRACE: Final = 1.0
_ATTEMPT_BYTES: Final = 4

Told = Callable[[Bundle, str | None], None]
"""Is called for a bundle that an Envoy took (None), or refused (why), while nobody waited for it."""

_log = logging.getLogger(__name__)


def _names(certificate: str) -> tuple[str, str]:
    """Returns the names of the secrets of a certificate."""
    return certificate, f"{certificate}{ROOTS}"


def _secrets(bundle: Bundle, *, attempt: str) -> tuple[Published, Published]:
    """Returns the secrets of a bundle; two attempts differ in their version, and in a line before the certificate."""
    line = f"{bundle.name}, version {bundle.version}, attempt {attempt}\n" if attempt else ""
    chain = line + "".join(pem("CERTIFICATE", each) for each in (bundle.certificate, *bundle.served_chain))
    own, roots = (Secret(name=each) for each in _names(bundle.name))
    own.tls_certificate.certificate_chain.inline_bytes = chain.encode()
    own.tls_certificate.private_key.inline_bytes = pem("PRIVATE KEY", bundle.private_key_info).encode()
    roots.validation_context.trusted_ca.inline_bytes = (
        line + "".join(pem("CERTIFICATE", each) for each in bundle.roots)
    ).encode()
    return (
        _published(own, f"{bundle.version}-{_digest(bundle.certificate, *bundle.chain)}", attempt),
        _published(roots, _digest(*bundle.roots), attempt),
    )


def _published(secret: Secret, content: str, attempt: str) -> Published:
    version = f"{content}.{attempt}" if attempt else content
    return Published(name=secret.name, content=content, version=version, value=secret.SerializeToString())


def _digest(*certificates: bytes) -> str:
    return hashlib.sha256(b"".join(certificates)).hexdigest()[:16]


def _any(secret: Published) -> AnyMessage:
    return AnyMessage(type_url=TYPE_URL, value=secret.value)


class _Stream(Subscription):
    """A stream that is open."""

    def __init__(self, known: Collection[str], lock: threading.Lock, context: grpc.ServicerContext) -> None:
        super().__init__(known)
        self.context = context
        self.woken = threading.Condition(lock)
        self.opened = time.monotonic()
        self.answer_due = math.inf
        """From when on it counts as silent, on the monotonic clock; infinity while it owes no answer."""
        self.ended = False
        self.turned_away: tuple[grpc.StatusCode, str] | None = None
        """Why the agent ended it."""

    def turn_away(self, code: grpc.StatusCode, why: str) -> None:
        """Has it end with an error, and nothing more sent; to be called with the lock."""
        self.turned_away, self.ended = (code, why), True
        self.woken.notify_all()

    def end(self) -> None:
        """Has nothing more sent; to be called without the lock."""
        with self.woken:
            self.ended = True
            self.woken.notify_all()


class SecretServer:
    """Serves the secrets of the certificates that it is given names of; a target of each of them.

    Args:
        listen: the socket. Who may write to it gets the private keys.
        names: of the certificates.
        told: hears of answers that no `deploy` waits for.
        most_streams: past them an Envoy is told to come again later.
        most_streams_of_one: past them the same is told to a node of Envoy, whatever others have.
        ask_within: seconds in which a stream has to ask for something.
    """

    def __init__(
        self,
        listen: Sds,
        names: Collection[str],
        *,
        told: Told | None = None,
        most_streams: int = MOST_STREAMS,
        most_streams_of_one: int = MOST_STREAMS_OF_ONE,
        ask_within: float = ASK_WITHIN,
    ) -> None:
        self._listen = listen
        self._known = frozenset(each for name in names for each in _names(name))
        self._told = told
        self._most_streams = most_streams
        self._most_streams_of_one = most_streams_of_one
        self._ask_within = ask_within
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        self._published: dict[str, Published] = {}
        self._bundles: dict[str, Bundle] = {}
        self._awaited: set[str] = set()
        """Names of the certificates that a `deploy` waits for."""
        self._served: dict[str, Bundle] = {}
        """What is known to be served, by the name of the certificate."""
        self._streams: set[_Stream] = set()
        self._stopped = False
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Begins to listen; raises AgentError when the socket cannot be had."""
        pool = ThreadPoolExecutor(max_workers=self._most_streams, thread_name_prefix="sds")
        server = grpc.server(
            pool,
            handlers=[self._handlers()],
            maximum_concurrent_rpcs=self._most_streams,
            options=[("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.so_reuseport", 0)],
        )
        try:
            bind(server.add_insecure_port, self._listen)
        except BaseException:
            pool.shutdown()
            raise
        server.start()
        self._server, self._pool = server, pool

    def stop(self) -> None:
        """Ends every stream; each Envoy goes on with what it has, and comes again."""
        with self._lock:
            self._stopped = True
            for stream in self._streams:
                stream.woken.notify_all()
        if self._server is not None:
            self._server.stop(_GRACE).wait()
        if self._pool is not None:
            self._pool.shutdown()

    def restore(self, bundle: Bundle) -> None:
        """Serves what was served before, to whoever asks."""
        with self._lock:
            self._served[bundle.name] = bundle
            self._publish(bundle, _secrets(bundle, attempt=""))

    def deploy(self, bundle: Bundle) -> bool:
        """Sends a bundle to every Envoy that asks for it, and waits until each has taken it.

        Returns False when there is none: who comes gets it, and `told` hears of it. Raises AgentError when one refuses
        it or does not answer; what was there before is served again from then on. One that owes an answer of before
        for the time limit is waited for only while nobody else has taken it.
        """
        with self._lock:
            before = self._bundles.get(bundle.name), [self._published.get(each) for each in _names(bundle.name)]
            self._publish(bundle, self._to_publish(bundle))
            self._awaited.add(bundle.name)
            try:
                taken = self._wait(bundle)
            except AgentError:
                self._return(bundle.name, *before)
                raise
            finally:
                self._awaited.discard(bundle.name)
            if taken:
                self._served[bundle.name] = bundle
            return taken

    def _return(self, name: str, bundle: Bundle | None, published: Sequence[Published | None]) -> None:
        for each, secret in zip(_names(name), published, strict=True):
            self._published.pop(each)
            if secret is not None:
                self._published[each] = secret
        del self._bundles[name]
        if bundle is not None:
            self._bundles[name] = bundle
        self._wake_all()

    def _to_publish(self, bundle: Bundle) -> tuple[Published, ...]:
        # As an attempt of its own: an Envoy that refused a secret, perhaps of the agent that ran before this one, says
        # that it has it when the same comes again, without a look at it.
        made = _secrets(bundle, attempt=secrets.token_hex(_ATTEMPT_BYTES))
        now = (self._published.get(each.name, each) for each in made)
        return tuple(has if has.content == each.content else each for has, each in zip(now, made, strict=True))

    def _publish(self, bundle: Bundle, made: tuple[Published, ...]) -> None:
        self._published |= {each.name: each for each in made}
        self._bundles[bundle.name] = bundle
        self._wake_all()

    def _wake_all(self) -> None:
        for stream in self._streams:
            stream.woken.notify_all()

    def _wait(self, bundle: Bundle) -> bool:
        """Waits with the lock until everybody has answered who is waited for."""
        deadline = time.monotonic() + self._listen.timeout
        offered = [self._published[name] for name in _names(bundle.name)]
        while not self._stopped:
            # Who was sent something by this deployment, and not before it, does not count as silent in it.
            now = min(time.monotonic(), deadline)
            asking = [(each, secret) for each in self._streams for secret in offered if each.asks_for(secret.name)]
            answers = [(stream, secret.name, stream.answer(secret)) for stream, secret in asking]
            refusals = sorted({(stream.node, got.refusal) for stream, _, got in answers if got and got.refusal})
            if refusals:
                raise AgentError("; ".join(f"{node} refused it: {refusal}" for node, refusal in refusals))
            taken = any(name == bundle.name and got is not None for _, name, got in answers)
            unanswered = [(stream, name) for stream, name, got in answers if got is None]
            nodes = ", ".join(sorted({stream.node for stream, _ in unanswered}))
            # While nobody else has taken the certificate, who is silent may be the one that serves it.
            if all(stream.answer_due <= now and (taken or name != bundle.name) for stream, name in unanswered):
                if unanswered:
                    _log.warning("%s has long been silent and was not waited for", nodes)
                return taken
            if now >= deadline:
                raise AgentError(f"{nodes} did not answer within {self._listen.timeout:g} s")
            dues = (stream.answer_due for stream, _ in unanswered)
            self._answered.wait(min(each for each in (deadline, *dues) if each > now) - now)
        raise StoppedError("the agent ended before every Envoy had taken it")

    def _handlers(self) -> "grpc.GenericRpcHandler[Any, Any]":
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "StreamSecrets": grpc.stream_stream_rpc_method_handler(
                    self._stream_secrets, DiscoveryRequest.FromString, DiscoveryResponse.SerializeToString
                ),
                "DeltaSecrets": grpc.stream_stream_rpc_method_handler(
                    self._delta_secrets, DeltaDiscoveryRequest.FromString, DeltaDiscoveryResponse.SerializeToString
                ),
                "FetchSecrets": grpc.unary_unary_rpc_method_handler(
                    self._fetch_secrets, DiscoveryRequest.FromString, DiscoveryResponse.SerializeToString
                ),
            },
        )

    def _stream_secrets(
        self, requests: Iterator[DiscoveryRequest], context: grpc.ServicerContext
    ) -> Iterator[DiscoveryResponse]:
        stream = _Stream(self._known, self._lock, context)
        for offer in self._offers(stream, requests, stream.take):
            yield DiscoveryResponse(
                version_info=offer.secret.version,
                resources=[_any(offer.secret)],
                type_url=TYPE_URL,
                nonce=offer.nonce,
            )

    def _delta_secrets(
        self, requests: Iterator[DeltaDiscoveryRequest], context: grpc.ServicerContext
    ) -> Iterator[DeltaDiscoveryResponse]:
        stream = _Stream(self._known, self._lock, context)
        for offer in self._offers(stream, requests, stream.take_delta):
            secret = offer.secret
            yield DeltaDiscoveryResponse(
                system_version_info=secret.version,
                resources=[Resource(name=secret.name, version=secret.version, resource=_any(secret))],
                type_url=TYPE_URL,
                nonce=offer.nonce,
            )

    def _fetch_secrets(self, request: DiscoveryRequest, context: grpc.ServicerContext) -> DiscoveryResponse:
        if request.type_url not in {"", TYPE_URL} or len(request.resource_names) > MOST_NAMES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MOST_NAMES} secrets are to be had at once")
        with self._lock:
            found = [self._published[name] for name in dict.fromkeys(request.resource_names) if name in self._published]
        return DiscoveryResponse(
            version_info=",".join(each.version for each in found),
            resources=[_any(each) for each in found],
            type_url=TYPE_URL,
        )

    def _offers(
        self, stream: _Stream, requests: Iterator[Any], take: Callable[[Any], Answer | None]
    ) -> Iterator[Offer]:
        """Yields what is to be sent over a stream, until it ends; its requests are read by a thread of its own."""
        with self._lock:
            self._streams.add(stream)
        try:
            if not stream.context.add_callback(stream.end):
                return
            threading.Thread(target=self._read, args=(stream, requests, take), name="sds-read", daemon=True).start()
            while (offer := self._next_offer(stream)) is not None:
                _log.info(
                    "version %s of the secret %s goes to %s", offer.secret.version, offer.secret.name, stream.node
                )
                yield offer
        finally:
            with self._lock:
                self._streams.discard(stream)
                self._answered.notify_all()
        if stream.turned_away is not None:
            stream.context.abort(*stream.turned_away)

    def _next_offer(self, stream: _Stream) -> Offer | None:
        with self._lock:
            while not (stream.ended or self._stopped):
                offer = stream.offer(self._published)
                if offer is not None:
                    stream.answer_due = time.monotonic() + self._listen.timeout
                    return offer
                left = None if stream.begun else stream.opened + self._ask_within - time.monotonic()
                if left is not None and left <= 0:
                    why = f"nothing was asked for within {self._ask_within:g} s"
                    stream.turn_away(grpc.StatusCode.DEADLINE_EXCEEDED, why)
                else:
                    stream.woken.wait(left)
        return None

    def _read(self, stream: _Stream, requests: Iterator[Any], take: Callable[[Any], Answer | None]) -> None:
        try:
            for request in requests:
                with self._lock:
                    first, answer = not stream.begun, take(request)
                    if first and self._has_too_many(stream.node):
                        why = f"{stream.node} has {self._most_streams_of_one} streams, the most that one may have"
                        stream.turn_away(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
                        return
                    if answer is not None:
                        stream.answer_due = math.inf
                    unknown, stream.unknown = list(stream.unknown), {}
                    bundle = None if answer is None else self._account(answer)
                    stream.woken.notify_all()
                    self._answered.notify_all()
                if unknown:
                    _log.warning("%s asks for what is not configured here: %s", stream.node, ", ".join(unknown[:10]))
                if answer is not None:
                    self._tell(stream.node, answer, bundle)
        except NotUnderstood as mistake:
            with self._lock:
                stream.turn_away(grpc.StatusCode.INVALID_ARGUMENT, str(mistake))
        except grpc.RpcError:
            # The other side is gone.
            pass
        finally:
            stream.end()

    def _has_too_many(self, node: str) -> bool:
        """Returns whether a node has more streams than it may; to be called with the lock."""
        own = sum(1 for each in self._streams if each.begun and not each.ended and each.node == node)
        return own > self._most_streams_of_one

    def _tell(self, node: str, answer: Answer, bundle: Bundle | None) -> None:
        secret, problem = answer.secret, None
        if answer.refusal is None:
            _log.info("%s took version %s of %s", node, secret.version, secret.name)
        else:
            problem = f"{node} refused it: {answer.refusal}"
            _log.error("%s refused version %s of %s: %s", node, secret.version, secret.name, answer.refusal)
        if bundle is not None and self._told is not None:
            self._told(bundle, problem)

    def _account(self, answer: Answer) -> Bundle | None:
        """Returns the bundle that an answer is about, when it is news that nobody waits for."""
        name = answer.secret.name.removesuffix(ROOTS)
        bundle = self._bundles.get(name)
        if bundle is None or name in self._awaited or self._published[answer.secret.name] != answer.secret:
            return None
        if answer.refusal is not None:
            return bundle
        if answer.secret.name != name or self._served.get(name) == bundle:
            return None
        self._served[name] = bundle
        return bundle
