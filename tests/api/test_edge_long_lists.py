"""Lists as long as a message: refused by their length or by their first wrong values, not looked at one by one."""

import pytest
from google.protobuf.message import Message

from certd.v1.authority_pb2 import Authority
from certd.v1.authority_service_pb2 import UpdateAuthorityRequest
from certd.v1.profile_pb2 import Profile
from certd.v1.profile_service_pb2 import CreateProfileRequest
from certd.v1.x509_pb2 import DistinguishedName, RelativeDistinguishedName
from tests.api.edge_messages import AUTHORITY_NAME, create_authority, refused
from tests.api.edge_server import Edge

MANY = 30_000


def _profile(**lists: object) -> CreateProfileRequest:
    return CreateProfileRequest(parent="tenants/default", profile_id="web", profile=Profile(**lists))  # type: ignore[arg-type]  # Fields of the message.


@pytest.mark.parametrize(
    "request_",
    [
        _profile(key_specs=[4] * MANY),
        _profile(key_usages=[99] * MANY),
        UpdateAuthorityRequest(
            authority=Authority(name=AUTHORITY_NAME, labels={f"{number}\n": "" for number in range(MANY)})
        ),
    ],
    ids=["a value again and again", "values that nobody knows", "labels with control characters"],
)
def test_the_first_thousand_wrong_values_are_enough(edge: Edge, request_: Message) -> None:
    failure = refused(edge, request_)
    assert failure.reason == "FIELD_INVALID"
    assert failure.message.startswith("1000 fields are invalid")


def test_a_name_with_too_many_parts_is_refused_by_their_number(edge: Edge) -> None:
    subject = DistinguishedName(relative_distinguished_names=[RelativeDistinguishedName()] * MANY)
    failure = refused(edge, create_authority(subject=subject))
    assert failure.violations == (("authority.subject", "has more than 32 relative distinguished names"),)
