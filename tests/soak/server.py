"""The daemon that the agents are served by: killed and started again at the same address, and its books."""

import os
import signal
import socket
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Self

import psutil
from google.protobuf.duration_pb2 import Duration

from certd.client.connection import Client
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest, CreateGrantRequest
from certd.v1.association_pb2 import Association
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import CreateAuthorityRequest
from certd.v1.event_service_pb2 import EventFilter, ListEventsRequest
from certd.v1.grant_pb2 import CONSUMER, Grant
from certd.v1.managed_certificate_pb2 import Deployment, ManagedCertificate, ManagedCertificateVersion, RenewalPolicy
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    GetManagedCertificateRequest,
    ListManagedCertificateVersionsRequest,
    RequestManagedCertificateRequest,
)
from certd.v1.profile_pb2 import DnsNameRules, NameRules, Profile
from certd.v1.profile_service_pb2 import CreateProfileRequest
from certd.v1.x509_pb2 import (
    AttributeTypeAndValue,
    DistinguishedName,
    RelativeDistinguishedName,
    SubjectAlternativeNames,
)
from tests.daemon import RunningDaemon, initialise, start
from tests.soak.verdict import Version
from tests.system.leasing import credentials_of_administrator
from tests.waiting import eventually

DAEMON: Final = "daemon"
TOKEN: Final = "token process"
PREPARE: Final = "prepare process"
_TENANT: Final = "tenants/default"
_AUTHORITY: Final = f"{_TENANT}/authorities/soak"
_PROFILE: Final = f"{_TENANT}/profiles/soak"
_SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
_ISSUED: Final = ("managed-certificate.issued", "managed-certificate.renewed")
_PATIENCE: Final = 60.0
"""Seconds: a daemon is back long before."""


