"""Requests for every method of the authority, certificate and profile services: whole, bent, damaged and repeated."""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from certd.v1 import (
    authority_pb2,
    authority_service_pb2,
    certificate_service_pb2,
    managed_certificate_pb2,
    managed_certificate_service_pb2,
    profile_service_pb2,
)
from certd.v1.x509_pb2 import KeySpec, NameConstraints, SubjectAlternativeNames, Subtrees
from tests.fuzz import csrs, fields, names
from tests.fuzz.filters import certificate_filter
from tests.fuzz.outside import OutsideParent
from tests.fuzz.profiles import distinguished_name, profile
from tests.fuzz.world import AWAITING, BUILT_IN, ISSUERS, SPARE, TENANT, World, authority_name, profile_name

_LONGEST_MESSAGE = 15 << 20
_RSA = frozenset({KeySpec.RSA_2048, KeySpec.RSA_3072, KeySpec.RSA_4096})


@dataclass(frozen=True, slots=True)
class Request:
    """A call to be made."""

    method: str
    """Full name."""
    payload: bytes
    bent: bool
    """Whether somebody changed it on purpose."""
    revocable: bool = False
    """Whether the key of what is issued may be reported as compromised."""


class Requests:
    """Makes requests.

    Args:
        world: what is known of the server.
        most_authorities: how many authorities may be made; each takes a key in the token.
    """

    def __init__(self, world: World, *, most_authorities: int) -> None:
        self._world = world
        self._authorities_left = most_authorities
        self._outside = {one: OutsideParent(csr, now=datetime.now(UTC)) for one, csr in world.awaiting_csrs.items()}
        services = (
            (authority_service_pb2, "AuthorityService"),
            (certificate_service_pb2, "CertificateService"),
            (profile_service_pb2, "ProfileService"),
            (managed_certificate_service_pb2, "ManagedCertificateService"),
        )
        methods = [m for file, name in services for m in file.DESCRIPTOR.services_by_name[name].methods]
        self._methods = {m.input_type.name: f"/{m.containing_service.full_name}/{m.name}" for m in methods}
        self._makers = [make for weight, make in self._weighted() for _ in range(weight)]

    def request(self, draw: random.Random) -> Request:
        """Returns the next request."""
        world = self._world
        if world.sent and draw.random() < 0.02:
            method, payload = world.sent[draw.randrange(len(world.sent))]
            return Request(method, payload, bent=False)
        message, revocable = draw.choice(self._makers)(draw)
        # An issue has been bent already, most of them: in their CSRs.
        issue = isinstance(message, certificate_service_pb2.IssueCertificateRequest)
        bends = 0 if issue and draw.random() < 0.7 else draw.choice((0, 0, 0, 1, 1, 2, 5))
        for _ in range(bends):
            fields.bend(draw, message, world)
        self._bound(draw, message)
        method = self._methods[message.DESCRIPTOR.name]
        payload = message.SerializeToString()
        if draw.random() < 0.06:
            return Request(method, fields.wire(draw, payload)[:_LONGEST_MESSAGE], bent=True)
        request_id = str(getattr(message, "request_id", ""))
        if request_id and len(payload) < 100_000:
            world.sent.append((method, payload))
            world.request_ids.append(request_id)
        return Request(method, payload[:_LONGEST_MESSAGE], bent=bends > 0, revocable=revocable)

    def _bound(self, draw: random.Random, message: Any) -> None:
        """Keeps from the token what takes seconds there, and keeps the authorities that the run needs."""
        match message:
            case authority_service_pb2.CreateAuthorityRequest():
                if self._authorities_left <= 0 or message.authority.key_spec in _RSA:
                    message.validate_only = True
                elif not message.validate_only:
                    self._authorities_left -= 1
            case authority_service_pb2.ActivateAuthorityRequest():
                message.validate_only = True
            case authority_service_pb2.DisableAuthorityRequest() if message.name != authority_name(SPARE):
                message.validate_only = True
            case (
                certificate_service_pb2.SearchCertificatesRequest() | certificate_service_pb2.ListCertificatesRequest()
            ):
                if message.page_size > 100 and draw.random() < 0.9:
                    message.page_size = 20
            case managed_certificate_service_pb2.RequestManagedCertificateRequest():
                message.validate_only = draw.random() < 0.95 or message.validate_only

    def _weighted(self) -> tuple[tuple[int, Callable[[random.Random], tuple[Message, bool]]], ...]:
        def alone(make: Callable[[random.Random], Message]) -> Callable[[random.Random], tuple[Message, bool]]:
            return lambda draw: (make(draw), False)

        return (
            (56, self._issue),
            (3, alone(self._batch)),
            (3, alone(self._revoke)),
            (3, alone(self._search)),
            (2, alone(self._get_certificate)),
            (2, alone(self._list_certificates)),
            (4, alone(self._create_profile)),
            (3, alone(self._update_profile)),
            (1, alone(self._delete_profile)),
            (6, alone(self._check_profile)),
            (2, alone(self._read_profile)),
            (3, alone(self._create_authority)),
            (3, alone(self._activate)),
            (4, alone(self._other_authority_call)),
            (1, alone(self._request_managed)),
        )

    def _request_id(self, draw: random.Random) -> str:
        if draw.random() < 0.6:
            return ""
        if draw.random() < 0.9:
            return str(uuid.UUID(int=draw.getrandbits(128), version=4))
        return self._world.pick(draw, self._world.request_ids, "")

    def _profile_name(self, draw: random.Random) -> str:
        kind = draw.random()
        if kind < 0.35:
            return ""
        return profile_name(draw.choice(BUILT_IN)) if kind < 0.6 else self._own_profile(draw)

    def _names(self, draw: random.Random) -> SubjectAlternativeNames:
        some = draw.choice((0, 1, 1, 2))
        return SubjectAlternativeNames(
            dns_names=[names.dns_name(draw) if draw.random() < 0.8 else names.odd_text(draw) for _ in range(some)],
            ip_addresses=[str(names.address(draw))] if draw.random() < 0.3 else [],
            uris=[names.odd_text(draw)] if draw.random() < 0.1 else [],
            email_addresses=["anna@example.internal"] if draw.random() < 0.1 else [],
        )

    def _issue_request(self, draw: random.Random) -> tuple[certificate_service_pb2.IssueCertificateRequest, bool]:
        csr, revocable = csrs.csr(draw)
        request = certificate_service_pb2.IssueCertificateRequest(
            parent=authority_name(draw.choice(ISSUERS)),
            csr=csr,
            profile=self._profile_name(draw),
            request_id=self._request_id(draw),
            validate_only=draw.random() < 0.05,
        )
        if draw.random() < 0.2:
            request.lifetime.CopyFrom(Duration(seconds=draw.choice((60, 3600, 86_400, 80 * 86_400))))
        elif draw.random() < 0.08:
            end = datetime.now(UTC).replace(microsecond=draw.choice((0, 0, 0, 1))) + timedelta(
                seconds=draw.choice((-10, 1, 3600, 86_400, 10**9))
            )
            request.not_after_time.FromDatetime(end)
        if draw.random() < 0.06:
            request.subject.CopyFrom(distinguished_name(("O", "Example"), ("CN", names.dns_name(draw))))
        if draw.random() < 0.06:
            request.subject_alternative_names.CopyFrom(self._names(draw))
        if draw.random() < 0.1:
            request.labels["team"] = "a"
        return request, revocable

    def _issue(self, draw: random.Random) -> tuple[Message, bool]:
        return self._issue_request(draw)

    def _batch(self, draw: random.Random) -> Message:
        count = draw.choice((1, 2, 5, 10, 30)) if draw.random() < 0.97 else draw.choice((0, 300, 1000, 1001))
        if count > 30:
            one, _ = self._issue_request(draw)
            one.parent = ""
            items = [one] * count
        else:
            items = [self._issue_request(draw)[0] for _ in range(count)]
            for item in items:
                item.parent = ""
        return certificate_service_pb2.BatchIssueCertificatesRequest(
            parent=authority_name(draw.choice(ISSUERS)),
            requests=items,
            request_id=self._request_id(draw),
            validate_only=draw.random() < 0.1,
            certificates_only=draw.random() < 0.3,
        )

    def _certificate_name(self, draw: random.Random) -> str:
        return self._world.pick(draw, self._world.certificates, authority_name(ISSUERS[0]) + "/certificates/01")

    def _revoke(self, draw: random.Random) -> Message:
        request = certificate_service_pb2.RevokeCertificateRequest(
            name=self._certificate_name(draw),
            reason=draw.choice((0, 1, 1, 2, 3, 4, 5, 6, 8, 9, 10)),  # type: ignore[arg-type]  # Any number.
            request_id=self._request_id(draw),
            validate_only=draw.random() < 0.2,
        )
        if draw.random() < 0.3:
            moment = datetime.now(UTC) + timedelta(seconds=draw.choice((-100, -1, 0, 10, -(10**9))))
            request.invalidity_time.FromDatetime(moment)
        return request

    def _page_token(self, draw: random.Random) -> str:
        return self._world.pick(draw, self._world.page_tokens, "") if draw.random() < 0.3 else ""

    def _parent(self, draw: random.Random) -> str:
        return authority_name(draw.choice((*ISSUERS, "-")))

    def _search(self, draw: random.Random) -> Message:
        return certificate_service_pb2.SearchCertificatesRequest(
            parent=self._parent(draw),
            filter=certificate_filter(draw, self._world, draw.choice((0, 2, 3, 9))),
            page_size=draw.choice((0, 1, 5, 20)),
            page_token=self._page_token(draw),
        )

    def _list_certificates(self, draw: random.Random) -> Message:
        return certificate_service_pb2.ListCertificatesRequest(
            parent=self._parent(draw), page_size=draw.choice((1, 5, 20)), page_token=self._page_token(draw)
        )

    def _get_certificate(self, draw: random.Random) -> Message:
        name = self._certificate_name(draw)
        return certificate_service_pb2.GetCertificateRequest(name=name.upper() if draw.random() < 0.1 else name)

    def _create_profile(self, draw: random.Random) -> Message:
        return profile_service_pb2.CreateProfileRequest(
            parent=TENANT,
            profile_id=f"p{draw.randrange(60)}",
            profile=profile(draw),
            request_id=self._request_id(draw),
            validate_only=draw.random() < 0.1,
        )

    def _own_profile(self, draw: random.Random) -> str:
        return self._world.pick(draw, self._world.profiles, profile_name("p1"))

    def _etag(self, draw: random.Random) -> str:
        return self._world.pick(draw, self._world.etags, "") if draw.random() < 0.2 else ""

    def _update_profile(self, draw: random.Random) -> Message:
        made = profile(draw)
        made.name, made.etag = self._own_profile(draw), self._etag(draw)
        request = profile_service_pb2.UpdateProfileRequest(profile=made, request_id=self._request_id(draw))
        paths = draw.choice(((), ("*",), ("names",), ("subject", "description"), ("authority",)))
        request.update_mask.paths.extend(paths)
        return request

    def _delete_profile(self, draw: random.Random) -> Message:
        return profile_service_pb2.DeleteProfileRequest(
            name=self._own_profile(draw), etag=self._etag(draw), request_id=self._request_id(draw)
        )

    def _check_profile(self, draw: random.Random) -> Message:
        csr, _ = csrs.csr(draw)
        request = profile_service_pb2.CheckProfileRequest(
            name=self._profile_name(draw) or profile_name("server"),
            profile=profile(draw) if draw.random() < 0.5 else None,
            csr=csr,
            authority=authority_name(draw.choice(ISSUERS)) if draw.random() < 0.5 else "",
        )
        if draw.random() < 0.2:
            request.subject_alternative_names.CopyFrom(self._names(draw))
        return request

    def _read_profile(self, draw: random.Random) -> Message:
        if draw.random() < 0.5:
            return profile_service_pb2.GetProfileRequest(
                name=self._own_profile(draw), version=draw.choice((0, 1, 2, 3, 50))
            )
        return profile_service_pb2.ListProfilesRequest(
            parent=TENANT, page_size=draw.choice((1, 5, 100)), page_token=self._page_token(draw)
        )

    def _create_authority(self, draw: random.Random) -> Message:
        authority = authority_pb2.Authority(
            type=draw.choice((1, 2, 2)),  # type: ignore[arg-type]  # The stubs want constants.
            key_spec=draw.choice((0, 1, 4, 5, 6, 7)),  # type: ignore[arg-type]  # As above.
            subject=distinguished_name(("O", "Example"), ("CN", f"Authority {draw.randrange(1000)}")),
            issuer=draw.choice(("", authority_name("fuzz-root"), authority_name("fuzz-bound"))),
            path_length=draw.choice((0, 1)),
        )
        if draw.random() < 0.5:
            authority.name_constraints.CopyFrom(self._constraints(draw))
        return authority_service_pb2.CreateAuthorityRequest(
            parent=TENANT,
            authority_id=f"a{draw.randrange(100)}",
            authority=authority,
            request_id=self._request_id(draw),
            validate_only=draw.random() < 0.8,
        )

    def _constraints(self, draw: random.Random) -> NameConstraints:
        def subtrees() -> Subtrees:
            return Subtrees(
                dns_names=draw.sample(("", "example.internal", "Example.COM", ".a.b", "*.a"), draw.randrange(3)),
                ip_ranges=draw.sample(("10.0.0.0/8", "::/0", "10.0.0.1/8", "x"), draw.randrange(2)),
                uri_hosts=draw.sample(("example.com", ".example.com", "", "10.0.0.1"), draw.randrange(2)),
                email_addresses=draw.sample(("example.com", ".example.com", "a@example.com", "@"), draw.randrange(2)),
                directory_names=[distinguished_name(("O", "Example"))] if draw.random() < 0.3 else [],
            )

        made = NameConstraints()
        for side in (made.permitted, made.excluded):
            if draw.random() < 0.6:
                side.CopyFrom(subtrees())
        return made

    def _activate(self, draw: random.Random) -> Message:
        awaiting = draw.choice(AWAITING)
        certificate, chain = self._outside[awaiting].answer(draw)
        return authority_service_pb2.ActivateAuthorityRequest(
            name=authority_name(awaiting), certificate=certificate, chain=chain, request_id=self._request_id(draw)
        )

    def _other_authority_call(self, draw: random.Random) -> Message:
        spare, any_name = authority_name(SPARE), authority_name(draw.choice((*ISSUERS, *AWAITING, SPARE)))
        labels = {"a": names.odd_text(draw)} if draw.random() < 0.5 else {}
        made: tuple[Message, ...] = (
            authority_service_pb2.EnableAuthorityRequest(name=spare, etag=self._etag(draw)),
            authority_service_pb2.DisableAuthorityRequest(name=spare, request_id=self._request_id(draw)),
            authority_service_pb2.GetAuthorityCsrRequest(name=any_name),
            authority_service_pb2.GetAuthorityRequest(name=any_name),
            authority_service_pb2.ListAuthoritiesRequest(parent=TENANT, page_size=3, page_token=self._page_token(draw)),
            authority_service_pb2.UpdateAuthorityRequest(
                authority=authority_pb2.Authority(name=spare, labels=labels, etag=self._etag(draw)),
                request_id=self._request_id(draw),
            ),
        )
        return draw.choice(made)

    def _request_managed(self, draw: random.Random) -> Message:
        return managed_certificate_service_pb2.RequestManagedCertificateRequest(
            parent=TENANT,
            managed_certificate_id=f"m{draw.randrange(50)}",
            managed_certificate=managed_certificate_pb2.ManagedCertificate(
                authority=authority_name(draw.choice(ISSUERS)),
                profile=self._profile_name(draw),
                key_spec=draw.choice((0, 4, 5, 7)),  # type: ignore[arg-type]  # As above.
                subject_alternative_names=self._names(draw),
            ),
            request_id=self._request_id(draw),
        )
