"""What one stream of Envoy asked for and took: the rules of discovery, without the wire.

One secret is offered at a time, so that an answer is about one. What a stream took or refused is not offered to it
again. After a refusal it is not known what the other side still has (Envoy takes the one that it refused for the one
that it has, when it comes again), so that whatever comes next is offered, also what it had before.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from certd.envoy.secrets_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
MOST_NAMES: Final = 2048
"""In one request."""
_LONGEST_TEXT: Final = 512
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/=]{40,}")
"""What may be a line of a private key."""


class NotUnderstood(Exception):  # noqa: N818  # What the other side did, not what went wrong here.
    """A request is not one that Envoy would make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A secret as it is offered."""

    name: str
    content: str
    """Names what it holds."""
    version: str
    """That, and more when the same is offered as another one."""
    value: bytes = field(repr=False)
    """Serialised Secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What was sent and is not answered yet."""

    nonce: str
    secret: Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an offer."""

    secret: Published
    refusal: str | None
    """Why it was refused; None: it was taken."""


class Subscription:
    """The state of one stream, in one form of the two.

    Args:
        known: names of all secrets that there can be. Who asks for others waits for ever.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._names: dict[str, None] = {}
        """In the order in which they were asked for."""
        self._taken: dict[str, str] = {}
        """Version of each name that the other side has."""
        self._refused: dict[str, Answer] = {}
        self._open: Offer | None = None
        self._offers = 0
        self._begun = False
        self.node = "an Envoy"
        """Who asks, for people."""
        self.unknown: dict[str, None] = {}
        """Names that it asks for and that there cannot be; some of them, when there are many."""

    @property
    def begun(self) -> bool:
        """Whether a request came."""
        return self._begun

    def offer(self, published: Mapping[str, Published]) -> Offer | None:
        """Returns what is to be sent now, and waits for its answer from then on; None when there is nothing."""
        if self._open is not None:
            return None
        for name in self._names:
            secret = published.get(name)
            if secret is not None and self.answer(secret) is None:
                self._offers += 1
                self._open = Offer(nonce=str(self._offers), secret=secret)
                return self._open
        return None

    def asks_for(self, name: str) -> bool:
        """Returns whether the other side wants to have a secret."""
        return name in self._names

    def answer(self, secret: Published) -> Answer | None:
        """Returns what became of a secret here; None while that is not known."""
        if self._taken.get(secret.name) == secret.version:
            return Answer(secret=secret, refusal=None)
        refused = self._refused.get(secret.name)
        return refused if refused is not None and refused.secret.version == secret.version else None

    def take(self, request: DiscoveryRequest) -> Answer | None:
        """Takes a request of the State-of-the-World form, and returns the answer that came with it.

        Raises NotUnderstood.
        """
        first = self._begin(request.type_url, request.node.id, request.node.cluster)
        if not first and request.response_nonce != (str(self._offers) if self._offers else ""):
            # It was sent before what we sent last came in; one about that follows, with the names of then.
            return None
        _check_names(request.resource_names)
        asked = self._only_known(request.resource_names)
        self._forget(name for name in list(self._names) if name not in asked)
        self._names = asked
        return self._settle(request.response_nonce, _refusal(request))

    def take_delta(self, request: DeltaDiscoveryRequest) -> Answer | None:
        """Takes a request of the Delta form, and returns the answer that came with it.

        Raises NotUnderstood.
        """
        first = self._begin(request.type_url, request.node.id, request.node.cluster)
        _check_names(request.resource_names_subscribe)
        _check_names(request.resource_names_unsubscribe)
        answer = self._settle(request.response_nonce, _refusal(request)) if request.response_nonce else None
        self._forget(request.resource_names_unsubscribe)
        asked = self._only_known(request.resource_names_subscribe)
        # Who asks again for what it has is sent it again.
        self._forget(asked)
        self._names |= asked
        if first:
            has = request.initial_resource_versions
            self._taken |= {name: has[name] for name in asked if name in has}
        return answer

    def _begin(self, type_url: str, node: str, cluster: str) -> bool:
        """Returns whether this is the first request."""
        if type_url not in {"", TYPE_URL}:
            raise NotUnderstood(f"only secrets are to be had here, {TYPE_URL}")
        if self._begun:
            return False
        self._begun = True
        if node or cluster:
            self.node = " of cluster ".join(printable(each, longest=128) for each in (node, cluster) if each)
        return True

    def _only_known(self, names: Iterable[str]) -> dict[str, None]:
        asked = dict.fromkeys(names)
        for name in asked.keys() - self._known:
            if len(self.unknown) < MOST_NAMES:
                self.unknown[printable(name, longest=128)] = None
        return {name: None for name in asked if name in self._known}

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._names.pop(name, None)
            self._taken.pop(name, None)
            self._refused.pop(name, None)

    def _settle(self, nonce: str, refusal: str | None) -> Answer | None:
        if self._open is None or nonce != self._open.nonce:
            return None
        answer = Answer(secret=self._open.secret, refusal=refusal)
        self._open = None
        name = answer.secret.name
        if name in self._names:
            if refusal is None:
                self._taken[name] = answer.secret.version
                self._refused.pop(name, None)
            else:
                self._taken.pop(name, None)
                self._refused[name] = answer
        return answer


def printable(text: str, *, longest: int = _LONGEST_TEXT) -> str:
    """Returns a stranger's text as a line for people."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text[: 4 * longest]).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _check_names(names: Collection[str]) -> None:
    if len(names) > MOST_NAMES:
        raise NotUnderstood(f"a request names at most {MOST_NAMES} secrets")


def _refusal(request: DiscoveryRequest | DeltaDiscoveryRequest) -> str | None:
    if not request.HasField("error_detail"):
        return None
    return _ENCODED.sub("…", printable(request.error_detail.message)) or "it gave no reason"
