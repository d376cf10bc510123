"""Attacks by those who may call: with other people's names, with forged credentials, with names of another tenant."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from sqlalchemy import delete

from certd.errors import CertdError, Reason
from certd.model.access import Role
from certd.pki.credential_request import CredentialRequest, new_credential_request
from certd.pki.encoding import certificate_pem
from certd.store import schema
from certd.v1 import access_service_pb2, grant_pb2, profile_pb2, server_service_pb2, x509_pb2
from tests.api.every_method import METHODS_OF_SERVICES, TRUST_DOMAIN, Resources, named, requests_to
from tests.api.whole_daemon import Installed, call, failure_to, grant_of, whole_daemon
from tests.fakes import FakeClock

_INFO = server_service_pb2.GetServerInfoRequest()
_ADMINISTRATOR = f"spiffe://{TRUST_DOMAIN}/identities/admin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with whole_daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


def _certificate(
    subject: x509.Name, names: list[x509.GeneralName], *, issuer: x509.Name, signed_by: ec.EllipticCurvePrivateKey
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
    )
    return builder.sign(signed_by, hashes.SHA256()), key


def _request_of(key: ec.EllipticCurvePrivateKey) -> CredentialRequest:
    return CredentialRequest(private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), csr=b"")


def test_an_authority_with_the_names_of_the_system_authority_makes_no_callers(installed: Installed) -> None:
    root = x509.load_pem_x509_certificate(installed.system_root)
    forged, key = _certificate(
        x509.Name([]),
        [x509.UniformResourceIdentifier(_ADMINISTRATOR)],
        issuer=root.subject,
        signed_by=ec.generate_private_key(ec.SECP256R1()),
    )
    pem = forged.public_bytes(Encoding.PEM)
    with installed.channel(_request_of(key), pem) as channel, pytest.raises(grpc.RpcError) as raised:
        call(channel, named("GetServerInfo"), _INFO)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_the_system_authority_that_is_not_in_the_books_opens_nothing(installed: Installed) -> None:
    made = new_credential_request()
    certificate = installed.identities.ensure_identity(f"spiffe://{TRUST_DOMAIN}/identities/ghost", made.csr)
    serial = f"{x509.load_der_x509_certificate(certificate.certificate).serial_number:x}"

    def forget(tx: Any) -> None:
        rows = schema.certificates.c.serial.like(f"%{serial}")
        assert tx.execute(delete(schema.certificates).where(rows)).rowcount == 1

    installed.core.store.write("test.forget", forget)
    with installed.channel(made, certificate_pem(certificate.certificate).encode()) as channel:
        failure = failure_to(channel, named("GetServerInfo"), _INFO)
    assert failure is not None
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


@pytest.mark.parametrize(
    "uris",
    [
        [_ADMINISTRATOR, _ADMINISTRATOR],
        [f"spiffe://{TRUST_DOMAIN}/identities/guest", _ADMINISTRATOR],
        [_ADMINISTRATOR.upper()],
        [_ADMINISTRATOR.replace("spiffe", "SPIFFE")],
        [_ADMINISTRATOR.replace("admin", "%61dmin")],
        [f"{_ADMINISTRATOR}/"],
        [f"{_ADMINISTRATOR}?x"],
        [f"{_ADMINISTRATOR}#x"],
        [f"spiffe://{TRUST_DOMAIN}:443/identities/admin"],
        [f"spiffe://admin@{TRUST_DOMAIN}/identities/admin"],
        [f"spiffe://{TRUST_DOMAIN}/identities/./admin"],
        [f"spiffe://{TRUST_DOMAIN}//identities/admin"],
        ["spiffe://another.test/identities/admin"],
        [f"https://{TRUST_DOMAIN}/identities/admin"],
        [],
    ],
)
def test_names_that_only_look_like_an_identity_are_none(installed: Installed, uris: list[str]) -> None:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    forged, _ = _certificate(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _ADMINISTRATOR)]),
        [*names, x509.DNSName("admin")],
        issuer=x509.Name([]),
        signed_by=ec.generate_private_key(ec.SECP256R1()),
    )
    with pytest.raises(CertdError) as caught:
        installed.core.access.authenticate(forged.public_bytes(Encoding.DER))
    assert caught.value.reason is Reason.CREDENTIAL_INVALID


def test_a_certificate_that_ended_opens_nothing_on_an_open_connection(tmp_path: Any) -> None:
    clock = FakeClock(datetime.now(UTC))
    with whole_daemon(tmp_path, clock=clock) as running:
        assert failure_to(running.administrator, named("GetServerInfo"), _INFO) is None
        clock.advance(timedelta(days=31))
        failure = failure_to(running.administrator, named("GetServerInfo"), _INFO)
    assert failure is not None
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


def test_a_revoked_identity_is_refused_on_an_open_connection(installed: Installed) -> None:
    caller = installed.caller("revoked", grant_of("revoked", Role.AUDITOR))
    assert failure_to(caller, named("GetServerInfo"), _INFO) is None
    revoke = access_service_pb2.RevokeIdentityRequest(name="identities/revoked")
    assert failure_to(installed.administrator, named("RevokeIdentity"), revoke) is None
    failure = failure_to(caller, named("GetServerInfo"), _INFO)
    assert failure is not None
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")


_OWN = "tenants/default"
_FIELDS_FOR_NAMES = {
    "CreateAuthority": {"authority.issuer"},
    "IssueCertificate": {"profile"},
    "RequestManagedCertificate": {"managed_certificate.profile"},
    "BatchIssueCertificates": {"requests.parent", "requests.profile"},
    "CreateGrant": {"grant.scope"},
    "CheckProfile": {"authority"},
    "CreateSubscription": {"subscription.resource"},
}
"""Fields that take a name and stand in no request of `every_method`."""


def _places(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The path and the value of every field that holds a name of the tenant."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str) and value.startswith(_OWN):
            yield path, value
        elif field.type == FieldDescriptor.TYPE_MESSAGE and isinstance(value, Message):
            yield from _places(value, f"{path}.")


def _paths(method: str, resources: Resources) -> set[str]:
    return {path for path, _ in _places(requests_to(resources)[method])} | _FIELDS_FOR_NAMES.get(method, set())


def _put(message: Any, path: str, value: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
        if not isinstance(message, Message):
            message = message[0] if len(message) else message.add()
    setattr(message, last, value)


def _name_in(resources: Resources, path: str, method: str) -> str:
    """A name of the kind that a field takes, in another tenant."""
    tenant = f"tenants/{resources.tenant}"
    for path_there, value in _places(requests_to(resources)[method]):
        if path_there == path:
            return value
    last = path.rpartition(".")[2]
    return {
        "issuer": f"{tenant}/authorities/{resources.authority}",
        "authority": f"{tenant}/authorities/{resources.authority}",
        "profile": f"{tenant}/profiles/{resources.profile}",
        "scope": tenant,
        "parent": f"{tenant}/authorities/{resources.authority}",
    }.get(last, tenant)


_CASES = sorted(
    (method.name, path)
    for method in METHODS_OF_SERVICES
    for path in _paths(method.name, Resources(tenant="default", authority="ca", managed="web", serial="0abc"))
)


_TELL_NOTHING = {"PERMISSION_MISSING", "FIELD_INVALID", "PROFILE_NOT_FOUND", "IDENTITY_NOT_FOUND"}
"""Reasons that are the same for what another tenant has and for what nobody has."""


@pytest.mark.parametrize(("method", "path"), _CASES, ids=str)
def test_no_field_reaches_or_tells_of_another_tenant(installed: Installed, method: str, path: str) -> None:
    name = "deputy"
    caller = installed.caller(name, *(grant_of(name, role, _OWN) for role in Role))
    shown = []
    for target in (installed.elsewhere, _never_made(installed.elsewhere)):
        request = requests_to(installed.there)[method]
        if "validate_only" in request.DESCRIPTOR.fields_by_name:
            request.validate_only = True  # type: ignore[attr-defined]  # It has the field.
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = ""  # type: ignore[attr-defined]  # As above.
        _put(request, path, _moved(_name_in(installed.there, path, method), target))
        failure = failure_to(caller, named(method), request)
        if failure is None and method in {"BatchIssueCertificates", "BatchRevokeCertificates"}:
            answer: Any = call(caller, named(method), request)
            assert answer.results[0].HasField("error")
            shown.append(_without_words(repr(answer.results[0]), target))
            continue
        assert failure is not None, (method, path)
        assert failure.reason in _TELL_NOTHING, failure
        shown.append(_without_words(repr(failure), target))
    assert shown[0] == shown[1]


def _never_made(like: Resources) -> Resources:
    return Resources(
        tenant="nowhere",
        authority="n-a",
        managed="n-m",
        serial=like.serial,
        profile="n-p",
        identity="n-i",
        grant="n-g",
        campaign="n-c",
        association="n-as",
        subscription="n-s",
    )


def _moved(name: str, target: Resources) -> str:
    """The name of the like thing in another tenant."""
    kinds = {
        "authorities": target.authority,
        "managedCertificates": target.managed,
        "profiles": target.profile,
        "certificates": target.serial,
        "identities": target.identity,
        "grants": target.grant,
        "renewalCampaigns": target.campaign,
        "associations": target.association,
        "subscriptions": target.subscription,
    }
    parts = name.split("/")
    parts[1] = target.tenant
    for index in range(2, len(parts) - 1, 2):
        parts[index + 1] = kinds.get(parts[index], parts[index + 1])
    return "/".join(parts)


def _without_words(text: str, target: Resources) -> str:
    for word in sorted(target.words, key=len, reverse=True):
        text = text.replace(f"/{word}", "/…")
    return text


def test_who_may_grant_grants_no_more_than_they_hold(installed: Installed) -> None:
    name = "climber"
    caller = installed.caller(name, grant_of(name, Role.ADMINISTRATOR, _OWN))
    me = f"spiffe://{TRUST_DOMAIN}/identities/{name}"
    for grant, parent in (
        (grant_pb2.Grant(principal=me, role=grant_pb2.ISSUER, profiles=["*"]), _OWN),
        (grant_pb2.Grant(principal=me, role=grant_pb2.EXPORTER), _OWN),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR, scope="tenants/other"), _OWN),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR), "tenants/other"),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR, scope="*"), ""),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR, scope="*"), _OWN),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR, scope="tenants/defaul"), _OWN),
        (grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR, scope="tenants/default2"), _OWN),
    ):
        request = access_service_pb2.CreateGrantRequest(parent=parent, grant=grant)
        failure = failure_to(caller, named("CreateGrant"), request)
        assert failure is not None, grant
        assert failure.reason in {"PERMISSION_MISSING", "FIELD_INVALID"}, (grant, failure)
    allowed = access_service_pb2.CreateGrantRequest(
        parent=_OWN, grant=grant_pb2.Grant(principal=me, role=grant_pb2.ADMINISTRATOR)
    )
    assert failure_to(caller, named("CreateGrant"), allowed) is None


def test_a_profile_of_ones_own_making_yields_no_authority(installed: Installed) -> None:
    """Who may write profiles and issue gets no CA out of it: that takes an authority operator."""
    name = "maker"
    caller = installed.caller(name, grant_of(name, Role.ADMINISTRATOR, _OWN), grant_of(name, Role.ISSUER, _OWN))
    requests = requests_to(installed.there)
    create: Any = requests["CreateProfile"]
    create.profile_id, create.request_id = "mighty", ""
    create.profile.CopyFrom(
        profile_pb2.Profile(
            longest_lifetime=Duration(seconds=86400),
            authority=True,
            key_usages=[x509_pb2.KEY_CERT_SIGN, x509_pb2.CRL_SIGN],
        )
    )
    assert failure_to(caller, named("CreateProfile"), create) is None
    issue: Any = requests["IssueCertificate"]
    issue.profile, issue.request_id = f"{_OWN}/profiles/mighty", ""
    failure = failure_to(caller, named("IssueCertificate"), issue)
    assert failure is not None
    assert failure.reason == "PERMISSION_MISSING"
