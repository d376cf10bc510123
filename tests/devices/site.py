"""What devices have on their disks, and curl, by which they fetch more."""

import http.client
import json
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certd.errors import Reason
from certd.model.access import Caller, Role
from certd.model.event import SYSTEM_PRINCIPAL, Event
from certd.model.identity import IdentityState
from certd.model.names import AuthorityName, IdentityName, ManagedCertificateName
from certd.pki import distinguished_name
from certd.pki.credential_request import new_credential_request
from certd.pki.encoding import certificate_pem
from certd.pki.names import SubjectAlternativeNames
from certd.services.code_guesses import Guesses
from certd.services.download_codes import NewDownloadCode
from certd.services.managed_certificate_views import ManagedCertificateView
from certd.services.managed_certificates import NewManagedCertificate
from certd.store import events, grants
from certd.store import identities as rows
from tests.api.every_method import TRUST_DOMAIN
from tests.api.whole_daemon import Installed, grant_of
from tests.waiting import eventually

WEB = ManagedCertificateName("default", "web")
PASSPHRASE = "correct horse battery"
ADMINISTRATOR = Caller(principal=f"spiffe://{TRUST_DOMAIN}/identities/admin", serial="01")


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def outcome(self) -> tuple[int, str]:
        """Status and reason of a refusal."""
        return self.status, str(self.json.get("reason", ""))


@dataclass(frozen=True, kw_only=True)
class Site:
    """The daemon, and files of devices."""

    installed: Installed
    folder: Path

    @classmethod
    def of(cls, installed: Installed, folder: Path) -> "Site":
        (folder / "ca.pem").write_bytes(installed.system_root)
        site = cls(installed=installed, folder=folder)
        site.identity("device", Role.EXPORTER, str(WEB))
        # The tests come from one address, with many wrong codes in a minute.
        installed.core.download_codes._guesses = Guesses(
            kind="download codes", reason=Reason.DOWNLOAD_CODE_INVALID, from_a_network=10_000
        )
        return site

    @property
    def authority(self) -> Path:
        """PEM of the system root."""
        return self.folder / "ca.pem"

    @property
    def port(self) -> int:
        return int((self.installed.ready.devices or "").rpartition(":")[2])

    def identity(self, name: str, role: Role | None = None, scope: str = "", *, tenant: str | None = None) -> str:
        """Makes an identity, with its files, that holds a role on something; returns its SPIFFE id."""
        core, made = self.installed.core, new_credential_request()
        place = "" if tenant is None else f"/tenants/{tenant}"
        principal = f"spiffe://{TRUST_DOMAIN}{place}/identities/{name}"
        certificate = self.installed.identities.ensure_identity(principal, made.csr).certificate
        identity = IdentityName(tenant, name)
        core.store.write(
            "test.identity", lambda tx: rows.ensure(tx, identity, principal, IdentityState.ACTIVE, core.clock.now())
        )
        if role is not None:
            grant = grant_of(name, role, scope)
            core.store.write("test.grant", lambda tx: grants.insert(tx, grant))
        (self.folder / f"{name}.pem").write_text(certificate_pem(certificate))
        (self.folder / f"{name}.key").write_bytes(made.private_key)
        return principal

    def url(self, name: ManagedCertificateName = WEB, format_: str | None = None) -> str:
        query = "" if format_ is None else f"?format={format_}"
        return f"https://127.0.0.1:{self.port}/v1/{name}{query}"

    def curl(
        self,
        format_: str | None = "pkcs8",
        *options: str,
        name: ManagedCertificateName = WEB,
        who: str | None = "device",
        passphrase: str | None = PASSPHRASE,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Downloads as a device does: secrets come from a pipe."""
        told = dict(headers or {})
        if passphrase is not None:
            told["Certd-Passphrase"] = passphrase
        if code is not None:
            told["Authorization"] = f"Bearer {code}"
        identity = [] if who is None else ["--cert", f"{self.folder}/{who}.pem", "--key", f"{self.folder}/{who}.key"]
        ended = subprocess.run(
            [
                "curl",
                "-q",
                "-sSi",
                "-m",
                "60",
                "--cacert",
                str(self.authority),
                *identity,
                *("-H", "@-"),
                *options,
                self.url(name, format_),
            ],
            input="".join(f"{key}: {value}\n" for key, value in told.items()).encode(),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr.decode()
        head, _, body = ended.stdout.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        parsed = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return Answer(status=int(first.split()[1]), headers=parsed, body=body)

    def connection(self, who: str | None = None) -> http.client.HTTPSConnection:
        context = self.context()
        if who is not None:
            context.load_cert_chain(self.folder / f"{who}.pem", self.folder / f"{who}.key")
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)

    def context(self) -> ssl.SSLContext:
        """Of a client without a certificate."""
        return ssl.create_default_context(cafile=self.authority)

    def code(self, name: ManagedCertificateName = WEB, *, creator: Caller = ADMINISTRATOR, **changes: Any) -> str:
        """Makes a download code."""
        new = NewDownloadCode(name=name, **changes)
        return self.installed.core.download_codes.create(creator, new).code.text()

    def managed(self, managed_id: str, **changes: Any) -> ManagedCertificateName:
        """Has a managed certificate issued."""
        name = ManagedCertificateName("default", managed_id)
        wanted: dict[str, Any] = {
            "name": name,
            "authority": AuthorityName("default", "ca"),
            "subject": distinguished_name.EMPTY,
            "names": SubjectAlternativeNames(dns_names=(f"{managed_id}.example.internal",)),
        }
        self.installed.core.managed_certificates.request(
            ADMINISTRATOR, NewManagedCertificate(**(wanted | changes)), key=None, validate_only=False
        )
        self.at_version(1, name)
        return name

    def get(self, name: ManagedCertificateName = WEB) -> ManagedCertificateView:
        return self.installed.core.managed_certificates.get(ADMINISTRATOR, name)

    def at_version(self, number: int, name: ManagedCertificateName = WEB) -> None:
        eventually(lambda: self.get(name).managed_certificate.current_version == number)

    def events(self) -> list[Event]:
        """What callers have caused, oldest first: the daemon does more beside."""
        found: list[Event] = []
        after = 0
        with self.installed.core.store.read("test.events") as tx:
            while page := list(events.page(tx, after_seq=after, limit=1000)):
                found += [row.event for row in page if row.event.principal != SYSTEM_PRINCIPAL]
                after = page[-1].seq
        return found


def run_openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    ended = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout
