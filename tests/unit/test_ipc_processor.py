"""The threads of a daemon share a processor, and its children do not; nobody interrupts. In processes of their own."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, subprocess, sys, threading
from certd.ipc.processor import keep_on_one_processor, on_any_processor

ASK = "import os; print(sorted(os.sched_getaffinity(0)))"

def child():
    return subprocess.run([sys.executable, "-c", ASK], check=True, capture_output=True, text=True).stdout.strip()

found, woken = [], threading.Event()
def early():
    woken.wait(20)
    found.append(os.sched_getaffinity(0))

allowed = os.sched_getaffinity(0)
before = threading.Thread(target=early)
before.start()
chosen = keep_on_one_processor()
woken.set()
before.join()
after = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
after.start()
after.join()
assert chosen in allowed, chosen
assert os.sched_getaffinity(0) == {chosen}
assert found == [{chosen}, {chosen}], found
assert child() == str([chosen])
with on_any_processor():
    assert child() == str(sorted(allowed))
assert os.sched_getaffinity(0) == {chosen}
print("kept")
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)
def test_threads_keep_to_one_processor_and_children_do_not() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == "kept", ended.stderr


_POLITE = """
import os, threading
from certd.ipc.processor import interrupt_nobody

found, woken = [], threading.Event()
def early():
    woken.wait(20)
    found.append(os.sched_getscheduler(0))

before = threading.Thread(target=early)
before.start()
interrupt_nobody()
woken.set()
before.join()
after = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
after.start()
after.join()
print(os.sched_getscheduler(0), *found)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
@pytest.mark.parametrize(("before", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_threads_interrupt_nobody_unless_another_policy_was_chosen(before: str, after: str) -> None:
    program = f"import os\nos.sched_setscheduler(0, os.{before}, os.sched_param(0))\n{_POLITE}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.split() == [str(getattr(os, after))] * 3, ended.stderr
