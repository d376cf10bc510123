"""What becomes of an authority, at the edge: every field converted, every bad one named."""

from dataclasses import replace

import pytest
from cryptography import x509
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from certd.model.names import AuthorityName
from certd.pki import distinguished_name, name_constraints
from certd.pki.name_constraints import NameConstraints, Subtrees
from certd.services.authority_activation import Activation
from certd.services.authority_changes import Change, NewSettings
from certd.v1 import authority_pb2, authority_service_pb2, x509_pb2
from tests.api.edge_messages import AUTHORITY_NAME, REQUEST_ID, call, create_authority, distinguished_name_of, refused
from tests.api.edge_server import AUTHORITY, Edge
from tests.fakes import FakeClock
from tests.outside_parent import outside_authority

CA = AuthorityName("default", "web-ca")
_EXCLUDED_NAME = "authority.name_constraints.excluded.directory_names[0]"
_CONSTRAINTS = x509_pb2.NameConstraints(
    permitted=x509_pb2.Subtrees(
        dns_names=["example.internal"],
        ip_ranges=["192.0.2.0/24", "2001:db8::/32"],
        uri_hosts=[".example.internal"],
        email_addresses=["a@example.internal", "example.internal"],
        directory_names=[distinguished_name_of(("O", "Example"))],
    ),
    excluded=x509_pb2.Subtrees(dns_names=["bad.example.internal"]),
)
_PARSED = NameConstraints(
    permitted=Subtrees(
        dns_names=("example.internal",),
        ip_ranges=("192.0.2.0/24", "2001:db8::/32"),
        uri_hosts=(".example.internal",),
        email_addresses=("a@example.internal", "example.internal"),
        directory_names=(distinguished_name.parse_text("O=Example"),),
    ),
    excluded=Subtrees(dns_names=("bad.example.internal",)),
)


def update(*paths: str, **changes: object) -> authority_service_pb2.UpdateAuthorityRequest:
    return authority_service_pb2.UpdateAuthorityRequest(
        authority=authority_pb2.Authority(**({"name": AUTHORITY_NAME} | changes)),  # type: ignore[arg-type]  # Fields.
        update_mask=FieldMask(paths=paths),
    )


def test_name_constraints_come_in_whole(edge: Edge) -> None:
    call(edge, create_authority(name_constraints=_CONSTRAINTS))
    assert edge.told.last[1].name_constraints == _PARSED
    call(edge, create_authority())
    assert edge.told.last[1].name_constraints is None


def test_name_constraints_go_out_as_the_certificate_has_them(edge: Edge) -> None:
    asked = replace(AUTHORITY, certificate=None, name_constraints=name_constraints.encode(_PARSED))
    edge.authorities.view = replace(edge.authorities.view, authority=asked)
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert answer.name_constraints == _CONSTRAINTS
    written = (x509.NameConstraints([x509.DNSName("other.internal")], None), True)
    made = outside_authority("Bound", now=FakeClock().now(), extensions=[written])
    edge.authorities.view = replace(edge.authorities.view, authority=replace(asked, certificate=made.der))
    answer = call(edge, authority_service_pb2.GetAuthorityRequest(name=AUTHORITY_NAME))
    assert answer.name_constraints == x509_pb2.NameConstraints(
        permitted=x509_pb2.Subtrees(dns_names=["other.internal"])
    )


def test_the_csr_goes_out_in_both_forms(edge: Edge) -> None:
    answer = call(edge, authority_service_pb2.GetAuthorityCsrRequest(name=AUTHORITY_NAME))
    assert edge.told.last[1] == CA
    assert answer.der == b"csr"
    assert answer.pem == "-----BEGIN CERTIFICATE REQUEST-----\nY3Ny\n-----END CERTIFICATE REQUEST-----\n"


