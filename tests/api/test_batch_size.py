"""Full batches through the services and back: the message that they become, and that it can be sent."""

from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from certd.api import issuance
from certd.api.call import Call
from certd.api.server import LARGEST_ANSWER
from certd.model.request_limits import RequestLimits
from certd.token.settings import TokenSettings
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    BatchIssueCertificatesResponse,
    IssueCertificateRequest,
)
from tests.fakes import FakeClock
from tests.services.batches import CA
from tests.services.conftest import ADMINISTRATOR, World, configuration, csr_for, running_world
from tests.softhsm import make_token

_UNLESS_TOLD_OTHERWISE = 4 << 20
"""What gRPC clients accept."""
_LABEL = "xn--bcher-kva."


@pytest.fixture(scope="module")
def token_settings(tmp_path_factory: pytest.TempPathFactory) -> TokenSettings:
    return make_token(tmp_path_factory.mktemp("token"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, token_settings: TokenSettings) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with running_world(configuration(folder, token_settings), FakeClock()) as running:
        running.create_root()
        running.create_subordinate()
        yield running


def issue(
    world: World, request: BatchIssueCertificatesRequest, *, fails: bool = False
) -> BatchIssueCertificatesResponse:
    answer = issuance.batch_issue_certificates(
        world.core.certificates, RequestLimits(), request, Call(caller=ADMINISTRATOR, timeout=120)
    )
    assert fails or not any(result.HasField("error") for result in answer.results)
    return answer


def batch_of(csr: bytes, count: int) -> BatchIssueCertificatesRequest:
    requests = [IssueCertificateRequest(csr=csr) for _ in range(count)]
    return BatchIssueCertificatesRequest(parent=str(CA), requests=requests)


def test_a_full_batch_is_what_any_client_accepts(world: World) -> None:
    answer = issue(world, batch_of(csr_for("www.shop.example.internal"), 1000))
    assert len(answer.results) == 1000
    assert answer.ByteSize() < _UNLESS_TOLD_OTHERWISE
    with_descriptions = answer.ByteSize()
    for result in answer.results[::100]:
        described = result.certificate.description
        leaf = x509.load_der_x509_certificate(result.certificate.certificate.der)
        assert described.serial_number == result.certificate.name.rpartition("/")[2]
        assert described.sha256_fingerprint == leaf.fingerprint(SHA256())
    small = batch_of(csr_for("www.shop.example.internal"), 1000)
    small.certificates_only = True
    assert issue(world, small).ByteSize() < with_descriptions * 3 // 4


def test_the_largest_batch_that_is_begun_can_be_answered(world: World) -> None:
    """Of certificates that are all names, and each name twice in a description: as it is and as people read it."""
    csr = csr_for(*(f"{_LABEL * 14}h{number:02}.example" for number in range(79)))
    request = batch_of(csr, issuance.MOST_BYTES // (len(csr) + 16))
    request.request_id = "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"
    assert issuance.MOST_BYTES - 2 * len(csr) < request.ByteSize() <= issuance.MOST_BYTES
    answer = issue(world, request)
    assert answer.ByteSize() < LARGEST_ANSWER


def test_the_largest_batch_of_small_certificates_can_be_answered(world: World) -> None:
    csr = csr_for(*(f"h{number:02}.xn--bcher-kva.example.internal" for number in range(60)))
    request = batch_of(csr, 1000)
    while request.ByteSize() > issuance.MOST_BYTES:
        del request.requests[-1]
    assert len(request.requests) > 900
    assert issue(world, request).ByteSize() < LARGEST_ANSWER


def test_a_batch_and_its_repetition_are_the_same(world: World) -> None:
    request = batch_of(csr_for("again.example.internal"), 20)
    request.requests[7].csr = b"no csr"
    request.request_id = "2f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"
    first, second = (issue(world, request, fails=True) for _ in range(2))
    assert [result.certificate.name for result in first.results] == [
        result.certificate.name for result in second.results
    ]
    assert [result.error.reason for result in first.results] == [result.error.reason for result in second.results]
    assert first.results[7].error.reason == "CSR_MALFORMED"
    for before, after in zip(first.results, second.results, strict=True):
        # What is described before the signature says what the certificate says that was read from the books.
        assert before.certificate.description == after.certificate.description
        assert before.certificate.certificate == after.certificate.certificate
    assert first.chain == second.chain
