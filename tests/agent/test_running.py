"""An agent beside a daemon, both as processes: enrolled, served, renewed; killed, and back; revoked."""

import itertools
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from certd.agent.notify import notify
from certd.token import journal_records
from tests.agent.running import Administrator, Place, served
from tests.daemon import Installation, initialise, running
from tests.waiting import eventually


@pytest.fixture(scope="module")
def administrator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Administrator]:
    with running(initialise(tmp_path_factory.mktemp("daemon"))) as started, Administrator(started) as made:
        made.make_authority()
        yield made


def enrolled(administrator: Administrator, folder: Path, identity: str) -> Place:
    place = Place(administrator, folder, identity)
    place.write_config()
    place.enroll()
    return place


def leases(installation: Installation) -> list[journal_records.JournalRecord]:
    """Returns what the token process recorded when it gave keys to consumers."""
    root = installation.data / "token-journal"
    segments = [path for folder in journal_records.journals(root) for path in journal_records.segments(folder)]
    scans = [journal_records.Scan(path) for path in segments]
    return [record for scan in scans for record in journal_records.records(scan) if record.kind == "lease"]


def test_from_a_code_to_a_renewed_certificate(administrator: Administrator, tmp_path: Path) -> None:
    place = Place(administrator, tmp_path, "first")
    reloads = tmp_path / "reloads"
    place.write_config()
    # Who was invited can be associated before it has come.
    administrator.code("first")
    managed = administrator.request("walk", "first")
    place.enroll()
    key = place.state / "identity.key"
    assert (key.stat().st_mode & 0o777, place.state.stat().st_mode & 0o777) == (0o600, 0o700)
    directory = place.add(managed, f'reload = ["sh", "-c", "echo $CERTD_NAME $CERTD_VERSION >> {reloads}"]')
    assert place.program("check-config").stdout == "ok\n"
    with place.running() as agent:
        eventually(lambda: served(directory) == administrator.current(managed))
        eventually(lambda: administrator.deployment(managed, "first") == ("SERVING", 1, ""))
        # The stream tells of it; nobody would ask for minutes.
        administrator.renew(managed)
        eventually(lambda: administrator.deployment(managed, "first") == ("SERVING", 2, ""))
        assert served(directory) == administrator.current(managed)
        assert reloads.read_text() == "walk 1\nwalk 2\n"
        shown = eventually(lambda: found if (found := place.status())["certificates"][0]["version"] == 2 else None)
        assert (shown["running"], shown["connected"], shown["problem"]) == (True, True, "")
        assert shown["identity"].endswith("/tenants/default/identities/first")
        (certificate,) = shown["certificates"]
        assert (certificate["state"], certificate["version"], certificate["error"]) == ("SERVING", 2, "")
        card = place.program("status")
        assert json.loads(place.program("status", "-o", "json").stdout) == shown
        assert card.returncode == 0
        assert "SERVING" in card.stdout
        # Another one with the same state would take its steps twice.
        second = place.program("run")
        assert second.returncode == 1
        assert "another agent runs" in second.stderr
        assert agent.process.poll() is None
    stopped = place.program("status")
    assert stopped.returncode == 1
    assert "does not run" in stopped.stdout
    assert "PRIVATE KEY" not in place.told()


def test_what_the_program_refuses_is_taken_back_and_told(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "refusing")
    managed = administrator.request("refused", "refusing")
    bad = tmp_path / "bad"
    directory = place.add(managed, f'reload = ["sh", "-c", "test ! -e {bad} || {{ echo no good; exit 7; }}"]')
    with place.running() as agent:
        eventually(lambda: administrator.deployment(managed, "refusing")[0] == "SERVING")
        before = served(directory)
        bad.touch()
        administrator.renew(managed)
        state, version, message = eventually(
            lambda: found if (found := administrator.deployment(managed, "refusing"))[0] == "FAILED" else None
        )
        assert (state, version) == ("FAILED", 2)
        assert "exit code 7: no good" in message
        assert served(directory) == before
        shown = eventually(lambda: found if (found := place.status()["certificates"][0])["retry_time"] else None)
        assert (shown["state"], shown["version"], shown["current_version"]) == ("FAILED", 1, 2)
        # Who has mended it says so.
        bad.unlink()
        agent.reload()
        eventually(lambda: administrator.deployment(managed, "refusing")[:2] == ("SERVING", 2))
        assert served(directory) == administrator.current(managed)


