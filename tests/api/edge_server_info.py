"""The server itself behind the edge, described as it is told to, and the refusals that it would tell of."""

from datetime import datetime
from typing import Any

from certd.errors import Reason
from certd.model.access import Caller
from certd.model.names import TenantName
from certd.pki.key_spec import KeySpec
from certd.prepare.client import PreparerState
from certd.services.refusals import Refusals
from certd.services.server import Server, ServerDescription, TrustBundle
from certd.token.client import Isolation
from certd.token.description import TokenDescription


class FakeServer(Server):
    def __init__(self, told: Any, *, start_time: datetime, system_root: bytes, tenant_root: bytes) -> None:
        self._told = told
        self._system_root = system_root
        self._tenant_root = tenant_root
        self.description = ServerDescription(
            version="1.2.3",
            token=TokenDescription(
                module="/usr/lib/softhsm/libsofthsm2.so",
                label="certd",
                serial_number="0001",
                manufacturer="SoftHSM project",
                model="SoftHSM v2",
                mechanisms=("CKM_ECDSA",),
                missing=("CKM_EDDSA is missing: no Ed25519 authorities",),
                authority_key_specs=(KeySpec.EC_P256,),
            ),
            token_ready=False,
            token_problem="gone",
            preparer=PreparerState(configured=2, ready=1, problem="The prepare process is starting."),
            isolation=Isolation.SEPARATE_USER,
            database_engine="sqlite",
            start_time=start_time,
            trust_domain="certd.test",
            complaints=("the CRL of an authority is late",),
        )

    def describe(self, caller: Caller) -> ServerDescription:
        self._told.take(caller)
        return self.description

    def trust_bundle(self, caller: Caller, tenant: TenantName | None) -> TrustBundle:
        self._told.take(caller, tenant)
        return TrustBundle((self._system_root,), (self._tenant_root,) if tenant else ())


class FakeRefusals(Refusals):
    def __init__(self) -> None:
        self.noted: list[tuple[str, str, Reason, str]] = []
        """Principal, method, reason, peer."""

    def note(self, *, principal: str, method: str, reason: Reason, peer: str) -> None:
        self.noted.append((principal, method, reason, peer))
