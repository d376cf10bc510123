"""Batches, revocations and profile changes under fire, each repeated with its request id until it is answered."""

from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from certd.client.connection import Client
from certd.client.failure import CallFailed
from certd.pki.extensions import SERVER_AUTHENTICATION
from certd.v1.certificate_pb2 import KEY_COMPROMISE, SUPERSEDED, Certificate
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    IssueCertificateRequest,
    RevokeCertificateRequest,
)
from certd.v1.profile_pb2 import DnsNameRules, NameRules, Profile
from certd.v1.profile_service_pb2 import CreateProfileRequest, UpdateProfileRequest
from tests.faults.asking import CA, Ask, ask, stable_id

PROFILE_ID = "faults"
PROFILE = f"tenants/default/profiles/{PROFILE_ID}"
_HOUR = 3600
HONEST_CODES = {code.value[0] for code in (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)}  # fmt: skip
"""What an item may be told while something is dead; never INTERNAL."""


@dataclass(slots=True)
class Changes:
    """What was changed, and what has to stand in the books."""

    rounds: int = 0
    revoked: dict[str, Ask] = field(default_factory=dict)
    """By the certificate's name."""
    compromised: set[str] = field(default_factory=set)
    """Names of the certificates whose keys are blocked."""

    def prepare(self, client: Client) -> None:
        """Makes the profile that the rounds change."""
        client.call(client.stubs.create_profile, CreateProfileRequest(
            parent="tenants/default", profile_id=PROFILE_ID, profile=_profile(0), request_id=stable_id("profile")
        ))  # fmt: skip

    def change_profile(self, client: Client) -> None:
        """Makes the next version of it; repeated in a round, that of the round. Raises what the call raises."""
        number = self.rounds + 1
        profile = _profile(number)
        profile.name = PROFILE
        request = UpdateProfileRequest(
            profile=profile,
            update_mask=FieldMask(paths=["default_lifetime"]),
            request_id=stable_id(f"profile {number}"),
        )
        answer = client.stubs.update_profile(request, timeout=20)
        assert answer.version == number + 1, f"version {answer.version} after {number} changes"

    def revoke(self, client: Client, found: Ask) -> None:
        """Revokes a certificate, every other one because its key was stolen. Raises what the call raises."""
        compromise = self.rounds % 2 == 0
        request = RevokeCertificateRequest(
            name=found.name,
            reason=KEY_COMPROMISE if compromise else SUPERSEDED,
            request_id=stable_id(f"revoke {found.name}"),
        )
        answer = client.stubs.revoke_certificate(request, timeout=20)
        assert answer.state == Certificate.REVOKED
        assert answer.certificate.der == found.der
        self.revoked[found.name] = found
        if compromise:
            self.compromised.add(found.name)

    def check_blocked(self, client: Client) -> None:
        """The keys that were stolen are certified no more, whatever has died since they were revoked."""
        for name in self.compromised:
            request = IssueCertificateRequest()
            request.CopyFrom(self.revoked[name].request)
            request.request_id = stable_id(f"again {name}")
            try:
                client.call(client.stubs.issue_certificate, request)
            except CallFailed as failure:
                assert failure.reason == "KEY_TOO_WEAK", failure  # noqa: PT017  # The reason is what counts.
            else:
                raise AssertionError(f"the key of {name} was certified again")


@dataclass(slots=True)
class Batch:
    """A batch that is repeated until each of its items is answered."""

    request: BatchIssueCertificatesRequest
    asks: list[Ask]

    def send(self, client: Client) -> list[str]:
        """Sends it once, and returns why items failed. Raises what the call raises."""
        answer = client.stubs.batch_issue_certificates(self.request, timeout=20)
        failures = []
        for wanted, result in zip(self.asks, answer.results, strict=True):
            if result.HasField("error"):
                assert result.error.code in HONEST_CODES, result.error
                assert not wanted.der, f"{wanted.name} was answered and is refused now: {result.error}"
                failures.append(result.error.reason)
                continue
            found = result.certificate
            assert wanted.name in {"", found.name}, f"{wanted.name} became {found.name}"
            wanted.name, wanted.der = found.name, found.certificate.der
        return failures


def batch(number: int, items: int) -> Batch:
    """Returns the batch of a round: its items have request ids of their own, or the batch has one for all."""
    own_ids = number % 2 == 0
    asks = [
        ask(f"b{number}-{item}.example.internal", profile=PROFILE if item % 2 else "", own_id=own_ids)
        for item in range(items)
    ]
    request = BatchIssueCertificatesRequest(
        parent=CA,
        requests=[one.request for one in asks],
        request_id="" if own_ids else stable_id(f"batch {number}"),
    )
    return Batch(request, asks)


def _profile(number: int) -> Profile:
    return Profile(
        longest_lifetime=Duration(seconds=90 * 24 * _HOUR),
        default_lifetime=Duration(seconds=24 * _HOUR + number),
        extended_key_usages=[SERVER_AUTHENTICATION],
        names=NameRules(dns_names=DnsNameRules(suffixes=["example.internal"])),
    )
