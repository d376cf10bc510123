"""A token process whose module fails on demand.

A file names the exception that the next call to the module raises, or holds `bug` or `wrong signature`.

faulty_token.py FAULT_FILE  then the arguments of certd.token
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Never

import pkcs11

from certd.pki.key_spec import SignatureAlgorithm
from certd.token.__main__ import main
from certd.token.module import Module
from certd.token.settings import TokenSettings


class FaultyModule(Module):
    """The real module, but for what the fault file says."""

    def __init__(self, settings: TokenSettings, fault: Path) -> None:
        super().__init__(settings)
        self._fault = fault

    def sign(self, key_id: bytes, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
        if self._fault.exists() and self._fault.read_text() == "wrong signature":
            self._fault.unlink()
            return super().sign(key_id, algorithm, data + b"something else")
        return super().sign(key_id, algorithm, data)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        with super()._speaking():
            if self.is_open and self._fault.exists() and self._fault.read_text() != "wrong signature":
                self._raise()
            yield

    def _raise(self) -> Never:
        name, _, message = self._fault.read_text().partition(" ")
        self._fault.unlink()
        if name == "bug":
            raise ZeroDivisionError("a bug with a secret in it")
        raise getattr(pkcs11, name)(message)


if __name__ == "__main__":
    fault_file = Path(sys.argv.pop(1))
    sys.exit(main(lambda settings: FaultyModule(settings, fault_file)))