def test_an_agent_that_is_killed_at_any_step_is_back_where_it_was(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "dying")
    managed = administrator.request("deadly", "dying")
    directory = place.add(managed, 'reload = ["true"]')
    steps = ("leased", "flip.2.current", "told")
    for number, step in enumerate(steps, 1):
        with place.running(deadly=step, ready=False) as agent:
            assert agent.process.wait(30) == -signal.SIGKILL, place.told()[-2000:]
        with place.running():
            eventually(lambda number=number: administrator.deployment(managed, "dying")[:2] == ("SERVING", number))  # type: ignore[misc]  # mypy infers no type for a default.
            assert served(directory) == administrator.current(managed)
        administrator.renew(managed)
    assert sorted(each.name for each in (directory / "versions").iterdir()) == ["2", "3"]


def test_while_the_daemon_is_away_what_is_there_is_served_and_mended(tmp_path: Path) -> None:
    installation = initialise(tmp_path / "server")
    (tmp_path / "machine").mkdir()
    with running(installation) as daemon, Administrator(daemon) as administrator:
        administrator.make_authority()
        place = enrolled(administrator, tmp_path / "machine", "patient")
        managed = administrator.request("kept", "patient")
        directory = place.add(managed)
        with place.running():
            eventually(lambda: administrator.deployment(managed, "patient")[0] == "SERVING")
        before = served(directory)
        assert before
        daemon.kill()
    (directory / "current" / "key.pem").unlink()
    with place.running() as agent:
        # Mended before it says READY, from what is kept.
        assert served(directory) == before
        assert agent.ready()["serving"] == {managed: 1}
        eventually(lambda: "UNAVAILABLE" in place.status()["problem"])
        # It has other ports now.
        with running(installation) as daemon, Administrator(daemon) as administrator:
            place.administrator = administrator
            place.write_config()
            agent.reload()
            administrator.renew(managed)
            eventually(lambda: administrator.deployment(managed, "patient")[:2] == ("SERVING", 2))
            assert served(directory) == administrator.current(managed)
            # One for each version, whatever was killed and harmed meanwhile.
            assert len(leases(installation)) == 2
            daemon.kill()
            eventually(lambda: not place.status()["connected"])
            assert served(directory)
            assert agent.process.poll() is None


def test_an_identity_is_renewed_in_time_with_a_new_key(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "renewing")
    managed = administrator.request("lasting", "renewing")
    directory = place.add(managed)
    certificate, key = place.state / "identity.pem", place.state / "identity.key"
    before = certificate.read_bytes(), key.read_bytes()
    life = x509.load_pem_x509_certificates(before[0])[0]
    hours = (life.not_valid_after_utc - life.not_valid_before_utc).total_seconds() / 3600
    with place.running(hours=hours * 0.5):
        eventually(lambda: served(directory) == administrator.current(managed))
        assert (certificate.read_bytes(), key.read_bytes()) == before
    with place.running(hours=hours * 0.7):
        eventually(lambda: "the identity is renewed" in place.told())
        assert certificate.read_bytes() != before[0]
        assert key.read_bytes() != before[1]
        assert key.stat().st_mode & 0o777 == 0o600
        # By the new one it goes on.
        administrator.renew(managed)
        eventually(lambda: administrator.deployment(managed, "renewing")[:2] == ("SERVING", 2))
    assert not (place.state / "identity.key.next").exists()


def test_a_revoked_identity_keeps_what_is_there_and_says_what_to_do(
    administrator: Administrator, tmp_path: Path
) -> None:
    place = enrolled(administrator, tmp_path, "outcast")
    managed = administrator.request("held", "outcast")
    directory = place.add(managed)
    with place.running():
        eventually(lambda: administrator.deployment(managed, "outcast")[0] == "SERVING")
        before = served(directory)
        administrator.revoke("outcast")
        administrator.renew(managed)
        problem = eventually(lambda: found if "does not take" in (found := place.status()["problem"]) else None)
        assert "certd-agent enroll" in problem
        assert "CREDENTIAL_REVOKED" in problem
        assert served(directory) == before
        # Said once, and nothing is asked for again soon.
        assert place.told().count("does not take this identity") == 1


def test_a_machine_that_enrolls_while_its_agent_waits(administrator: Administrator, tmp_path: Path) -> None:
    place = Place(administrator, tmp_path, "late")
    managed = administrator.request("waiting")
    directory = place.add(managed)
    with place.running():
        assert "enroll" in place.status()["problem"]
        place.enroll()
        administrator.associate(managed, "late")
        eventually(lambda: served(directory) == administrator.current(managed))
        eventually(lambda: not place.status()["problem"])
    code = administrator.code("late").encode()
    again = place.program("enroll", stdin=code)
    assert again.returncode == 1
    assert "--replace" in again.stderr
    ended = place.program("enroll", "--replace", stdin=code)
    assert ended.returncode == 0, ended.stderr
    assert "enrolled as spiffe://certd.internal/tenants/default/identities/late" in ended.stdout


