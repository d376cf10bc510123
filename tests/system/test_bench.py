"""The measurements run: short, and without looking at the figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


def bench(*arguments: str | Path, name: str = "issue") -> "subprocess.CompletedProcess[str]":
    """What scripts/bench runs once everything is installed."""
    return subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("client", ["go", "python"])
def test_bench_issue_measures_and_finds_all_it_issued_in_the_books(client: str, tmp_path: Path) -> None:
    report_file = tmp_path / "issue.json"
    ended = bench(
        *("--seconds", "1", "--warm-up", "0.2", "--workloads", "unary:1,unary:4,batch:1,managed:2"),
        *("--client", client, "--repetitions", "2"),
        *("--json", report_file, "--folder", tmp_path),
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(report_file.read_text())
    assert [(one["kind"], one["callers"]) for one in report["workloads"]] == [
        ("unary", 1),
        ("unary", 4),
        ("batch", 1),
        ("managed", 2),
    ]
    for level in report["workloads"]:
        assert level["certificates_per_second"] > 0
        assert 0 < level["latency_ms"]["p50"] <= level["latency_ms"]["p95"] <= level["latency_ms"]["p99"]
        assert level["cpu_ms_per_certificate"]["daemon"] > 0
        assert level["raw_token_share"] > 0
        assert len(level["repetitions"]) == 2
    books = report["books"]
    assert books["answered"] + books["managed"] == books["listed"]
    assert books["answered"] > 0
    assert books["managed"] > 0
    assert report["workloads"][-1]["issued_per_second"] > 0
    assert (books["missing"], books["twice"], report["retries"], report["failures"]) == (0, 0, 0, [])
    raw_token = f"{report['raw_token_signatures_per_second']['median']:,.0f} signatures a second"
    assert raw_token in ended.stdout
    assert f"{books['answered']:,} certificates were answered" in ended.stdout
    # The daemon and its data are gone.
    assert list(tmp_path.iterdir()) == [report_file]


def test_bench_issue_names_a_wrong_argument() -> None:
    ended = bench("--workloads", "unary:0")
    assert ended.returncode == 2
    assert "must be 1 or more" in ended.stderr
    ended = bench("--workloads", "nothing:1")
    assert ended.returncode == 2
    assert "is not one of" in ended.stderr


def test_bench_tenants_compares_every_method(tmp_path: Path) -> None:
    report_file = tmp_path / "tenants.json"
    ended = bench("--rounds", "4", "--json", report_file, name="tenants")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(report_file.read_text())
    methods = {method["method"] for method in report["methods"]}
    assert {"GetManagedCertificate", "IssueCertificate", "DeleteGrant"} <= methods
    assert all(method["exists_us"] > 0 < method["missing_us"] for method in report["methods"])
    assert f"{len(methods)} methods, 4 rounds" in ended.stdout
    assert "0 tell existing from missing" in ended.stdout


def test_bench_decade_lives_through_days_of_a_few_certificates(tmp_path: Path) -> None:
    """Of so few no hour is like another; the long run looks at that."""
    report_file = tmp_path / "decade.json"
    ended = bench("--years", "0.02", "--scale", "0.02", "--json", report_file, "--folder", tmp_path, name="decade")
    assert ended.returncode in {0, 1}, ended.stderr
    report = json.loads(report_file.read_text())
    assert report["certificates"] == 14 + 3 + 2 + 1 + 1
    # Those of a week are renewed within it.
    assert report["renewals"] >= 14
    assert (report["expired_or_held_back"], report["outside_their_window"]) == ([], [])
    assert list(tmp_path.iterdir()) == [report_file]


def test_bench_watch_tells_every_watcher_of_every_renewal(tmp_path: Path) -> None:
    report_file = tmp_path / "watch.json"
    ended = bench(
        *("--watchers", "20", "--per-connection", "5", "--renewals", "2", "--seconds", "0.4"),
        *("--json", report_file, "--folder", tmp_path),
        name="watch",
    )
    assert ended.returncode in {0, 1}, ended.stderr
    report = json.loads(report_file.read_text())
    assert (report["missed"], report["failures"]) == (0, [])
    assert 0 < report["delay_ms"]["p50"] <= report["delay_ms"]["p99"]
    assert report["quiet_call_ms"]["p50"] > 0 < report["busy_call_ms"]["p50"]
    assert "20 watchers take" in ended.stdout
    assert list(tmp_path.iterdir()) == [report_file]
