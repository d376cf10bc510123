"""Whether a tenant can tell by the time of a refusal what another one has: existing against missing, by method.

A caller who holds every role in a tenant of its own asks, for everything that needs a permission, about what another
tenant has, about what it has not, and about a tenant that does not exist. The three come in a random order, round by
round, so that what the machine does meanwhile falls upon all alike. For each method it is counted how often the answer
about what exists took longer than the one about what does not: half of the time when nothing can be told.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from certd import log
from certd.api.methods import METHODS
from certd.model.access import Permission, Role
from tests.api.every_method import METHODS_OF_SERVICES, MISSING, Resources, full_name, requests_to
from tests.api.whole_daemon import Installed, call, grant_of, whole_daemon

_OF_THE_SERVER = {"GetServerInfo", "CreateTenant", "ListTenants"}
"""Methods that are about no tenant."""
_DEVIATIONS = 5.0
"""Standard deviations from one half beyond which something can be told: once in two million methods by chance."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when some method tells existing from missing."""
    options = _parser().parse_args(arguments)
    # A line for each refusal would cost as much as the refusal.
    log.configure(level="error", style="text")
    with (
        tempfile.TemporaryDirectory(prefix="certd-bench-") as folder,
        whole_daemon(Path(folder)) as installed,
    ):
        report = _measure(installed, rounds=options.rounds, seed=options.seed)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    for method in report["methods"]:
        sys.stdout.write(
            f"{method['method']:32} exists {method['exists_us']:6,.0f} µs  missing {method['missing_us']:6,.0f} µs"
            f"  no tenant {method['no_tenant_us']:6,.0f} µs  slower when it exists {method['slower']:.1%}"
            f" ({method['deviations']:+.1f} s.d.)\n"
        )
    told = [method["method"] for method in report["methods"] if abs(method["deviations"]) > _DEVIATIONS]
    sys.stdout.write(
        f"{len(report['methods'])} methods, {options.rounds} rounds, seed {options.seed}: medians differ by"
        f" {report['median_of_differences']:.1%} as a median; the most telling is {report['most_telling']}"
        f" with {report['most_deviations']:.1f} s.d.; {len(told)} tell existing from missing {' '.join(told)}\n"
    )
    return 1 if told else 0


def _measure(installed: Installed, *, rounds: int, seed: int) -> dict[str, Any]:
    name = "neighbour"
    caller = installed.caller(name, *(grant_of(name, role, "tenants/default") for role in Role))
    other = installed.elsewhere
    asked = {
        "exists": requests_to(other),
        "missing": requests_to(_missing_in(other)),
        "no_tenant": requests_to(MISSING),
    }
    methods = [
        method
        for method in METHODS_OF_SERVICES
        if isinstance(METHODS[full_name(method)], Permission) and method.name not in _OF_THE_SERVER
    ]
    dice = random.Random(seed)  # An order, no secret.
    found = [_of_method(caller, method, asked, rounds=rounds, dice=dice) for method in methods]
    most = max(found, key=lambda method: abs(method["deviations"]))
    return {
        "rounds": rounds,
        "seed": seed,
        "methods": found,
        "median_of_differences": statistics.median(
            abs(method["exists_us"] / method["missing_us"] - 1) for method in found
        ),
        "most_telling": most["method"],
        "most_deviations": abs(most["deviations"]),
    }


def _missing_in(other: Resources) -> Resources:
    return Resources(
        tenant=other.tenant,
        authority=MISSING.authority,
        managed=MISSING.managed,
        serial=MISSING.serial,
        profile=MISSING.profile,
        identity=MISSING.identity,
        grant=MISSING.grant,
    )


def _of_method(
    caller: grpc.Channel,
    method: MethodDescriptor,
    asked: dict[str, dict[str, Message]],
    *,
    rounds: int,
    dice: random.Random,
) -> dict[str, Any]:
    times: dict[str, list[float]] = {about: [] for about in asked}
    for _ in range(rounds):
        for about in dice.sample(sorted(asked), k=len(asked)):
            times[about].append(_refusal(caller, method, asked[about][method.name]))
    slower = sum(one > other for one, other in zip(times["exists"], times["missing"], strict=True)) / rounds
    return {
        "method": method.name,
        **{f"{about}_us": statistics.median(taken) * 1e6 for about, taken in times.items()},
        "slower": slower,
        "deviations": (slower - 0.5) * 2 * math.sqrt(rounds),
    }


def _refusal(caller: grpc.Channel, method: MethodDescriptor, request: Message) -> float:
    start = time.perf_counter()
    try:
        call(caller, method, request)
    except grpc.RpcError as error:
        taken = time.perf_counter() - start
        if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        return taken
    raise AssertionError(f"{method.name} was not refused")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench tenants", description=__doc__)
    parser.add_argument("--rounds", type=int, default=400, help="rounds for each method (400)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the order")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
