"""Writing where others can write too: nobody leads it elsewhere, and no crash leaves half of a file."""

import os
import stat
from pathlib import Path

import pytest

from certd.agent import folders
from certd.agent.config import File
from certd.agent.deployment import Deployment
from certd.agent.errors import AgentError
from tests.agent.bundles import Minter

OTHER_USER = 65_534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links of another user")


def test_own_links_are_followed_to_folders(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "near").symlink_to("deep")
    with folders.opened(tmp_path / "link" / "near" / "new", make=folders.PUBLIC) as folder:
        folders.write_new(folder, "file", b"content")
    assert (tmp_path / "real" / "deep" / "new" / "file").read_bytes() == b"content"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(AgentError, match="too many"), folders.opened(tmp_path / "a"):
        pass


@needs_root
@pytest.mark.parametrize("target", ["/etc", "elsewhere"])
def test_a_link_of_another_user_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    os.lchown(link, OTHER_USER, OTHER_USER)
    for path in (link, link / "web"):
        with pytest.raises(AgentError, match="another user"), folders.opened(path, make=folders.PUBLIC):
            pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_modes_of_new_folders_do_not_hang_on_the_mask_of_the_process(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with folders.opened(tmp_path / "a" / "b", make=folders.PUBLIC):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="file is no folder"), folders.opened(tmp_path / "file" / "x", make=0o700):
        pass


def test_a_file_is_never_written_through_what_is_there(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "key.pem").symlink_to(victim)
    with folders.opened(tmp_path) as folder:
        with pytest.raises(AgentError, match="exists"):
            folders.write_new(folder, "key.pem", b"secret")
        assert folders.read(folder, "key.pem") is None
        # A replacement takes the place of the link itself.
        folders.replace(folder, "key.pem", b"secret")
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "key.pem").read_bytes() == b"secret"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key.pem", "victim"]


def test_removing_follows_nothing(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    (keep / "deep").mkdir(parents=True)
    (keep / "deep" / "file").touch()
    gone = tmp_path / "gone"
    (gone / "deep").mkdir(parents=True)
    (gone / "deep" / "link").symlink_to(keep)
    (gone / "deep" / "file").touch()
    with folders.opened(tmp_path) as folder:
        folders.remove(folder, "gone")
        folders.remove(folder, "gone")
    assert not gone.exists()
    assert (keep / "deep" / "file").exists()


def test_a_pipe_in_the_place_of_a_file_does_not_hold_the_agent_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key.pem")
    with folders.opened(tmp_path) as folder:
        assert folders.read(folder, "key.pem") is None


@needs_root
def test_versions_that_somebody_made_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "web" / "versions").symlink_to(elsewhere)
    deployment = Deployment(tmp_path / "web", (File(path="key.pem", format="private-key", mode=0o600),))
    with pytest.raises(AgentError, match="versions is a symbolic link"):
        deployment.write(Minter().bundle())
    assert list(elsewhere.iterdir()) == []


def test_a_folder_in_the_place_of_the_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    deployment = Deployment(tmp_path, (File(path="key.pem", format="private-key", mode=0o600),))
    name = deployment.write(Minter().bundle())
    with pytest.raises(AgentError, match="no symbolic link"):
        deployment.flip(name)
    assert (tmp_path / "current").is_dir()


@needs_root
def test_files_get_owner_group_and_mode(tmp_path: Path) -> None:
    files = (
        File(path="key.pem", format="private-key", mode=0o640, group=str(OTHER_USER)),
        File(path="cert.pem", format="certificate", mode=0o444, owner=str(OTHER_USER)),
    )
    deployment = Deployment(tmp_path, files)
    bundle = Minter().bundle()
    name = deployment.write(bundle)
    key, certificate = (tmp_path / "versions" / name / each.path for each in files)
    assert (key.stat().st_uid, key.stat().st_gid, stat.S_IMODE(key.stat().st_mode)) == (0, OTHER_USER, 0o640)
    assert (certificate.stat().st_uid, stat.S_IMODE(certificate.stat().st_mode)) == (OTHER_USER, 0o444)
    assert deployment.is_intact(name, bundle)
    os.chown(key, 0, 0)
    assert not deployment.is_intact(name, bundle)


def test_an_owner_who_does_not_exist_is_told(tmp_path: Path) -> None:
    file = File(path="key.pem", format="private-key", mode=0o600, owner="no-such-user")
    with pytest.raises(AgentError, match="no user no-such-user"):
        Deployment(tmp_path, (file,)).write(Minter().bundle())


@needs_root
def test_who_owns_the_folder_above_cannot_have_the_mode_of_something_else_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    make = os.mkdir

    def mkdir(name: str, mode: int, *, dir_fd: int) -> None:
        # The other one is quick.
        make(name, mode, dir_fd=dir_fd)
        os.rename(name, f"{name}.away", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        os.symlink(victim, name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(AgentError), folders.opened(tmp_path / "web", make=folders.PUBLIC):
        pass
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700
