"""The limit of open files grows to what is wanted, and no further than the system lets it."""

import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys
from certd.ipc.open_files import allow_open_files
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_open_files(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "told"),
    [
        (256, 512, 300, "300 300 512"),
        (256, 512, 600, "512 512 512"),
        (256, 512, 100, "100 256 512"),
    ],
    ids=["grows", "as far as it may", "never shrinks"],
)
def test_the_limit_grows_to_what_is_wanted(soft: int, hard: int, wanted: int, told: str) -> None:
    # In a process of its own: a limit that was lowered cannot be raised again.
    command = [sys.executable, "-c", _SCRIPT, str(soft), str(hard), str(wanted)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == told
