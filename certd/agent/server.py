"""What an agent asks of the server."""

from typing import Protocol

from certd.agent.bundle import Bundle
from certd.client.connection import Client
from certd.client.credentials import Credentials
from certd.client.export import ANSWER_INCONSISTENT
from certd.client.failure import CallFailed
from certd.client.lease import lease
from certd.errors import CertdError, Reason
from certd.v1.association_pb2 import Association
from certd.v1.managed_certificate_pb2 import Deployment
from certd.v1.managed_certificate_service_pb2 import GetAssociationRequest, ReportDeploymentRequest
from certd.v1.server_service_pb2 import GetTrustBundleRequest


class Server(Protocol):
    """The server, as one identity sees it. Each method raises CallFailed or CertdError."""

    def association(self, name: str) -> Association:
        """Returns an association as it is now."""

    def lease(self, association: Association, version: int, *, name: str, roots: tuple[bytes, ...]) -> Bundle:
        """Leases a version, for the certificate `name` of the configuration.

        `roots` must vouch for it; when there are none, those that the server tells of the tenant.
        """

    def report(self, name: str, deployment: Deployment) -> None:
        """Tells what is served."""


class ApiServer:
    """The server at the end of a connection.

    Args:
        client: the connection, with the credentials of an identity.
    """

    def __init__(self, client: Client) -> None:
        self.client = client

    def association(self, name: str) -> Association:
        """Returns an association as it is now."""
        found = self.client.call(self.client.stubs.get_association, GetAssociationRequest(name=name))
        if found.name != name:
            # With it, the key of another certificate would be leased and served.
            raise CallFailed(
                ANSWER_INCONSISTENT, f"{found.name} came instead of {name}; tell the operator of the server"
            )
        return found

    def lease(self, association: Association, version: int, *, name: str, roots: tuple[bytes, ...]) -> Bundle:
        """Leases a version."""
        credentials = self.client.credentials
        if not isinstance(credentials, Credentials):
            raise CertdError(Reason.CREDENTIAL_MISSING, "the agent has no identity; enroll")
        if not roots:
            tenant = "/".join(association.name.split("/")[:2])
            told = self.client.call(self.client.stubs.get_trust_bundle, GetTrustBundleRequest(tenant=tenant))
            roots = tuple(root.der for root in told.tenant_roots)
        leased = lease(self.client, association, version, credentials)
        return Bundle(
            name=name,
            version=leased.response.version,
            certificate=leased.response.certificate.der,
            chain=tuple(each.der for each in leased.response.chain),
            private_key_info=leased.private_key_info,
            roots=roots,
        )

    def report(self, name: str, deployment: Deployment) -> None:
        """Tells what is served."""
        self.client.call(self.client.stubs.report_deployment, ReportDeploymentRequest(name=name, deployment=deployment))
