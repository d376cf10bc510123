"""What revocations cost among very many certificates: one more, the CRLs, OCSP answers, the start of the daemon.

One authority has the certificates; of two copies ten are revoked in one and a tenth in the other, then all. Exit 1 when
one more revocation or the start takes more than half as long again with a tenth revoked as it does with ten, by the
median of rounds in turns, or a CRL does not have what it should.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certd import log
from tests.bench.status.books import PARTITIONS, Books, copied, make_books, revoke_rows

_MOST = 1.5
_FEW = 10
_ROUNDS = 5
_COSTS = ("revocation_milliseconds", "start_seconds")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns 1 when something takes too long."""
    options = _parser().parse_args(arguments)
    log.configure(level="error", style="text")
    with tempfile.TemporaryDirectory(prefix="certd-revocation-", dir=options.folder) as folder:
        report = _measure(Path(folder), options)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 1 if report["too_slow"] or report["wrong"] else 0


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    many = make_books(folder / "many", certificates=options.certificates)
    few = copied(many, folder / "few")
    revoked = {"few": _FEW, "many": options.certificates // 10}
    revoke_rows(few, revoked["few"])
    revoke_rows(many, revoked["many"])
    # In turns, for the pace of a machine changes.
    rounds = [
        (
            _costs(few, first=revoked["few"] + done + 1, options=options),
            _costs(many, first=revoked["many"] + done + 1, options=options),
        )
        for done in range(0, _ROUNDS * options.revocations, options.revocations)
    ]
    report: dict[str, Any] = {"bench": "revocation", "certificates": options.certificates, "wrong": []}
    for name, books, costs in zip(("few", "many"), (few, many), zip(*rounds, strict=True), strict=True):
        report[name] = {figure: statistics.median(one[figure] for one in costs) for figure in _COSTS}
        report[name] |= _lists(books, revoked[name] + _ROUNDS * options.revocations, name, report["wrong"])
    everything = options.certificates - options.revocations
    revoke_rows(many, everything)
    report["all"] = _costs(many, first=everything + 1, options=options)
    report["all"] |= _lists(many, options.certificates, "all", report["wrong"])
    report["ocsp"] = many.run(
        "answers",
        certificates=min(options.certificates, 10_000),
        signed=min(options.certificates, 10_000),
        clients=32,
        seconds=options.seconds,
    )
    report["wrong"] += [f"ocsp: {name}" for name, found in report["ocsp"].items() if found.get("wrong")]
    report["ratios"] = {
        figure: round(statistics.median(with_many[figure] / with_few[figure] for with_few, with_many in rounds), 2)
        for figure in _COSTS
    }
    report["too_slow"] = [figure for figure, ratio in report["ratios"].items() if ratio > _MOST]
    return report


def _costs(books: Books, *, first: int, options: argparse.Namespace) -> dict[str, Any]:
    return books.run("costs", first=first, revocations=options.revocations)


def _lists(books: Books, revoked: int, name: str, wrong: list[str]) -> dict[str, Any]:
    """Returns the figures of CRLs on which so many are, and adds to `wrong` which has other entries."""
    found = books.run("lists", partition=1)
    for which, expected in (("complete", revoked), ("partition", revoked / PARTITIONS)):
        if abs(found[which]["entries"] - expected) > (which == "partition"):
            wrong.append(f"{name}: {which}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench revocation", description=__doc__)
    parser.add_argument("--certificates", type=int, default=1_000_000, help="of the authority (1000000)")
    parser.add_argument("--revocations", type=int, default=100, help="that are measured in each round (100)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for which 32 clients ask for OCSP answers (5)")
    parser.add_argument("--folder", type=Path, help="for the database")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