def test_activation_comes_in_whole(edge: Edge) -> None:
    request = authority_service_pb2.ActivateAuthorityRequest(
        name=AUTHORITY_NAME,
        certificate=b"certificate",
        chain=b"chain",
        etag="5f0c-3",
        request_id=REQUEST_ID,
        validate_only=True,
    )
    answer = call(edge, request)
    _, change, given = edge.told.last
    assert given == Activation(certificate=b"certificate", chain=b"chain")
    assert change.key.request_id == REQUEST_ID.lower()
    assert change == Change(name=CA, etag="5f0c-3", key=change.key, validate_only=True)
    assert (answer.name, answer.etag) == (AUTHORITY_NAME, "5f0c-3")


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (authority_service_pb2.EnableAuthorityRequest, "enable"),
        (authority_service_pb2.DisableAuthorityRequest, "disable"),
    ],
)
def test_enable_and_disable_come_in_whole(edge: Edge, message: type[Message], word: str) -> None:
    fields = {"name": AUTHORITY_NAME, "etag": "5f0c-3", "request_id": REQUEST_ID, "validate_only": True}
    assert call(edge, message(**fields)).name == AUTHORITY_NAME
    called, _, change = edge.told.last
    assert called == word
    assert change == Change(name=CA, etag="5f0c-3", key=change.key, validate_only=True)
    call(edge, message(name=AUTHORITY_NAME))
    assert edge.told.last[2] == Change(name=CA)


@pytest.mark.parametrize(
    ("request_", "new"),
    [
        (update("labels", labels={"team": "web"}), NewSettings(labels={"team": "web"})),
        (update("labels", deletion_protection=True), NewSettings(labels={})),
        (update("deletion_protection"), NewSettings(deletion_protection=False)),
        (update(labels={"team": "web"}), NewSettings(labels={"team": "web"})),
        (update(deletion_protection=True), NewSettings(deletion_protection=True)),
        # Without a mask what is not set does not change.
        (update(), NewSettings()),
    ],
)
def test_an_update_changes_what_the_mask_says(edge: Edge, request_: Message, new: NewSettings) -> None:
    call(edge, request_)
    assert edge.told.last[1:] == (Change(name=CA), new)


def test_an_update_has_its_etag_in_the_resource(edge: Edge) -> None:
    call(edge, update("labels", etag="5f0c-3"))
    assert edge.told.last[1] == Change(name=CA, etag="5f0c-3")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (authority_service_pb2.UpdateAuthorityRequest(), {"authority", "authority.name"}),
        (update("labels", "subject", "nonsense", "labels.team"), {f"update_mask.paths[{at}]" for at in (1, 2, 3)}),
        (update(labels={"": "x"}, etag="x" * 129), {"authority.labels['']", "authority.etag"}),
        (authority_service_pb2.GetAuthorityCsrRequest(name="web-ca"), {"name"}),
        (authority_service_pb2.ActivateAuthorityRequest(), {"name", "certificate", "chain"}),
        (
            authority_service_pb2.ActivateAuthorityRequest(
                name="tenants/default/authorities/-", certificate=b"c", chain=b"c", request_id="1", etag="x" * 129
            ),
            {"name", "request_id", "etag"},
        ),
        (authority_service_pb2.EnableAuthorityRequest(request_id="x"), {"name", "request_id"}),
        (authority_service_pb2.DisableAuthorityRequest(etag="\n"), {"name", "etag"}),
        (create_authority(name_constraints=x509_pb2.NameConstraints()), {"authority.name_constraints"}),
        (
            create_authority(
                name_constraints=x509_pb2.NameConstraints(
                    permitted=x509_pb2.Subtrees(dns_names=["ok.internal", "*.internal"], ip_ranges=["192.0.2.1/24"]),
                    excluded=x509_pb2.Subtrees(uri_hosts=["a b"], email_addresses=["@"]),
                )
            ),
            {
                "authority.name_constraints.permitted.dns_names[1]",
                "authority.name_constraints.permitted.ip_ranges[0]",
                "authority.name_constraints.excluded.uri_hosts[0]",
                "authority.name_constraints.excluded.email_addresses[0]",
            },
        ),
        (
            create_authority(
                name_constraints=x509_pb2.NameConstraints(
                    excluded=x509_pb2.Subtrees(directory_names=[distinguished_name_of(("FOO", "x"))])
                )
            ),
            {f"{_EXCLUDED_NAME}.relative_distinguished_names[0].attributes[0].type"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_bad_field_is_named(edge: Edge, request_: Message, expected: set[str]) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert {field for field, _ in failure.violations} == expected


def test_a_path_that_cannot_change_says_why(edge: Edge) -> None:
    failure = refused(edge, update("subject", "nonsense", "labels.team"))
    texts = [text for _, text in failure.violations]
    assert ["never changes" in texts[0], "no field" in texts[1], "as a whole" in texts[2]] == [True] * 3
