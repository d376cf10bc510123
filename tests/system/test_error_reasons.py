"""Every reason that the calls for authorities, profiles and certificates can answer, raised once by a real call.

One table: what raises it, the field that is to blame where one is, and the words of its remedy.
"""

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import delete, update

from certd.config import Limits
from certd.errors import CertdError, Reason
from certd.model.access import Caller as Principal
from certd.model.names import AuthorityName
from certd.pki import der, distinguished_name
from certd.services.certificates import NewCertificate
from certd.services.issuing_refusals import QUEUE_LENGTH
from certd.store import owners, profiles, schema
from certd.store.transaction import Transaction
from certd.token.policy import SignatureKind, authority_key_policy
from certd.v1.access_service_pb2 import (
    CreateGrantRequest,
    GetGrantRequest,
    GetIdentityRequest,
    RevokeIdentityRequest,
)
from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import GetAuthorityRequest, UpdateAuthorityRequest
from certd.v1.certificate_service_pb2 import (
    BatchIssueCertificatesRequest,
    GetCertificateRequest,
    ListCertificatesRequest,
    RevokeCertificateRequest,
)
from certd.v1.grant_pb2 import AUDITOR, Grant
from certd.v1.managed_certificate_pb2 import ManagedCertificate
from certd.v1.managed_certificate_service_pb2 import RequestManagedCertificateRequest
from certd.v1.profile_service_pb2 import DeleteProfileRequest
from certd.v1.tenant_service_pb2 import CreateTenantRequest
from certd.v1.wrapping_key_service_pb2 import GetWrappingKeyRequest
from certd.v1.x509_pb2 import SubjectAlternativeNames
from tests.system.calls import NAME, Caller, make_csr
from tests.system.reason_server import (
    CA,
    DISABLED,
    PROFILE,
    TENANT,
    Raised,
    Server,
    Told,
    create_authority,
    create_profile,
    issue,
    outside_of,
    serving,
    told_by,
)
from tests.system.reasons_of_authorities import RAISED_OF_AUTHORITIES
from tests.system.reasons_of_managed import RAISED_OF_MANAGED
from tests.system.reasons_of_revocations import RAISED_OF_REVOCATIONS
from tests.system.reasons_of_subscriptions import RAISED_OF_SUBSCRIPTIONS
from tests.waiting import eventually

_DAY = 86_400
_REQUEST_ID = "1f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a11"


def _wrongly_signed(server: Server) -> Told:
    csr = make_csr()
    return server.refused(issue(csr=csr.replace(NAME.encode(), NAME.replace("w", "v").encode())))


def _foreign_curve(server: Server) -> Told:
    return server.refused(issue(csr=_csr(ec.generate_private_key(ec.SECP256K1()))))


def _csr(key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in (x509.SubjectAlternativeName([x509.DNSName(NAME)]), *extensions):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _empty_policies(server: Server) -> Told:
    """A profile that takes extensions as they stand in the CSR, and one that breaks a rule."""
    purposes = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    policies = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), der.sequence())
    csr = _csr(ec.generate_private_key(ec.SECP256R1()), purposes, policies)
    return server.refused(issue(csr=csr, profile=f"{TENANT}/profiles/blank"))


def _managed(managed_id: str, **changes: object) -> RequestManagedCertificateRequest:
    names = SubjectAlternativeNames(dns_names=[NAME])
    managed = ManagedCertificate(authority=CA, subject_alternative_names=names, **changes)  # type: ignore[arg-type]  # Fields of the message.
    return RequestManagedCertificateRequest(
        parent=TENANT, managed_certificate_id=managed_id, managed_certificate=managed
    )


def _granted_twice(server: Server) -> Told:
    grant = Grant(principal="spiffe://certd.internal/identities/admin", role=AUDITOR, scope=TENANT)
    request = CreateGrantRequest(parent=TENANT, grant_id="twice", grant=grant)
    server.ask(request)
    return server.refused(request)


def _managed_twice(server: Server) -> Told:
    server.ask(_managed("twice"))
    return server.refused(_managed("twice"))


def _profile_in_use(server: Server) -> Told:
    server.ask(_managed("user", profile=PROFILE))
    return server.refused(DeleteProfileRequest(name=PROFILE))


