"""A load generator: a process whose callers each call, wait for the answer, and call again."""

import itertools
import threading
import time
import uuid
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certd.client.connection import Client, Waiting
from certd.client.credentials import Credentials, read_credentials
from certd.client.failure import CallFailed
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    IssueCertificateRequest,
    ListCertificatesRequest,
)
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import ListManagedCertificatesRequest, RequestManagedCertificateRequest
from certd.v1.server_service_pb2 import GetServerInfoRequest
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.bench.load.messages import BATCH, Connect, Kind, Listing, Outcome, Run, Settle, Settled, Target

_REQUESTS = 512
"""Made beforehand, each of a key of its own; then the first comes again."""
_PAGE = 1000
_TENANT = "tenants/default"
_LONGEST_SETTLING = 100.0
_LOOK_AGAIN = 0.2


def serve(connection: Connection, target: Target) -> None:
    """Does what comes over `connection` and answers each, until None comes."""
    credentials = read_credentials(
        certificate=target.certificate, private_key=target.private_key, trust_bundle=target.trust_bundle
    )
    callers = _Callers(target, credentials)
    while (order := connection.recv()) is not None:
        match order:
            case Connect(callers=wanted):
                callers.connect(wanted)
                connection.send(None)
            case Run():
                connection.send(callers.run(order))
            case Listing():
                connection.send(callers.serials())
            case Settle():
                connection.send(callers.settle())
    callers.close()


@dataclass(slots=True)
class _Tally:
    """What one caller saw."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    serials: list[str] = field(default_factory=list)
    requested: int = 0
    failures: list[str] = field(default_factory=list)


class _Callers:
    """Callers with a connection each, which stay open between runs."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        self._target = target
        self._credentials = credentials
        self._clients: list[Client] = []
        self._connected = 0
        self._requests = itertools.cycle([_request(f"host-{number}.bench.internal") for number in range(_REQUESTS)])
        self._lock = threading.Lock()
        self._retries = 0

    def connect(self, callers: int) -> None:
        """Has so many callers connected; handshakes are not what is measured."""
        self._connected = callers
        while len(self._clients) < callers:
            # Credentials of its own keep gRPC from sharing one connection between clients.
            client = Client(self._target.address, self._credentials, on_wait=self._count)
            client.call(client.stubs.get_server_info, GetServerInfoRequest())
            self._clients.append(client)

    def run(self, order: Run) -> Outcome:
        """Has every connected caller call until the end."""
        clients = self._clients[: self._connected]
        retries = self._retries
        call = {Kind.UNARY: self._issue, Kind.BATCH: self._issue_batch, Kind.MANAGED: self._request_managed}[order.kind]
        with ThreadPoolExecutor(max(len(clients), 1)) as threads:
            tallies = list(threads.map(lambda client: self._call(client, order, call), clients))
        return Outcome(
            latencies=[latency for tally in tallies for latency in tally.latencies],
            serials=[serial for tally in tallies for serial in tally.serials],
            requested=sum(tally.requested for tally in tallies),
            failures=[failure for tally in tallies for failure in tally.failures],
            retries=self._retries - retries,
        )

    def settle(self) -> Settled:
        """Waits until nothing of the managed certificates is pending."""
        client = Client(self._target.address, self._credentials)
        request = ListManagedCertificatesRequest(parent=_TENANT, page_size=_PAGE)
        deadline = time.monotonic() + _LONGEST_SETTLING
        with client:
            while True:
                states: list[tuple[int, float]] = [
                    (one.state, one.update_time.ToMicroseconds() / 1e6)
                    for page in client.pages(client.stubs.list_managed_certificates, request)
                    for one in page.managed_certificates
                ]
                pending = sum(state == ManagedCertificate.PENDING for state, _ in states)
                if not pending or time.monotonic() > deadline:
                    active = [time_ for state, time_ in states if state == ManagedCertificate.ACTIVE]
                    return Settled(
                        active=len(active), last_issued=max(active, default=0.0), others=len(states) - len(active)
                    )
                time.sleep(_LOOK_AGAIN)

    def serials(self) -> list[str]:
        """Returns the serials of all that the authority has in its books."""
        client = Client(self._target.address, self._credentials)
        request = ListCertificatesRequest(parent=self._target.authority, page_size=_PAGE)
        with client:
            pages = client.pages(client.stubs.list_certificates, request)
            return [_serial(certificate.name) for page in pages for certificate in page.certificates]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _call(self, client: Client, order: Run, call: Callable[[Client, _Tally], None]) -> _Tally:
        tally = _Tally()
        time.sleep(max(0.0, order.start - time.monotonic()))
        while (began := time.monotonic()) < order.until:
            try:
                call(client, tally)
            except CallFailed as failure:
                # It fails the measurement, so there is no reason to go on.
                tally.failures.append(f"{failure.reason}: {failure}")
                break
            ended = time.monotonic()
            if order.measure_from <= ended < order.until:
                tally.latencies.append(ended - began)
        return tally

    def _issue(self, client: Client, tally: _Tally) -> None:
        answer = client.call(client.stubs.issue_certificate, self._next())
        tally.serials.append(_serial(answer.name))

    def _issue_batch(self, client: Client, tally: _Tally) -> None:
        request = BatchIssueCertificatesRequest(
            parent=self._target.authority, requests=[self._next() for _ in range(BATCH)]
        )
        answer = client.call(client.stubs.batch_issue_certificates, request)
        for result in answer.results:
            if result.HasField("certificate"):
                tally.serials.append(_serial(result.certificate.name))
            else:
                tally.failures.append(f"{result.error.reason}: {result.error.message}")

    def _request_managed(self, client: Client, tally: _Tally) -> None:
        name = f"m{uuid.uuid4().hex}"
        request = RequestManagedCertificateRequest(
            parent=_TENANT,
            managed_certificate_id=name,
            managed_certificate=ManagedCertificate(
                authority=self._target.authority,
                subject_alternative_names=SubjectAlternativeNames(dns_names=[f"{name}.bench.internal"]),
            ),
        )
        client.call(client.stubs.request_managed_certificate, request)
        tally.requested += 1

    def _next(self) -> IssueCertificateRequest:
        with self._lock:
            csr = next(self._requests)
        return IssueCertificateRequest(parent=self._target.authority, csr=csr)

    def _count(self, _waiting: Waiting) -> None:
        with self._lock:
            self._retries += 1


def _serial(name: str) -> str:
    return name.rpartition("/")[2]


def _request(dns_name: str) -> bytes:
    """Returns a CSR of a new P-256 key for one name."""
    names = x509.SubjectAlternativeName([x509.DNSName(dns_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
