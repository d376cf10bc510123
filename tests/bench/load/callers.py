"""A load generator: a process whose callers each call, wait for the answer, and call again."""

import itertools
import threading
import time
from array import array
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
from certd.v1.certificate_service_pb2 import IssueCertificateRequest, ListCertificatesRequest
from certd.v1.server_service_pb2 import GetServerInfoRequest
from tests.bench.load.messages import Connect, Listing, Outcome, Run, Target

_REQUESTS = 512
"""Made beforehand, each of a key of its own; then the first comes again."""
_PAGE = 1000


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
    callers.close()


@dataclass(slots=True)
class _Tally:
    """What one caller saw."""

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    serials: list[str] = field(default_factory=list)
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
        with ThreadPoolExecutor(max(len(clients), 1)) as threads:
            tallies = list(threads.map(lambda client: self._call(client, order), clients))
        return Outcome(
            latencies=[latency for tally in tallies for latency in tally.latencies],
            serials=[serial for tally in tallies for serial in tally.serials],
            failures=[failure for tally in tallies for failure in tally.failures],
            retries=self._retries - retries,
        )

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

    def _call(self, client: Client, order: Run) -> _Tally:
        tally = _Tally()
        time.sleep(max(0.0, order.start - time.monotonic()))
        while (began := time.monotonic()) < order.until:
            with self._lock:
                csr = next(self._requests)
            request = IssueCertificateRequest(parent=self._target.authority, csr=csr)
            try:
                answer = client.call(client.stubs.issue_certificate, request)
            except CallFailed as failure:
                # It fails the measurement, so there is no reason to go on.
                tally.failures.append(f"{failure.reason}: {failure}")
                break
            ended = time.monotonic()
            tally.serials.append(_serial(answer.name))
            if order.measure_from <= ended < order.until:
                tally.latencies.append(ended - began)
        return tally

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