def _revoked_twice(server: Server) -> Told:
    name = server.ask(issue()).name
    server.ask(RevokeCertificateRequest(name=name))
    return server.refused(RevokeCertificateRequest(name=name))


def _request_id_reused(server: Server) -> Told:
    server.ask(issue(request_id=_REQUEST_ID))
    return server.refused(issue(request_id=_REQUEST_ID))


def _in_progress(server: Server) -> Told:
    """The record is there, its certificate lost meanwhile: another try is on the way to make it anew."""
    request = issue(request_id="2f6e5b0a-6f0e-4d3b-9f55-2f0c6f1f8a12")
    serial = server.ask(request).name.rpartition("/")[2]
    lost = update(schema.certificates).where(schema.certificates.c.serial == serial)
    server.core.store.write("test.lose", lambda tx: tx.execute(lost, {"state": "LOST", "der": None}))
    return server.refused(request)


def _ownership_lost(server: Server) -> Told:
    def take_over() -> None:
        server.core.store.write("test.end", lambda tx: owners.end(tx, server.core.ownership.epoch()))
        assert server.core.recovery.run() == 1

    server.hold.at["issue.3.intended"] = take_over
    return server.refused(issue())


def _token_policy(server: Server) -> Told:
    uid = server.ask(create_authority("widened")).uid
    policy = authority_key_policy(
        kinds={SignatureKind.CERTIFICATE},
        issuer_name=distinguished_name.parse_text("CN=widened"),
        path_length=4,
        longest_lifetime=timedelta(days=36_500),
        self_signed=True,
    )
    widened = update(schema.authority_keys).where(schema.authority_keys.c.authority_uid == uid)
    server.core.store.write("test.widen", lambda tx: tx.execute(widened, {"policy": policy}))
    return server.refused(issue(parent=f"{TENANT}/authorities/widened"))


