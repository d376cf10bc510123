"""The script that a router runs from cron, by dash and by busybox, with curl and openssl as they are."""

import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from certd.model.access import Role
from certd.model.event import EventType
from certd.model.names import ManagedCertificateName
from tests.devices.site import ADMINISTRATOR, PASSPHRASE, Site

SCRIPT = Path(__file__).parents[2] / "clients" / "device" / "certd-fetch"
_APPLETS = ("cat", "sed", "tr", "tail", "mv", "rm", "sh", "cp", "test", "false")


@dataclass(frozen=True, kw_only=True)
class Router:
    """A machine that has little: a shell, a few tools, curl, openssl."""

    site: Site
    name: ManagedCertificateName
    folder: Path
    shell: tuple[str, ...]
    path: Path

    @property
    def identity(self) -> str:
        return self.name.managed_certificate

    @property
    def file(self) -> Path:
        return self.folder / "web.pem"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of curl, as a list of processes shows them."""
        return tuple((self.folder / "arguments").read_text().splitlines())

    def given(self, format_: str, *, by_code: bool = False) -> tuple[str, ...]:
        """What every run is given."""
        site = self.site.folder
        where = ("-u", self.site.url(self.name, format_), "-o", str(self.file), "-a", str(self.site.authority))
        who = () if by_code else ("-c", f"{site}/{self.identity}.pem", "-k", f"{site}/{self.identity}.key")
        return (*where, *who)

    def fetch(self, *arguments: str, format_: str = "acm-compatible") -> "subprocess.CompletedProcess[str]":
        return self.run(*self.given(format_, by_code="-b" in arguments), *arguments)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.shell, str(SCRIPT), *arguments],
            cwd=self.folder,
            env={"PATH": str(self.path), "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing; scripts/test installs it"
    return found


@pytest.fixture(scope="module", params=["dash", "busybox"])
def machine(request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Router:
    shell = str(request.param)
    if shell == "busybox" and shutil.which("brew") is not None:
        pytest.skip("macOS has no busybox")
    tools = tmp_path_factory.mktemp(shell)
    for applet in _APPLETS:
        (tools / applet).symlink_to(_program("busybox" if shell == "busybox" else applet))
    (tools / "openssl").symlink_to(_program("openssl"))
    # Shows what a list of processes would.
    (tools / "curl").write_text(
        f'#!/bin/sh\nfor each in "$@"; do echo "$each"; done >arguments\nexec {_program("curl")} "$@"\n'
    )
    (tools / "curl").chmod(0o755)
    # A worker may come back to a shell after another one.
    name = site.managed(f"router-{shell}-{secrets.token_hex(4)}")
    site.identity(name.managed_certificate, Role.EXPORTER, str(name))
    program = _program(shell)
    return Router(
        site=site, name=name, folder=tools, path=tools, shell=(program, "sh") if shell == "busybox" else (program,)
    )


@pytest.fixture
def router(machine: Router, tmp_path: Path) -> Iterator[Router]:
    (tmp_path / "pass").write_text(f"{PASSPHRASE}\n")
    yield Router(site=machine.site, name=machine.name, folder=tmp_path, path=machine.path, shell=machine.shell)
    # Whatever happened, it leaves nothing half done behind.
    assert not list(tmp_path.glob("*.new.*"))


def _exports(router: Router) -> int:
    resource = f"{router.name}/versions/"
    return len(
        [
            event
            for event in router.site.events()
            if event.type is EventType.MANAGED_CERTIFICATE_EXPORTED and event.resource.startswith(resource)
        ]
    )


def _current_key(router: Router) -> bytes:
    leaf = x509.load_der_x509_certificate(router.site.get(router.name).certificate or b"")
    return leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _key_in(path: Path, password: bytes | None) -> bytes:
    key = load_pem_private_key(path.read_bytes(), password)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_it_fetches_once_and_runs_the_command_when_something_changed(router: Router) -> None:
    before = _exports(router)
    command = ("-p", "pass", "sh", "-c", 'echo "$1" >>runs', "reload", "two words")
    ended = router.fetch(*command)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert _key_in(router.file, PASSPHRASE.encode()) == _current_key(router)
    assert stat.S_IMODE(router.file.stat().st_mode) == 0o600
    assert PASSPHRASE not in "\n".join(router.arguments)
    again = router.fetch(*command)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (router.folder / "runs").read_text() == "two words\n"
    assert _exports(router) == before + 1
    # Without the file its tag means nothing.
    router.file.unlink()
    assert router.fetch(*command).returncode == 0
    assert router.file.exists()
    assert _exports(router) == before + 2


def test_a_renewed_certificate_comes_decrypted_with_its_chain(router: Router) -> None:
    def fetch() -> bytes:
        ended = router.fetch("-p", "pass", "-d")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert _key_in(router.file, None) == _current_key(router)
        assert stat.S_IMODE(router.file.stat().st_mode) == 0o600
        view = router.site.get(router.name)
        certificates = x509.load_pem_x509_certificates(router.file.read_bytes())
        assert [one.public_bytes(Encoding.DER) for one in certificates] == [view.certificate, *view.chain]
        return router.file.read_bytes()

    first = fetch()
    current = router.site.get(router.name).managed_certificate.current_version
    router.site.installed.core.managed_certificate_changes.renew(ADMINISTRATOR, router.name, reason="", key=None)
    router.site.at_version(current + 1, router.name)
    assert fetch() != first


def test_what_is_refused_leaves_the_file(router: Router) -> None:
    router.file.write_text("what was there")
    (router.folder / "pass").write_text("short\n")
    ended = router.fetch("-p", "pass", "sh", "-c", "echo no >runs", format_="pkcs8")
    assert ended.returncode == 1
    assert "FIELD_INVALID" in ended.stderr
    assert "short" not in ended.stderr
    assert router.file.read_text() == "what was there"
    assert not (router.folder / "runs").exists()


def test_a_server_that_is_not_ours_is_not_asked(router: Router) -> None:
    other = router.site.folder / "device.pem"
    ended = router.run(
        *("-u", router.site.url(router.name, "pkcs8"), "-o", str(router.file), "-a", str(other)),
        *("-b", "pass"),
    )
    assert ended.returncode == 1
    assert "cannot be fetched" in ended.stderr
    assert not router.file.exists()


def test_who_laid_links_in_its_way_gets_nothing(router: Router) -> None:
    victim = router.folder / "victim"
    victim.write_text("what was there")
    links = " && ".join(f'"$ln" -s victim "web.pem.new.$$"{end}' for end in ("", ".head", ".key"))
    shell = " ".join((*router.shell, str(SCRIPT)))
    ended = subprocess.run(
        # The process stays, so that its number is known.
        [
            *router.shell,
            "-c",
            f'{links} && exec {shell} "$@"',
            "sh",
            *router.given("acm-compatible"),
            "-p",
            "pass",
            "-d",
        ],
        cwd=router.folder,
        env={"PATH": str(router.path), "HOME": "/nonexistent", "ln": _program("ln")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert victim.read_text() == "what was there"
    assert not router.file.is_symlink()
    assert _key_in(router.file, None) == _current_key(router)


def test_a_command_that_fails_is_tried_again(router: Router) -> None:
    ended = router.fetch("-p", "pass", "false")
    assert ended.returncode == 3
    assert "false failed" in ended.stderr
    assert _key_in(router.file, PASSPHRASE.encode()) == _current_key(router)
    again = router.fetch("-p", "pass", "sh", "-c", "echo >runs")
    assert again.returncode == 0
    assert (router.folder / "runs").exists()


def test_a_wrong_passphrase_file_does_not_replace_the_file(router: Router) -> None:
    (router.folder / "pass").write_text("\n")
    ended = router.fetch("-p", "pass")
    assert (ended.returncode, "pass holds nothing" in ended.stderr) == (1, True)
    ended = router.fetch("-p", "no-pass")
    assert (ended.returncode, "no-pass holds nothing" in ended.stderr) == (1, True)
    # A format that has no key in PEM cannot be decrypted.
    (router.folder / "pass").write_text(f"{PASSPHRASE}\n")
    ended = router.fetch("-p", "pass", "-d", format_="pkcs12-modern")
    assert ended.returncode == 1
    assert "does not open" in ended.stderr
    assert not router.file.exists()


def test_a_code_is_used_once_and_shown_nowhere(router: Router) -> None:
    code = router.site.code(router.name)
    (router.folder / "code").write_text(f"{code}\n")
    ended = router.fetch("-b", "code", "-p", "pass")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert _key_in(router.file, PASSPHRASE.encode()) == _current_key(router)
    assert code not in "\n".join(router.arguments)
    again = router.fetch("-b", "code", "-p", "pass")
    assert again.returncode == 1
    assert "DOWNLOAD_CODE_INVALID" in again.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-u", "https://127.0.0.1/", "-o", "x"),
        ("-u", "http://127.0.0.1/", "-o", "x", "-a", "ca", "-b", "code"),
        ("-u", "https://127.0.0.1/", "-o", "x", "-a", "ca"),
        ("-u", "https://127.0.0.1/", "-o", "x", "-a", "ca", "-b", "code", "-d"),
        ("-x",),
    ],
)
def test_wrong_usage_is_told(router: Router, arguments: tuple[str, ...]) -> None:
    ended = router.run(*arguments)
    assert ended.returncode == 2
    assert "usage: certd-fetch" in ended.stderr
