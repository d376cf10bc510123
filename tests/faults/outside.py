"""Authorities with an outside parent, established over the API under fire: created, certified, activated."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.client.connection import Client
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import ActivateAuthorityRequest, CreateAuthorityRequest, GetAuthorityCsrRequest
from tests.outside_parent import certify, outside_authority

_TENANT = "tenants/default"


class OutsideParent:
    """A root outside of certd, which remembers what it was asked and what it made."""

    def __init__(self) -> None:
        self._root = outside_authority("Fault test outside root", now=datetime.now(UTC).replace(microsecond=0))
        self._csrs: dict[str, bytes] = {}
        self._made: dict[str, bytes] = {}

    def establish(self, client: Client, creation: CreateAuthorityRequest) -> None:
        """Takes an authority from wherever it stands to ENABLED, each call with the request id of its first time.

        Raises what the calls raise. A CSR never changes once it was seen, and an authority keeps its certificate.
        """
        authority_id = creation.authority_id
        name = f"{_TENANT}/authorities/{authority_id}"
        client.stubs.create_authority(creation, timeout=20)
        csr = client.stubs.get_authority_csr(GetAuthorityCsrRequest(name=name), timeout=20).der
        assert self._csrs.setdefault(authority_id, csr) == csr, f"the CSR of {name} changed"
        certificate = self._made.get(authority_id) or self._certify(csr)
        self._made[authority_id] = certificate
        request = ActivateAuthorityRequest(
            name=name, certificate=certificate, chain=self._root.der, request_id=creation.request_id
        )
        active = client.stubs.activate_authority(request, timeout=20)
        assert active.state == Authority.ENABLED
        assert active.certificate.der == certificate

    def _certify(self, csr: bytes) -> bytes:
        request = x509.load_der_x509_csr(csr)
        made = certify(
            self._root,
            now=datetime.now(UTC).replace(microsecond=0),
            subject=request.subject,
            public_key=request.public_key(),
            path_length=0,
            ends=timedelta(days=365),
        )
        return made.public_bytes(Encoding.DER)