def test_two_agents_of_one_consumer_both_serve(administrator: Administrator, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    places = [enrolled(administrator, folders[0], "twin"), Place(administrator, folders[1], "twin")]
    places[1].write_config()
    places[1].enroll(grant=False)
    managed = administrator.request("shared", "twin")
    directories = [place.add(managed) for place in places]
    with places[0].running(), places[1].running():
        for version in (1, 2):
            eventually(lambda: all(served(each) == administrator.current(managed) for each in directories))
            eventually(lambda version=version: administrator.deployment(managed, "twin")[:2] == ("SERVING", version))  # type: ignore[misc]  # mypy infers no type for a default.
            if version == 1:
                administrator.renew(managed)


def test_a_probe_shows_what_a_real_server_serves(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "probed")
    managed = administrator.request("probe", "probed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    directory = tmp_path / managed
    # openssl reads its files at its start alone, so that a reload is a restart.
    script = tmp_path / "restart"
    script.write_text(
        f"""#!/bin/sh
[ ! -e {tmp_path}/pid ] || kill $(cat {tmp_path}/pid)
[ ! -e {tmp_path}/broken ] || exit 0
cd {directory}/current
openssl s_server -accept 127.0.0.1:{port} -www -cert fullchain.pem -key key.pem >&- 2>&- <&- &
echo $! > {tmp_path}/pid
"""
    )
    script.chmod(0o755)
    place.add(managed, f'reload = ["{script}"]', f'probe = "127.0.0.1:{port}"', "probe_timeout = 3")
    try:
        with place.running():
            eventually(lambda: administrator.deployment(managed, "probed")[:2] == ("SERVING", 1))
            administrator.renew(managed)
            eventually(lambda: administrator.deployment(managed, "probed")[:2] == ("SERVING", 2))
            shown = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", managed],
                input=b"",
                capture_output=True,
                timeout=30,
                check=True,
            )
            assert administrator.current(managed) in shown.stdout
            before = served(directory)
            (tmp_path / "broken").touch()
            administrator.renew(managed)
            eventually(lambda: administrator.deployment(managed, "probed")[:2] == ("FAILED", 3))
            assert "shows no certificate" in administrator.deployment(managed, "probed")[2]
            assert served(directory) == before
    finally:
        pid = int((tmp_path / "pid").read_text())
        if Path(f"/proc/{pid}/cmdline").exists() and b"s_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)


def test_an_association_that_is_not_there_is_told_and_found_later(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "early")
    managed = administrator.request("later")
    place.lines.append("poll_interval = 1")
    directory = place.add(managed)
    with place.running():
        eventually(lambda: "ASSOCIATION_NOT_FOUND" in json.dumps(place.status()))
        assert served(directory) == b""
        administrator.associate(managed, "early")
        eventually(lambda: served(directory) == administrator.current(managed))


def test_a_program_is_reloaded_for_the_newest_of_many_versions_and_rests_between(
    administrator: Administrator, tmp_path: Path
) -> None:
    place = enrolled(administrator, tmp_path, "restless")
    managed = administrator.request("flap", "restless")
    reloads = tmp_path / "reloads"
    line = f"date +%s.%N >> {reloads}.times; echo $CERTD_VERSION >> {reloads}"
    directory = place.add(managed, f'reload = ["sh", "-c", "{line}"]', "reload_interval = 3")
    with place.running():
        eventually(lambda: administrator.deployment(managed, "restless")[:2] == ("SERVING", 1))
        for _ in range(4):
            administrator.renew(managed)
        eventually(lambda: administrator.deployment(managed, "restless")[:2] == ("SERVING", 5))
        assert served(directory) == administrator.current(managed)
    times = [float(each) for each in (tmp_path / "reloads.times").read_text().split()]
    versions = [int(each) for each in reloads.read_text().split()]
    assert (versions[0], versions[-1]) == (1, 5)
    assert versions == sorted(set(versions))
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(times))


def test_the_end_comes_quickly_though_a_program_takes_long(administrator: Administrator, tmp_path: Path) -> None:
    place = enrolled(administrator, tmp_path, "hasty")
    managed = administrator.request("slow", "hasty")
    begun = tmp_path / "begun"
    place.add(managed, f'reload = ["sh", "-c", ": > {begun}; exec sleep 600"]', "reload_timeout = 600")
    with place.running():
        eventually(begun.exists)
    assert administrator.deployment(managed, "hasty")[0] == "STATE_UNSPECIFIED"
    place.config.write_text(place.config.read_text().replace("exec sleep 600", "true"))
    with place.running() as agent:
        # What was interrupted is done before the agent says READY.
        assert agent.ready()["serving"] == {managed: 1}
        eventually(lambda: administrator.deployment(managed, "hasty")[0] == "SERVING")


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
    # Nobody listens any more.
    notify("STOPPING=1")