def _queue_full(server: Server) -> Told:
    """More certificates than the queue before the token holds, while the token does nothing."""
    request = BatchIssueCertificatesRequest(parent=CA, requests=[issue(parent="")] * 100, certificates_only=True)
    answers: list[Any] = []

    def ask() -> None:
        answers.append(server.ask(request))

    threads = [threading.Thread(target=ask) for _ in range(QUEUE_LENGTH // 100 + 2)]
    with server.held("issue.3.intended"):
        for thread in threads:
            thread.start()
        eventually(lambda: server.core.loop.waiting >= QUEUE_LENGTH)
        told = server.refused(issue())
    for thread in threads:
        thread.join()
    # For the others there was room, or they are told so too.
    reasons = {result.error.reason for answer in answers for result in answer.results}
    assert len(answers) == len(threads)
    assert reasons <= {"", Reason.SIGNING_QUEUE_FULL}
    return told


def _deadline(server: Server) -> Told:
    """Asked from within: the deadline of a call ends the call at the caller's side at the same moment."""
    new = NewCertificate(authority=AuthorityName("default", "ca"), csr=make_csr())
    administrator = Principal(principal="spiffe://certd.internal/identities/admin", serial="01")
    with server.held("issue.3.intended"), pytest.raises(CertdError) as raised:
        server.core.certificates.issue(administrator, new, key=None, validate_only=False, timeout=0.2)
    return told_by(raised.value)


def _token_gone(server: Server) -> Told:
    """It dies when it is about to be needed."""
    pid = server.core.token.process_id
    assert pid is not None

    def end() -> None:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not server.core.token.ready)

    server.hold.at["issue.1.read"] = end
    return server.refused(issue())


def _preparer_gone(server: Server) -> Told:
    """As before."""

    def end() -> None:
        for worker in server.core.preparer._workers:
            assert worker.channel.process_id is not None
            os.kill(worker.channel.process_id, signal.SIGKILL)
        eventually(lambda: not any(worker.channel.ready for worker in server.core.preparer._workers))

    server.hold.at["issue.1.read"] = end
    return server.refused(issue())


def _store_locked(server: Server) -> Told:
    database = server.installation.data / "certd.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        return server.refused(create_profile("locked"))


def _stopping(server: Server) -> Told:
    assert server.daemon._grpc is not None
    server.daemon._grpc._gate.stop()
    return server.refused(GetAuthorityRequest(name=CA))


def _busy(server: Server) -> Told:
    """One call is worked on, one waits; the third is one too many."""
    assert server.daemon._grpc is not None
    pool = server.daemon._grpc._pool
    with server.held("issue.1.read"):
        waiting = threading.Thread(target=server.ask, args=(GetAuthorityRequest(name=CA),))
        waiting.start()
        eventually(lambda: pool.is_full)
        told = server.refused(GetAuthorityRequest(name=CA))
    waiting.join()
    return told


def _defect(server: Server) -> Told:
    def fail() -> None:
        raise RuntimeError("a secret of the inside")

    server.hold.at["issue.1.read"] = fail
    told = server.refused(issue())
    assert "secret" not in told.message
    return told


def _servers_own_certificate(server: Server) -> Told:
    data = server.installation.data
    with closing(_caller(server, (data / "server.pem").read_bytes(), (data / "server.key").read_bytes())) as caller:
        return server.refused(GetAuthorityRequest(name=CA), caller=caller)


def _caller(server: Server, certificate: bytes, private_key: bytes) -> Caller:
    root = server.installation.trust_bundle.read_bytes()
    return Caller(server.address, root=root, certificate=certificate, private_key=private_key)


def _revoked_credential(server: Server) -> Told:
    certificate = x509.load_pem_x509_certificate(server.installation.certificate.read_bytes())

    def revoke(tx: Transaction) -> None:
        text = f"{certificate.serial_number:x}"
        column = schema.certificates.c.serial
        tx.execute(update(schema.certificates).where(column.in_([text, f"0{text}"])), {"state": "REVOKED"})
        tx.configuration_changed()

    server.core.store.write("test.revoke", revoke)
    return server.refused(GetAuthorityRequest(name=CA))


def _no_grant(server: Server) -> Told:
    def take(tx: Transaction) -> None:
        tx.execute(delete(schema.grants))
        tx.configuration_changed()

    server.core.store.write("test.take", take)
    return server.refused(issue())


def _too_many_profiles(server: Server) -> Told:
    def fill(tx: Transaction) -> None:
        for number in range(999):
            profiles.insert(tx, "default", f"p{number}", document="{}", now=server.core.clock.now())

    server.core.store.write("test.fill", fill)
    return server.refused(create_profile("one-more"))


def _lifetime(days: int) -> Duration:
    return Duration(seconds=days * _DAY)


RAISED: dict[Reason, Raised] = {
    Reason.FIELD_INVALID: Raised(by=lambda it: it.refused(issue(csr=b"")), field="csr", remedy="is required"),
    Reason.CSR_MALFORMED: Raised(
        by=lambda it: it.refused(issue(csr=b"0")), field="csr", remedy="send one PKCS#10 request as PEM or DER"
    ),
    Reason.CSR_SIGNATURE_INVALID: Raised(by=_wrongly_signed, field="csr", remedy="make it again with the private key"),
    Reason.KEY_TOO_WEAK: Raised(by=_foreign_curve, field="csr.public_key", remedy="use RSA of 2048"),
    Reason.NAME_NOT_ALLOWED: Raised(
        by=lambda it: it.refused(issue(csr=make_csr(x509.DNSName("-.example")))),
        field="csr.subject_alternative_names.dns_names[0]",
        remedy="other characters than letters, digits and inner hyphens",
    ),
    Reason.PROFILE_FORBIDS: Raised(
        by=lambda it: it.refused(issue(profile=PROFILE, lifetime=_lifetime(2))), field="lifetime", remedy="at most"
    ),
    Reason.LINT_FAILED: Raised(by=_empty_policies, field="csr.certificate", remedy="change the request"),
    Reason.LIFETIME_EXCEEDS_AUTHORITY: Raised(
        by=lambda it: it.refused(issue(lifetime=_lifetime(3))), field="lifetime", remedy="ask for"
    ),
    Reason.AUTHORITY_NOT_ENABLED: Raised(by=lambda it: it.refused(issue(parent=DISABLED)), remedy="enable it"),
    Reason.STATE_FORBIDS: Raised(
        by=lambda it: it.refused(RevokeCertificateRequest(name=_certificate_of_root(it))), remedy="disable"
    ),
    Reason.NAME_CONSTRAINT_VIOLATED: Raised(
        by=lambda it: it.refused(issue(csr=make_csr(x509.DNSName("a.secret.internal")))),
        field="csr.subject_alternative_names.dns_names[0]",
        remedy="ask another authority",
    ),
    Reason.TENANT_NOT_FOUND: Raised(
        by=lambda it: it.refused(ListCertificatesRequest(parent="tenants/other/authorities/-")), remedy="exist"
    ),
    Reason.AUTHORITY_NOT_FOUND: Raised(
        by=lambda it: it.refused(issue(parent=f"{TENANT}/authorities/nowhere")), remedy="exist"
    ),
    Reason.CERTIFICATE_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetCertificateRequest(name=f"{CA}/certificates/01")), remedy="exist"
    ),
    Reason.PROFILE_NOT_FOUND: Raised(
        by=lambda it: it.refused(issue(profile=f"{TENANT}/profiles/nowhere")), remedy="use one"
    ),
    Reason.AUTHORITY_EXISTS: Raised(
        by=lambda it: it.refused(create_authority("ca")), remedy="choose another authority_id"
    ),
    Reason.TENANT_EXISTS: Raised(
        by=lambda it: it.refused(CreateTenantRequest(tenant_id="default")), remedy="choose another tenant_id"
    ),
    Reason.IDENTITY_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetIdentityRequest(name="identities/nobody")), remedy="ListIdentities shows"
    ),
    Reason.WRAPPING_KEY_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetWrappingKeyRequest(name=f"{TENANT}/wrappingKeys/9")),
        remedy="ListWrappingKeys shows",
    ),
    Reason.GRANT_NOT_FOUND: Raised(
        by=lambda it: it.refused(GetGrantRequest(name="grants/none")), remedy="ListGrants shows"
    ),
    Reason.GRANT_EXISTS: Raised(by=_granted_twice, remedy="choose another grant_id"),
    Reason.LAST_ADMINISTRATOR: Raised(
        by=lambda it: it.refused(RevokeIdentityRequest(name="identities/admin")), remedy="administrator"
    ),
    Reason.PROFILE_EXISTS: Raised(by=lambda it: it.refused(create_profile("web")), remedy="choose another profile_id"),
    Reason.MANAGED_CERTIFICATE_EXISTS: Raised(by=_managed_twice, remedy="choose another"),
    Reason.PROFILE_IN_USE: Raised(by=_profile_in_use, remedy="delete these, or have them name another profile"),
    Reason.ALREADY_REVOKED: Raised(by=_revoked_twice, remedy="KEY_COMPROMISE"),
    Reason.ETAG_MISMATCH: Raised(
        by=lambda it: it.refused(UpdateAuthorityRequest(authority=Authority(name=CA, labels={"a": "b"}, etag='"0-0"'))),
        field="authority.etag",
        remedy="read it again",
    ),
    Reason.REQUEST_ID_REUSED: Raised(by=_request_id_reused, remedy="send a new one"),
    Reason.REQUEST_IN_PROGRESS: Raised(by=_in_progress, remedy="try again", retry=True),
    Reason.IMPORT_NOT_PEM: Raised(
        by=lambda it: it.refused(outside_of(it).activation(chain=b"nothing")), field="chain", remedy="PEM"
    ),
    Reason.IMPORT_EXPIRED: Raised(
        by=lambda it: it.refused(outside_of(it).activation(begins=timedelta(days=-2), ends=timedelta(days=-1))),
        field="certificate",
        remedy="have it issued again",
    ),
    Reason.IMPORT_KEY_MISMATCH: Raised(
        by=lambda it: it.refused(
            outside_of(it).activation(public_key=ec.generate_private_key(ec.SECP256R1()).public_key())
        ),
        field="certificate",
        remedy="CSR",
    ),
    Reason.IMPORT_CHAIN_INVALID: Raised(
        by=lambda it: it.refused(outside_of(it).activation(chain=it.installation.trust_bundle.read_bytes())),
        field="certificate",
        remedy="root, which is last",
    ),
    Reason.IMPORT_NOT_COMPATIBLE: Raised(
        by=lambda it: it.refused(outside_of(it).activation(authority=False)),
        field="certificate",
        remedy="have it issued as a certificate of an authority",
    ),
    Reason.CREDENTIAL_INVALID: Raised(by=_servers_own_certificate, remedy="enroll again"),
    Reason.INTERNAL: Raised(by=_defect, remedy="its log tells more under the error id"),
    Reason.TOKEN_POLICY_FORBIDS: Raised(by=_token_policy, remedy="policy"),
    Reason.DEADLINE_EXCEEDED: Raised(by=_deadline, remedy="repeat the call with the same request_id"),
    Reason.OWNERSHIP_LOST: Raised(by=_ownership_lost, remedy="try again", retry=True, alone=True),
    Reason.SIGNING_QUEUE_FULL: Raised(by=_queue_full, remedy="try again", retry=True, alone=True),
    Reason.TOKEN_UNAVAILABLE: Raised(by=_token_gone, remedy="is being started again", retry=True, alone=True),
    Reason.PREPARATION_UNAVAILABLE: Raised(by=_preparer_gone, remedy="is being started again", retry=True, alone=True),
    Reason.STORE_UNAVAILABLE: Raised(by=_store_locked, remedy="try again", retry=True, alone=True),
    Reason.SHUTTING_DOWN: Raised(by=_stopping, remedy="try again", retry=True, alone=True),
    Reason.SERVER_BUSY: Raised(
        by=_busy,
        remedy="try again",
        retry=True,
        alone=True,
        limits=Limits(concurrent_calls=1, maximum_waiting_calls=1),
    ),
    Reason.CREDENTIAL_REVOKED: Raised(by=_revoked_credential, remedy="enroll again", alone=True),
    Reason.PERMISSION_MISSING: Raised(by=_no_grant, remedy="an administrator can grant it", alone=True),
    Reason.QUOTA_EXCEEDED: Raised(by=_too_many_profiles, remedy="delete one that is not used", alone=True),
    **RAISED_OF_AUTHORITIES,
    **RAISED_OF_MANAGED,
    **RAISED_OF_REVOCATIONS,
    **RAISED_OF_SUBSCRIPTIONS,
}
"""One entry for each reason."""

