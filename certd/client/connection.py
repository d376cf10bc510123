"""A connection to the API over TLS, mutual or with a bearer token; calls on it have deadlines and bounded retries."""

import random
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import Message

from certd.client.credentials import Credentials, ServerRoots, TokenCredentials
from certd.client.failure import CallFailed, decode, explain
from certd.client.retry import RetryPolicy, delay_before_retry
from certd.client.stubs import Stubs
from certd.errors import Reason

CALL_TIMEOUT: Final = 60.0
"""Seconds that one try may take when the caller says nothing; generating an RSA key in a slow token takes many."""
MESSAGE_BYTES: Final = 16 << 20
_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Keeps connections through NAT alive and notices dead ones. No pings without a call: servers count those as abuse.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Retries are ours alone, because only we know which calls may be repeated.
    ("grpc.enable_retries", 0),
    # A daemon is back within a second; the default waits of one second and more would outlast our retries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name, how long a connection may take until both sides have shaken hands: it may be a long way.
    ("grpc.min_reconnect_backoff_ms", 10_000),
)
_READS: Final = ("Get", "List", "Search", "Check", "WhoAmI", "TestPermissions", "RenewIdentity", "ReportDeployment")
"""Prefixes of the requests that change nothing, or when repeated nothing more."""

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class PagedRequest(Protocol):
    """A request of a list."""

    page_token: str


class PagedResponse(Protocol):
    """An answer of a list."""

    @property
    def next_page_token(self) -> str:
        """Token of the next page; empty on the last."""


PagedRequestT = TypeVar("PagedRequestT", bound=PagedRequest)
PagedResponseT = TypeVar("PagedResponseT", bound=PagedResponse)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call that failed and will be tried again."""

    failure: CallFailed
    delay: float
    """Seconds until then."""


class Client:
    """A connection to a server. Safe to share between threads.

    Args:
        address: `host:port` of the gRPC API; the host must stand in the server's certificate.
        credentials: of the caller.
        timeout: seconds for a call with all its tries; None: a minute for each try, and no new try after ten seconds.
        on_wait: told before each wait for another try, for example to show progress.
        longest_pause: seconds up to which the pauses grow in which a broken connection is made again, calls or none.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials | TokenCredentials | ServerRoots,
        *,
        timeout: float | None = None,
        on_wait: Callable[[Waiting], None] | None = None,
        longest_pause: float = 1.0,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._timeout = timeout
        self._policy = RetryPolicy() if timeout is None else RetryPolicy(total=timeout)
        self._on_wait = on_wait
        self._channel = grpc.secure_channel(
            address,
            _channel_credentials(credentials),
            options=[*_CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", int(longest_pause * 1000))],
        )
        self.stubs = Stubs(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def credentials(self) -> Credentials | TokenCredentials | ServerRoots:
        """Of the caller."""
        return self._credentials

    def close(self) -> None:
        """Closes the connection; calls that still run fail."""
        self._channel.close()

    @property
    def trust_bundle(self) -> bytes:
        """PEM of the roots that vouch for the server."""
        return self._credentials.trust_bundle

    def call(self, method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]", request: RequestT) -> ResponseT:
        """Calls a method of `stubs` and returns its answer.

        A request that has a `request_id` gets one when it has none, so that a try whose answer was lost is not done
        twice. Raises CallFailed; its metadata has the `request_id`, with which a person may repeat the call.
        """
        message, request_id = _with_request_id(request)
        repeatable = bool(request_id) or message.DESCRIPTOR.name.startswith(_READS)
        credentials = self._credentials
        not_after = credentials.not_after if isinstance(credentials, Credentials) else None
        began = time.monotonic()
        tries = 0
        while True:
            tries += 1
            elapsed = time.monotonic() - began
            limit = CALL_TIMEOUT if self._timeout is None else max(self._timeout - elapsed, 0.001)
            try:
                return method(message, timeout=limit, metadata=_metadata(credentials))
            except grpc.RpcError as error:
                failure = explain(
                    decode(error),
                    address=self.address,
                    limit=limit,
                    not_after=not_after,
                    listener=_listener(credentials),
                )
            if request_id:
                failure = failure.with_metadata(request_id=request_id)
            delay = None
            if failure.reason != Reason.CREDENTIAL_INVALID:
                delay = delay_before_retry(
                    failure,
                    self._policy,
                    tries=tries,
                    elapsed=time.monotonic() - began,
                    repeatable=repeatable,
                    jitter=random.random(),  # noqa: S311  # It spreads callers in time; nobody gains by guessing it.
                )
            if delay is None:
                raise failure
            if self._on_wait is not None:
                self._on_wait(Waiting(failure, delay))
            time.sleep(delay)

    def call_once(
        self, method: "grpc.UnaryUnaryMultiCallable[RequestT, ResponseT]", request: RequestT, *, timeout: float
    ) -> ResponseT:
        """Calls a method once, for at most `timeout` seconds, and returns its answer; raises CallFailed."""
        try:
            return method(request, timeout=timeout, metadata=_metadata(self._credentials))
        except grpc.RpcError as error:
            raise decode(error) from error

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[RequestT, ResponseT]", request: RequestT
    ) -> Generator[ResponseT, None, None]:
        """Yields what a method streams, until the server ends it; raises CallFailed, and never tries again.

        Closing it ends the call. A server that cannot be reached is one that does not answer, and raises too.
        """
        credentials = self._credentials
        call = method(request, metadata=_metadata(credentials))
        try:
            yield from call
        except grpc.RpcError as error:
            raise explain(
                decode(error),
                address=self.address,
                limit=CALL_TIMEOUT,
                not_after=credentials.not_after if isinstance(credentials, Credentials) else None,
                listener=_listener(credentials),
            ) from error
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # The stubs leave it untyped.

    def pages(
        self, method: "grpc.UnaryUnaryMultiCallable[PagedRequestT, PagedResponseT]", request: PagedRequestT
    ) -> Iterator[PagedResponseT]:
        """Yields the pages of a list, from the one that `request` names to the last; each is a call of its own."""
        while True:
            page = self.call(method, request)  # type: ignore[type-var]  # Every paged request is a message.
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _metadata(credentials: Credentials | TokenCredentials | ServerRoots) -> tuple[tuple[str, str], ...] | None:
    return credentials.metadata() if isinstance(credentials, TokenCredentials) else None


def _listener(credentials: Credentials | TokenCredentials | ServerRoots) -> str:
    """Returns what certd.toml calls the address that takes such credentials."""
    if isinstance(credentials, Credentials):
        return "listen.grpc"
    return "listen.bearer" if isinstance(credentials, TokenCredentials) else "listen.enrollment"


def _channel_credentials(credentials: Credentials | TokenCredentials | ServerRoots) -> grpc.ChannelCredentials:
    if not isinstance(credentials, Credentials):
        return grpc.ssl_channel_credentials(root_certificates=credentials.trust_bundle)
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.trust_bundle,
        private_key=credentials.private_key,
        certificate_chain=credentials.certificate_chain,
    )


def _with_request_id(request: RequestT) -> tuple[RequestT, str]:
    """Returns the request with its `request_id`, and that; the request itself and an empty id when it has no such."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name:
        return request, ""
    message = type(request)()
    message.CopyFrom(request)
    request_id = str(getattr(message, "request_id")) or str(uuid.uuid4())  # noqa: B009  # Messages have no common type with it.
    setattr(message, "request_id", request_id)  # noqa: B010  # As above.
    return message, request_id
