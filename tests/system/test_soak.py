"""The soak, short: four agents, and a death each of daemon and token process."""

import json
from pathlib import Path

from tests.system.test_bench import bench


def test_renewals_reach_the_agents_whatever_dies(tmp_path: Path) -> None:
    report_file = tmp_path / "soak.json"
    ended = bench(
        *("--agents", "4", "--certificates", "3", "--minutes", "0.3", "--kills", "1", "--seed", "3"),
        # Renewed after 4 to 27 seconds: soon, and long before the end, for a busy machine starts a daemon slowly.
        *("--lifetime", "40", "--remaining-percent", "80", "--json", report_file, "--folder", tmp_path),
        name="soak",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads(report_file.read_text())
    assert report["wrong"] == []
    # One that was issued at the very end may have come to nobody; what did not come in time is wrong.
    assert report["versions"] > 0
    assert report["delays"] > 0
    assert 0 < report["delay_seconds"]["p50"] <= report["delay_seconds"]["p99"] <= report["delay_seconds"]["max"]
    assert report["least_left_seconds"] > 0
    assert sorted(death["victim"] for death in report["deaths"]) == ["daemon", "token process"]
    assert "all held" in ended.stdout
    # The daemon, the agents and their data are gone.
    assert list(tmp_path.iterdir()) == [report_file]
