"""Mutated CSRs and requests through the API: never a defect, no growth, and whatever is issued is right.

Certification requests of every kind of key with odd names, strings and extensions, bent as ASN.1 and as bytes, and
messages of every method of the authority, certificate and profile services with odd fields, at a daemon of its own.
Every answer must be an answer or a refusal with a documented reason; memory, threads and descriptors of all processes
must stay; every certificate must please certd's lints, openssl and pkilint. Then mutated requests of strangers to each
HTTP endpoint of another daemon: OCSP by POST and by GET, CRLs, certificates of authorities, what is hardly HTTP, and
the port of devices. Exit 1 names what did not hold.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzz.public import ENDPOINTS
from tests.fuzz.public_run import fuzz_of_strangers
from tests.fuzz.run import Report, fuzz

_EXAMPLES = """\
examples:
  scripts/bench fuzz                                100,000 calls
  scripts/bench fuzz --count 5000 --seed 7
  scripts/bench fuzz --pkilint 100000 --json fuzz.json
"""
_SHOWN = 40


def main(arguments: list[str]) -> int:
    """Runs it and prints what happened."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench fuzz",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=_whole, default=100_000, help="how many calls (default 100000)")
    parser.add_argument("--seed", type=int, default=None, help="makes the requests those of an earlier run; printed")
    parser.add_argument("--callers", type=_whole, default=6, help="how many call at once (default 6)")
    parser.add_argument("--pkilint", type=int, default=2000, help="how many certificates pkilint reads (default 2000)")
    parser.add_argument(
        "--public", type=_whole, default=100_000, help="requests of strangers to each endpoint (default 100000)"
    )
    parser.add_argument("--json", type=Path, default=None, help="writes the figures to this file as well")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}: {options.count:,} calls by {options.callers} callers", flush=True)
    with tempfile.TemporaryDirectory(prefix="certd-fuzz-") as folder:
        report = fuzz(
            Path(folder),
            count=options.count,
            seed=seed,
            callers=options.callers,
            sample=options.pkilint,
            say=lambda line: print(line, flush=True),
        )
    print(f"{options.public:,} requests of strangers to each of {len(ENDPOINTS)} endpoints", flush=True)
    with tempfile.TemporaryDirectory(prefix="certd-fuzz-public-") as folder:
        public = fuzz_of_strangers(
            Path(folder),
            count=options.public,
            seed=seed,
            callers=options.callers,
            say=lambda line: print(line, flush=True),
        )
    report.wrong += public.wrong
    figures = _figures(report)
    figures["requests_of_strangers"] = public.tally.calls
    figures["requests_of_strangers_per_second"] = round(public.tally.calls / public.seconds, 1)
    figures["answers_to_strangers"] = dict(sorted(public.tally.statuses.items()))
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, inner in value.items():
                print(f"  {key:60} {inner}")
        elif not isinstance(value, list):
            print(f"{name:28} {value}")
    for line in report.wrong[:_SHOWN]:
        print(f"WRONG: {line[:4000]}")
    if len(report.wrong) > _SHOWN:
        print(f"WRONG: and {len(report.wrong) - _SHOWN} more")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if report.wrong else 0


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _figures(report: Report) -> dict[str, Any]:
    tally = report.tally
    by_reason: Counter[str] = Counter()
    for key, count in tally.reasons.items():
        by_reason[key.rpartition(" ")[2]] += count
    slowest = sorted(tally.slowest.items(), key=lambda one: -one[1])
    return {
        "seed": report.seed,
        "calls": tally.calls,
        "calls_bent_on_purpose": tally.bent,
        "seconds": round(report.seconds, 1),
        "calls_per_second": round(tally.calls / report.seconds, 1),
        "certificates_issued": tally.issued,
        "certificates_read_by_pkilint": report.verification.linted_by_pkilint,
        "answers_by_reason": dict(by_reason.most_common()),
        "answers_by_method_and_reason": dict(sorted(tally.reasons.items())),
        "items_and_findings_by_reason": dict(tally.item_reasons.most_common()),
        "slowest_seconds": {method: round(seconds, 2) for method, seconds in slowest},
        "vitals_after_a_tenth": [asdict(one) for one in report.after_warm_up.values()],
        "vitals_at_the_end": [asdict(one) for one in report.at_the_end.values()],
        "differences_to_pkilint": dict(report.verification.explained.most_common()),
        "wrong": report.wrong,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
