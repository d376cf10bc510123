"""What revocations cost among very many certificates: one more, the CRLs, OCSP answers, the start of the daemon.

One authority has the certificates; first ten of them are revoked, then a tenth, then all. Exit 1 when one more
revocation or the start takes more than half as long again with a tenth revoked as it does with ten, or a CRL does not
have what it should.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certd import log
from tests.bench.status.books import PARTITIONS, Books, make_books, revoke_rows

_MOST = 1.5
_FEW = 10


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
    books = make_books(folder, certificates=options.certificates)
    report: dict[str, Any] = {"bench": "revocation", "certificates": options.certificates, "wrong": []}
    for name, revoked in (
        ("few", _FEW),
        ("many", options.certificates // 10),
        ("all", options.certificates - options.revocations),
    ):
        report[name] = _lists(books, revoked=revoked, options=options)
        for which, expected in (
            ("complete", revoked + options.revocations),
            ("partition", (revoked + options.revocations) / PARTITIONS),
        ):
            if abs(report[name][which]["entries"] - expected) > (which == "partition"):
                report["wrong"].append(f"{name}: {which}")
    report["ocsp"] = books.run(
        "answers",
        certificates=min(options.certificates, 10_000),
        signed=min(options.certificates, 10_000),
        clients=32,
        seconds=options.seconds,
    )
    report["wrong"] += [f"ocsp: {name}" for name, found in report["ocsp"].items() if found.get("wrong")]
    report["ratios"] = {
        figure: round(report["many"][figure] / report["few"][figure], 2)
        for figure in ("revocation_milliseconds", "start_seconds")
    }
    report["too_slow"] = [figure for figure, ratio in report["ratios"].items() if ratio > _MOST]
    return report


def _lists(books: Books, *, revoked: int, options: argparse.Namespace) -> dict[str, Any]:
    revoke_rows(books, revoked)
    return books.run("lists", first=revoked + 1, revocations=options.revocations, partition=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench revocation", description=__doc__)
    parser.add_argument("--certificates", type=int, default=1_000_000, help="of the authority (1000000)")
    parser.add_argument("--revocations", type=int, default=100, help="that are measured at a time (100)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for which 32 clients ask for OCSP answers (5)")
    parser.add_argument("--folder", type=Path, help="for the database")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