ELSEWHERE: dict[Reason, str] = {
    Reason.NOT_EXPORTABLE: "of exports",
    Reason.RATE_LIMITED: "of exports",
    Reason.MANAGED_CERTIFICATE_NOT_FOUND: "of managed certificates that are read or exported",
    Reason.TOO_MANY_WATCHERS: "of streams",
    Reason.WATCHER_TOO_SLOW: "of streams",
    Reason.CURSOR_INVALID: "of streams",
    Reason.ENROLLMENT_CODE_INVALID: "of those who enroll, on a port of their own",
    Reason.DOWNLOAD_CODE_INVALID: "of devices, on a port of their own",
    Reason.CREDENTIAL_MISSING: "of callers without a certificate, whom the handshake of this port sends away",
}
"""Reasons that these calls never answer, and why not."""


def _certificate_of_root(server: Server) -> str:
    serial = server.ask(GetAuthorityRequest(name=CA)).description.serial_number
    return f"{CA}/certificates/{serial}"


def test_every_reason_has_its_place() -> None:
    assert set(RAISED) | set(ELSEWHERE) == set(Reason)
    assert not set(RAISED) & set(ELSEWHERE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("reasons")) as running:
        yield running


def _check(reason: Reason, told: Told) -> None:
    raised = RAISED[reason]
    assert told.reason == reason, told
    said = json.dumps([told.message, *told.violations.values()], ensure_ascii=False)
    assert raised.remedy in said
    assert told.retry is raised.retry
    if raised.field is None:
        assert not told.violations
    else:
        assert raised.field in told.violations


@pytest.mark.parametrize("reason", [reason for reason, raised in RAISED.items() if not raised.alone])
def test_the_reason_is_raised_and_names_field_and_remedy(server: Server, reason: Reason) -> None:
    _check(reason, RAISED[reason].by(server))


@pytest.mark.parametrize("reason", [reason for reason, raised in RAISED.items() if raised.alone])
def test_the_reason_of_an_outage_or_a_lost_right_is_raised_and_names_the_remedy(tmp_path: Path, reason: Reason) -> None:
    with serving(tmp_path, limits=RAISED[reason].limits) as running:
        _check(reason, RAISED[reason].by(running))
