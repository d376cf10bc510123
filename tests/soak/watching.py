"""Looks again and again, on a thread of its own, at what agents have in their files and at what processes take."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tests.soak.verdict import Sample, Sight

_LOOK_SECONDS: Final = 0.05
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _Watch(ABC):
    """A thread that looks."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def end(self) -> None:
        """Looks a last time, and no more; raises what made it fail."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @abstractmethod
    def look(self) -> None:
        """Looks once."""

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                self.look()
            self.look()
        except BaseException as error:  # noqa: BLE001  # Raised by `end`, in the thread that waits.
            self._failure = error


class Folders(_Watch):
    """The folders of agents: what `current` was, one version after the other.

    Args:
        directories: of the agents, by name.
    """

    def __init__(self, directories: Mapping[str, Path]) -> None:
        super().__init__(_LOOK_SECONDS)
        self.sights: dict[str, list[Sight]] = {name: [] for name in directories}
        self.wrong: list[str] = []
        self._directories = dict(directories)
        self._links: dict[str, Path] = {}

    def look(self) -> None:
        """Looks at every folder."""
        for name, directory in self._directories.items():
            link = directory / "current"
            try:
                target = link.readlink()
                # The system notes when it was renamed, more exactly than this thread looks.
                moment = link.lstat().st_ctime
            except FileNotFoundError:
                if name in self._links:
                    self.wrong.append(f"{name} had no current version")
                    del self._links[name]
                continue
            if target != self._links.get(name):
                self._links[name] = target
                self._note(name, directory / target, moment)

    def _note(self, name: str, folder: Path, moment: float) -> None:
        try:
            certificate = x509.load_pem_x509_certificates((folder / "fullchain.pem").read_bytes())[0]
            key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
        except (OSError, ValueError) as error:
            self.wrong.append(f"{name} has something else than a certificate and its key in {folder.name}: {error}")
            return
        if certificate.public_key() != key.public_key():
            self.wrong.append(f"{name} has a key in {folder.name} that does not fit the certificate")
        sight = Sight(
            time=moment,
            version=int(folder.name.partition("-")[0]),
            certificate=certificate.public_bytes(Encoding.DER),
            # The last second counts.
            not_after=certificate.not_valid_after_utc.timestamp() + 1,
        )
        self.sights[name].append(sight)


class Vitals(_Watch):
    """What processes take.

    Args:
        processes: tells at each look, by process id, the role and the name of each.
        pause: seconds between two looks.
    """

    def __init__(self, processes: Callable[[], Mapping[int, tuple[str, str]]], *, pause: float) -> None:
        super().__init__(pause)
        self.names: dict[int, tuple[str, str]] = {}
        self.samples: defaultdict[int, list[Sample]] = defaultdict(list)
        self._processes = processes

    def look(self) -> None:
        """Takes a sample of every process."""
        for pid, name in self._processes().items():
            try:
                sample = _sample(pid)
            except (FileNotFoundError, ProcessLookupError):
                # It died just now.
                continue
            # A process that has ended, and was not waited for yet, has no memory.
            if sample.mebibytes:
                self.samples[pid].append(sample)
                self.names[pid] = name


def _sample(pid: int) -> Sample:
    folder = Path(f"/proc/{pid}")
    return Sample(
        time=time.time(),
        mebibytes=int((folder / "statm").read_text().split()[1]) * _PAGE / (1 << 20),
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=sum(1 for _ in (folder / "task").iterdir()),
    )
