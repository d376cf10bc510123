"""What is read from the store and kept, until the configuration changes."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from certd.store.store import Store, Transaction

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOST = 4096


@dataclass(frozen=True, slots=True)
class _Kept(Generic[K, V]):
    """What was read at one version of the configuration."""

    version: int
    values: dict[K, V] = field(default_factory=dict)


class Remembered(Generic[K, V]):
    """Values by key, for any number of threads.

    Every transaction that changes what one of these reads says so (`Transaction.configuration_changed`); then all is
    read again: at once after a change by this daemon, within a second after one by another.

    Args:
        store: where they are read.
        name: of the transaction that reads one.
        load: reads one; what it raises is raised to who asked, and not kept.
    """

    def __init__(self, store: Store, name: str, load: Callable[[Transaction, K], V]) -> None:
        self._store = store
        self._name = name
        self._load = load
        self._kept: _Kept[K, V] = _Kept(0)

    def get(self, key: K) -> V:
        """Returns the value of a key."""
        # The version is asked for first: what is read later may be newer than it, and is read once more then.
        version = self._store.configuration_version
        kept = self._kept
        if kept.version != version or len(kept.values) > _MOST:
            kept = self._kept = _Kept(version)
        try:
            return kept.values[key]
        except KeyError:
            with self._store.read(self._name) as tx:
                value = self._load(tx, key)
            kept.values[key] = value
            return value
