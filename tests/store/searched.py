"""Certificates to search among, random conditions, and what a plain reading of these says."""

import hashlib
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never

from hypothesis import strategies as st

from certd.model.certificate import CertificateState, Intent
from certd.model.certificate_filter import (
    AllOf,
    AnyOf,
    CertificateFilter,
    CreatedWithin,
    EndsWithin,
    HasName,
    HasSerial,
    InDomain,
    InState,
    IsManaged,
    Labelled,
    Not,
    OfKey,
    OfKeySpec,
    UnderProfile,
)
from certd.pki.key_spec import KeySpec
from certd.pki.names import SubjectAlternativeNames
from tests.store.samples import NOW, intent

DOMAINS = ("com", "example.com", "example-x.com", "sub.example.com", "xample.com", "example.comx", "internal", "absent")
HOSTS = ("", "www.", "*.", "a.b.", "sub.")
LABEL_KEYS = (
    "team",
    'a"b',
    "a.b",
    "ü",
    "a'b;--",
    "$",
    "[0]",
    "\\",
    " ",
    "%s",
    "key",
    "value",
    "1",
    "{}",
    "\u2028",
    "😀",
)
LABEL_VALUES = ("web", "", 'quote"', "null", "1", "true", "ü\\", "{}")
PROFILES = ("end-entity", "server", "client")
AUTHORITIES = ("a0", "a1", "a2")
_SPAN = 300
_KEYS = [hashlib.sha256(bytes([number])).digest() for number in range(8)]


def rows(count: int, seed: int = 1) -> list[tuple[Intent, CertificateState]]:
    """Returns intents of AUTHORITIES and what is to become of each; many of one moment, some without names."""
    chosen = random.Random(seed)  # The same rows in every run.

    def names() -> SubjectAlternativeNames:
        return SubjectAlternativeNames(
            dns_names=tuple({chosen.choice(HOSTS) + chosen.choice(DOMAINS[:-1]) for _ in range(chosen.randrange(3))}),
            ip_addresses=("10.0.0.1",) if chosen.random() < 0.2 else (),
            uris=("spiffe://example/web",) if chosen.random() < 0.2 else (),
            # The text of a DNS name, as a name of another kind.
            email_addresses=("jane@example.com",) if chosen.random() < 0.2 else (),
        )

    return [
        (
            intent(
                authority_uid=chosen.choice(AUTHORITIES),
                serial=f"{number:04x}",
                create_time=NOW + timedelta(seconds=chosen.randrange(_SPAN) // 3),
                not_after=NOW + timedelta(days=1, seconds=chosen.randrange(_SPAN)),
                profile=chosen.choice(PROFILES),
                key_spec=chosen.choice((KeySpec.EC_P256, KeySpec.RSA_2048, None)),
                public_key_sha256=chosen.choice(_KEYS),
                names=names(),
                labels={
                    chosen.choice(LABEL_KEYS): chosen.choice(LABEL_VALUES) for _ in range(chosen.choice((0, 0, 1, 3)))
                },
                managed_certificate_uid="managed" if chosen.random() < 0.3 else None,
            ),
            chosen.choices(list(CertificateState), weights=(1, 6, 2, 1))[0],
        )
        for number in range(count)
    ]


_moments = st.integers(0, _SPAN).map(lambda seconds: timedelta(seconds=seconds))


def _spans(of: type[EndsWithin] | type[CreatedWithin], origin: datetime) -> st.SearchStrategy[CertificateFilter]:
    ends = st.tuples(st.none() | _moments, st.none() | _moments).filter(lambda pair: pair != (None, None))
    return ends.map(
        lambda pair: of(
            begin=None if pair[0] is None else origin + pair[0], end=None if pair[1] is None else origin + pair[1]
        )
    )


_leaves: st.SearchStrategy[CertificateFilter] = st.one_of(
    st.builds(
        lambda host, domain: HasName(SubjectAlternativeNames(dns_names=(host + domain,))),
        st.sampled_from(HOSTS),
        st.sampled_from(DOMAINS),
    ),
    st.sampled_from(
        [
            HasName(SubjectAlternativeNames(ip_addresses=("10.0.0.1",))),
            HasName(SubjectAlternativeNames(uris=("spiffe://example/web",))),
            HasName(SubjectAlternativeNames(email_addresses=("jane@example.com",))),
            HasName(SubjectAlternativeNames(dns_names=("www.example.com",), email_addresses=("jane@example.com",))),
        ]
    ),
    st.sampled_from(DOMAINS).map(InDomain),
    st.integers(0, 400).map(lambda number: HasSerial(f"{number:04x}")),
    st.sampled_from(CertificateState).map(InState),
    st.sampled_from((*PROFILES, "absent")).map(UnderProfile),
    st.sampled_from((KeySpec.EC_P256, KeySpec.RSA_2048, KeySpec.ED25519)).map(OfKeySpec),
    st.sampled_from((*_KEYS, bytes(32))).map(OfKey),
    _spans(EndsWithin, NOW + timedelta(days=1)),
    _spans(CreatedWithin, NOW),
    st.builds(Labelled, st.sampled_from((*LABEL_KEYS, "absent")), st.none() | st.sampled_from(LABEL_VALUES)),
    st.booleans().map(IsManaged),
)
filters: st.SearchStrategy[CertificateFilter] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: AllOf(tuple(some))),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: AnyOf(tuple(some))),
        inner.map(Not),
    ),
    max_leaves=8,
)


def fits(  # noqa: C901, PLR0911, PLR0912  # A case for each kind of condition.
    wanted: CertificateFilter, one: Intent, state: CertificateState
) -> bool:
    """Returns whether a certificate fits, by the words of the API alone."""
    match wanted:
        case AllOf(some):
            return all(fits(each, one, state) for each in some)
        case AnyOf(some):
            return any(fits(each, one, state) for each in some)
        case Not(negated):
            return not fits(negated, one, state)
        case HasName(names):
            return any(
                set(mine) & set(asked)
                for mine, asked in (
                    (one.names.dns_names, names.dns_names),
                    (one.names.ip_addresses, names.ip_addresses),
                    (one.names.uris, names.uris),
                    (one.names.email_addresses, names.email_addresses),
                )
            )
        case InDomain(domain):
            return any(name == domain or name.endswith("." + domain) for name in one.names.dns_names)
        case HasSerial(serial):
            return one.serial == serial
        case InState(wanted_state):
            return state is wanted_state
        case UnderProfile(profile):
            return one.profile == profile
        case OfKeySpec(key_spec):
            return one.key_spec is key_spec
        case OfKey(public_key_sha256):
            return one.public_key_sha256 == public_key_sha256
        case EndsWithin(begin=begin, end=end):
            return (begin is None or one.not_after >= begin) and (end is None or one.not_after < end)
        case CreatedWithin(begin=begin, end=end):
            return (begin is None or one.create_time >= begin) and (end is None or one.create_time < end)
        case Labelled(key, value):
            return key in one.labels and value in {None, one.labels[key]}
        case IsManaged(managed):
            return managed is (one.managed_certificate_uid is not None)
        case _:
            assert_never(wanted)


def expected(
    wanted: CertificateFilter | None, among: Sequence[tuple[Intent, CertificateState]], authorities: Sequence[str]
) -> list[str]:
    """Returns the serials of what fits and is not pending, newest first."""
    found = [
        one
        for one, state in among
        if one.authority_uid in authorities
        and state is not CertificateState.PENDING
        and (wanted is None or fits(wanted, one, state))
    ]
    return [one.serial for one in sorted(found, key=lambda one: (-one.create_time.timestamp(), one.serial))]
