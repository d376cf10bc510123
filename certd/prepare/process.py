"""The prepare process: calls in, prepared certificates out. It reads what strangers sent, and can reach nothing.

Once it has warmed up it may open neither files nor sockets, and it holds nothing worth stealing: no key at all.
"""

import codecs
import logging
import resource
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from certd.errors import CertdError, Reason
from certd.ipc.child import Child, InheritedSocket, ReceivedCall, Replies
from certd.ipc.garbage import spare_what_lives
from certd.ipc.hardening import harden
from certd.ipc.processor import interrupt_nobody
from certd.pki import distinguished_name
from certd.pki import key_spec as key_specs
from certd.pki.certificate_request import Issuer, Validity
from certd.pki.key_spec import KeyFamily, KeySpec
from certd.pki.preparation import key_identifier
from certd.pki.profiles import END_ENTITY
from certd.prepare.messages import Wanted, parse_request, response_bytes, result_of
from certd.prepare.order import Csr, Item, Terms
from certd.prepare.work import answer_item

_logger = logging.getLogger(__name__)

QUEUE_LENGTH = 1024
"""Calls that may wait."""
_CODECS = ("utf-16-be", "utf-32-be")
"""Of old kinds of strings; the interpreter loads them when they are first asked for."""
_WARM_UP = {KeyFamily.EC: KeySpec.EC_P256, KeyFamily.RSA: KeySpec.RSA_2048, KeyFamily.ED25519: KeySpec.ED25519}


def run(endpoint: InheritedSocket, *, parent_process_id: int) -> None:
    """Serves until the parent closes the socket. Call it on the main thread."""
    harden(parent_process_id=parent_process_id)
    interrupt_nobody()
    child = Child(endpoint, queue_length=QUEUE_LENGTH)
    child.start()
    try:
        _warm_up()
        spare_what_lives()
        # What is open stays open; nothing can be opened any more.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        child.set_readiness(ready=True)
        _serve(child)
    finally:
        child.close()


def _serve(child: Child) -> None:
    replies = Replies()
    while (received := child.take(None)) is not None:
        for call in received:
            if isinstance(call, ReceivedCall):
                # Nobody waits for the certificate any more, but the daemon counts its calls.
                replies.add(call, _too_late() if call.expired else _answer(call.payload))
        replies.flush()


def _too_late() -> CertdError:
    return CertdError(Reason.DEADLINE_EXCEEDED, "the deadline passed before a prepare process came to it; try again")


def _answer(payload: bytes) -> bytes | CertdError:
    try:
        terms, items, wanted = parse_request(payload)
    except (CertdError, DecodeError, ValueError, KeyError):
        _logger.exception("a call that no daemon of this version makes")
        return CertdError(Reason.INTERNAL, "the daemon and its prepare process do not understand each other")
    return response_bytes(result_of(answer_item(terms, item, wanted), wanted) for item in items)


def _warm_up() -> None:
    """Prepares a certificate for each kind of issuer and key, from a CSR, so that everything is loaded.

    The library loads some of its parts when it first verifies a signature, and would later take what it cannot open for
    a signature that is wrong.
    """
    for name in _CODECS:
        codecs.lookup(name)
    for spec in _WARM_UP.values():
        public_key = key_specs.public_key_der(key_specs.generate_private_key(spec).public_key())
        issuer = Issuer(
            name=distinguished_name.parse_text("CN=Warm-up"),
            public_key=public_key,
            subject_key_identifier=key_identifier(public_key),
            key_spec=spec,
            signature_algorithm=key_specs.default_signature_algorithm(spec),
            not_after=None,
            path_length=0,
        )
        item = Item(serial=1, source=Csr(data=_csr(spec)), validity=Validity(), now=datetime.now(UTC))
        terms = Terms(issuer=issuer, profile=END_ENTITY)
        answer = answer_item(terms, item, Wanted(lint_certificates=True, descriptions=True))
        if isinstance(answer, CertdError):
            _logger.error("warming up failed: %s", answer)


def _csr(spec: KeySpec) -> bytes:
    key = key_specs.generate_private_key(spec)
    names = [x509.DNSName("xn--mnchen-3ya.example"), x509.IPAddress(ip_address("192.0.2.1"))]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    signed = builder.add_extension(x509.SubjectAlternativeName(names), critical=True).sign(key, algorithm)
    return signed.public_bytes(Encoding.DER)