class Server:
    """A daemon in a folder of its own, with an authority and a profile for certificates that live for a short time."""

    def __init__(self, folder: Path, *, lifetime: float, remaining_percent: int) -> None:
        self._lifetime = Duration(seconds=round(lifetime))
        self._remaining_percent = remaining_percent
        # Agents find it again where it was.
        self.installation = initialise(folder, "--grpc-address", f"127.0.0.1:{_free_port()}")
        self.daemon: RunningDaemon = start(self.installation)
        self.client = Client(self.daemon.grpc, credentials_of_administrator(self.daemon), timeout=_PATIENCE)

    def __enter__(self) -> Self:
        try:
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.daemon.process.poll() is None:
            self.daemon.kill()

    def kill(self, victim: str) -> None:
        """Kills the daemon or its token process with SIGKILL, and returns when another one is there."""
        if victim == DAEMON:
            self.daemon.kill()
            self.daemon = start(self.installation)
            return
        before = self._pid_of(TOKEN)
        os.kill(before, signal.SIGKILL)
        eventually(lambda: self._pid_of(TOKEN) not in {0, before}, within=_PATIENCE, pause=0.02)

    def processes(self) -> Mapping[int, str]:
        """Returns the role of every process of the daemon that lives, by its id."""
        try:
            found = psutil.Process(self.daemon.pid)
            words = {found.pid: ["certd.daemon"]} | {each.pid: each.cmdline() for each in found.children()}
        except psutil.NoSuchProcess:
            return {}
        roles = {"certd.daemon": DAEMON, "certd.token": TOKEN, "certd.prepare": PREPARE}
        return {pid: role for pid, line in words.items() for word, role in roles.items() if word in line}

    def request(self, managed: str, identities: Iterable[str]) -> None:
        """Has a managed certificate made, and lets identities consume it."""
        made = ManagedCertificate(
            authority=_AUTHORITY,
            profile=_PROFILE,
            subject_alternative_names=SubjectAlternativeNames(dns_names=[f"{managed}.soak.internal"]),
            lifetime=self._lifetime,
            renewal=RenewalPolicy(remaining_percent=self._remaining_percent),
        )
        request = RequestManagedCertificateRequest(
            parent=_TENANT, managed_certificate_id=managed, managed_certificate=made
        )
        name = self.client.call(self.client.stubs.request_managed_certificate, request).name
        for identity in identities:
            association = Association(consumer=f"{_TENANT}/identities/{identity}")
            self.client.call(
                self.client.stubs.create_association, CreateAssociationRequest(parent=name, association=association)
            )

    def code(self, identity: str) -> str:
        """Returns an enrollment code."""
        request = CreateEnrollmentCodeRequest(identity=f"{_TENANT}/identities/{identity}")
        return self.client.call(self.client.stubs.create_enrollment_code, request).code

    def versions(self, managed: Iterable[str]) -> dict[str, list[Version]]:
        """Returns all versions of managed certificates, the first ones first."""
        # Before the events: a version that is made meanwhile has none of those that were read.
        found = {each: self._versions(each) for each in managed}
        issued: dict[str, float] = {}
        request = ListEventsRequest(parent=_TENANT, filter=EventFilter(types=_ISSUED), page_size=1000)
        for page in self.client.pages(self.client.stubs.list_events, request):
            issued |= {event.resource: event.time.ToNanoseconds() / 1e9 for event in page.events}
        return {
            each: [
                Version(number=one.version, issued=issued[one.name], certificate=one.certificate.der) for one in several
            ]
            for each, several in found.items()
        }

    def count(self, type_: str) -> int:
        """Returns how many events there are of a type."""
        request = ListEventsRequest(parent=_TENANT, filter=EventFilter(types=[type_]), page_size=1000)
        return sum(len(page.events) for page in self.client.pages(self.client.stubs.list_events, request))

    def unreported(self, managed: Iterable[str], *, within: float) -> list[str]:
        """Waits until every consumer is told to serve what is current; returns what is not, in words."""
        wrong = []
        for each in managed:
            try:
                eventually(partial(self._is_reported, each), within=within, pause=0.1)
            except AssertionError:
                found = self._get(each)
                told = [
                    f"{use.association.rpartition('/')[2]} {Deployment.State.Name(use.deployment.state)}"
                    f" {use.deployment.version} {use.deployment.message}".rstrip()
                    for use in found.used_by
                ]
                wrong.append(f"{each} is at version {found.current_version}, and used by {', '.join(told) or 'nobody'}")
        return wrong

    def stop(self) -> list[str]:
        """Stops it as an operator does; returns what is wrong with how it ended."""
        code = self.daemon.stop()
        return [f"the daemon ended with exit code {code}"] if code else []

    def _is_reported(self, managed: str) -> bool:
        found = self._get(managed)
        told = [(use.deployment.state, use.deployment.version) for use in found.used_by]
        return bool(told) and all(each == (Deployment.SERVING, found.current_version) for each in told)

    def _get(self, managed: str) -> ManagedCertificate:
        request = GetManagedCertificateRequest(name=f"{_TENANT}/managedCertificates/{managed}")
        return self.client.call(self.client.stubs.get_managed_certificate, request)

    def _versions(self, managed: str) -> list[ManagedCertificateVersion]:
        parent = f"{_TENANT}/managedCertificates/{managed}"
        request = ListManagedCertificateVersionsRequest(parent=parent, page_size=1000)
        pages = self.client.pages(self.client.stubs.list_managed_certificate_versions, request)
        found = [each for page in pages for each in page.versions if each.HasField("certificate")]
        return sorted(found, key=lambda version: version.version)

    def _pid_of(self, role: str) -> int:
        return next((pid for pid, each in self.processes().items() if each == role), 0)

    def _prepare(self) -> None:
        common_name = AttributeTypeAndValue(type="CN", value="Soak Root")
        subject = DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName(attributes=[common_name])])
        authority = Authority(type=Authority.ROOT, subject=subject)
        self.client.call(
            self.client.stubs.create_authority,
            CreateAuthorityRequest(parent=_TENANT, authority_id="soak", authority=authority),
        )
        profile = Profile(
            default_lifetime=self._lifetime,
            shortest_lifetime=Duration(seconds=2),
            longest_lifetime=self._lifetime,
            extended_key_usages=[_SERVER_AUTH],
            names=NameRules(dns_names=DnsNameRules(suffixes=["soak.internal"])),
        )
        self.client.call(
            self.client.stubs.create_profile,
            CreateProfileRequest(parent=_TENANT, profile_id="soak", profile=profile),
        )
        grant = Grant(principal=f"spiffe://certd.internal/{_TENANT}/identities/*", role=CONSUMER)
        self.client.call(
            self.client.stubs.create_grant, CreateGrantRequest(parent=_TENANT, grant_id="agents", grant=grant)
        )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
