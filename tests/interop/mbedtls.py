"""mbedTLS as the tests ask it: by mbedtls_verify.c, for it comes with no program that verifies certificates."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.interop.hierarchy import HOST, run


def is_here() -> bool:
    """Whether there are a C compiler and the library."""
    if shutil.which("cc") is None:
        return False
    return run("cc", "-x", "c", "-fsyntax-only", "-", stdin="#include <mbedtls/x509_crt.h>\n").returncode == 0


def build(folder: Path) -> Path:
    """Compiles the program."""
    built = folder / "mbedtls-verify"
    libraries = ("-lmbedx509", "-lmbedcrypto")
    ended = run("cc", "-std=c99", "-O1", "-o", built, Path(__file__).with_name("mbedtls_verify.c"), *libraries)
    assert ended.returncode == 0, ended.stdout
    return built


def judged(
    program: Path, root: Path, above: Path, leaves: Sequence[Path], *, lists: Sequence[Path] = (), host: str = HOST
) -> list[str]:
    """Returns "good", or what mbedTLS says, of each leaf; of a file that it does not read, that alone."""
    ended = run(program, root, above, host, str(len(lists)), *lists, *leaves)
    assert ended.returncode in {0, 1}, ended.stdout
    return ended.stdout.splitlines()
