"""The server's side: managed certificates of a daemon, and an identity `web-1` that is entitled to them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from certd.agent.identity import enroll as enroll_machine
from certd.client.connection import Client
from certd.client.enrollment import enroll
from certd.pki.enrollment_code import EnrollmentCode, parse_code
from certd.v1.access_service_pb2 import CreateEnrollmentCodeRequest, CreateGrantRequest
from certd.v1.association_pb2 import Association
from certd.v1.authority_service_pb2 import GetAuthorityRequest
from certd.v1.grant_pb2 import CONSUMER, Grant
from certd.v1.identity_pb2 import IdentityCredential
from certd.v1.managed_certificate_pb2 import Deployment, ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import (
    CreateAssociationRequest,
    GetManagedCertificateRequest,
    RenewManagedCertificateRequest,
    RequestManagedCertificateRequest,
)
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.daemon import RunningDaemon
from tests.faults.asking import authority_request
from tests.system.leasing import credentials_of_administrator
from tests.waiting import eventually

HOST: Final = "www.example.internal"
_TENANT: Final = "tenants/default"
_PAUSE: Final = 0.03
_IDENTITY: Final = f"{_TENANT}/identities/web-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """A daemon with what the recipes of the README name."""

    daemon: RunningDaemon
    client: Client = field(repr=False)
    """Of the first administrator."""
    state: Path
    """A state directory with the identity, to be copied."""
    root: str
    """PEM of the root that vouches for the certificates."""

    def request(self, name: str, names: SubjectAlternativeNames, profile: str = "end-entity") -> None:
        """Has a managed certificate made, and the identity entitled to it."""
        managed = ManagedCertificate(
            authority=f"{_TENANT}/authorities/recipe-ca",
            profile=f"{_TENANT}/profiles/{profile}",
            subject_alternative_names=names,
        )
        self.client.call(
            self.client.stubs.request_managed_certificate,
            RequestManagedCertificateRequest(parent=_TENANT, managed_certificate_id=name, managed_certificate=managed),
        )
        eventually(lambda: self.current(name).current_version, pause=_PAUSE)
        self.client.call(
            self.client.stubs.create_association,
            CreateAssociationRequest(parent=_name(name), association=Association(consumer=_IDENTITY)),
        )

    def current(self, name: str = "web") -> ManagedCertificate:
        return self.client.call(
            self.client.stubs.get_managed_certificate, GetManagedCertificateRequest(name=_name(name))
        )

    def renew(self, name: str = "web") -> ManagedCertificate:
        """Has a new version made, and returns the managed certificate with it."""
        before = self.current(name).current_version
        request = RenewManagedCertificateRequest(name=_name(name), reason="a test of a recipe")
        self.client.call(self.client.stubs.renew_managed_certificate, request)

        def renewed() -> ManagedCertificate | None:
            found = self.current(name)
            return found if found.current_version > before else None

        return eventually(renewed, pause=_PAUSE)

    def deployment(self, name: str = "web") -> Deployment:
        """Returns what the identity reported last, as `used_by` has it."""
        (use,) = self.current(name).used_by
        return use.deployment

    def reported(self, state: Deployment.State.ValueType, name: str = "web") -> Deployment:
        """Waits until the current version is reported so."""

        def found() -> Deployment | None:
            managed = self.current(name)
            (use,) = managed.used_by
            its = use.deployment
            return its if (its.state, its.version) == (state, managed.current_version) else None

        return eventually(found, pause=_PAUSE)


def establish(daemon: RunningDaemon, client: Client, folder: Path) -> Estate:
    """Makes authorities, the managed certificate `web`, and enrolls a machine."""
    for authority, issuer in (("recipe-root", ""), ("recipe-ca", f"{_TENANT}/authorities/recipe-root")):
        client.call(client.stubs.create_authority, authority_request(authority, issuer))
    root = client.call(client.stubs.get_authority, GetAuthorityRequest(name=f"{_TENANT}/authorities/recipe-root"))
    made = client.call(client.stubs.create_enrollment_code, CreateEnrollmentCodeRequest(identity=_IDENTITY))

    def call(code: EnrollmentCode, csr: bytes) -> tuple[IdentityCredential, bytes]:
        enrolled = enroll(daemon.enrollment, code, csr)
        return enrolled.credential, enrolled.trust_bundle

    state = folder / "state"
    enroll_machine(state, parse_code(made.code), call)
    grant = Grant(principal=made.spiffe_id, role=CONSUMER)
    client.call(client.stubs.create_grant, CreateGrantRequest(parent=_TENANT, grant=grant))
    estate = Estate(daemon=daemon, client=client, state=state, root=root.certificate.pem)
    estate.request("web", SubjectAlternativeNames(dns_names=[HOST]))
    return estate


def administrator(daemon: RunningDaemon) -> Client:
    return Client(daemon.grpc, credentials_of_administrator(daemon))


def copy_identity(estate: Estate, state: Path) -> None:
    """Gives an agent a state directory of its own, as the same identity."""
    shutil.copytree(estate.state, state)


def _name(managed: str) -> str:
    return f"{_TENANT}/managedCertificates/{managed}"
