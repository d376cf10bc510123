"""Leases: whoever signs for what is sealed for them gets it, once, and nobody else gets anything."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from certd.errors import CertdError, Reason
from certd.internal import token_pb2 as messages
from certd.pki import der
from certd.pki.encoding import certificate_pem
from certd.pki.key_spec import KeySpec
from certd.pki.sealing import Purpose, hpke_decrypt
from tests.token.clocked_token import set_clock
from tests.token.consumers import CONSUMER, DAY, NOW, OTHER_CONSUMER, Key, make_root
from tests.token.journal_files import uses
from tests.token.leasing import Custodian, Leaser, Signed, custodian

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KEYS: dict[str, Callable[[], Key]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Custodian]:
    """For tests that leave roots and clock as they are."""
    with custodian(tmp_path_factory.mktemp("leases")) as found:
        yield found


@pytest.fixture(scope="module")
def leaser(kept: Custodian) -> Leaser:
    """For refusals, which count against nobody."""
    return kept.consumer()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Custodian]:
    """For tests that change roots or clock."""
    with custodian(tmp_path) as found:
        yield found


@pytest.mark.parametrize("kind", KEYS)
def test_who_signs_gets_the_key(kept: Custodian, kind: str) -> None:
    leaser = kept.consumer(f"spiffe://certd.internal/identities/{kind}", KEYS[kind]())
    request = leaser.sign()
    kept.opened(request, leaser.lease(request))


@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.ED25519])
def test_every_kind_of_key_is_leased(tmp_path: Path, spec: KeySpec) -> None:
    with custodian(tmp_path, spec=spec) as found:
        leaser = found.consumer()
        request = leaser.sign()
        found.opened(request, leaser.lease(request))


def test_the_answer_opens_as_an_answer_to_this_request_alone(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/this-alone")
    request = leaser.sign()
    message = leaser.lease(request)
    another = leaser.sign(sign_time=NOW + MICROSECOND)
    for private_key, info in ((request.recipient, another.statement), (another.recipient, request.statement)):
        with pytest.raises(CertdError):
            hpke_decrypt(message, private_key=private_key, info=info)
    kept.opened(request, message)


def _not_by(leaser: Leaser, **changes: object) -> dict[str, object]:
    return {"certificate": leaser.custodian.root.issue(leaser.key, **changes)}  # type: ignore[arg-type]


def _with_another_outer_algorithm(certificate: bytes) -> bytes:
    """Returns a certificate whose signature is said to be of another algorithm outside than inside."""
    reader = der.Reader(certificate).enter(der.SEQUENCE)
    tbs = reader.read_whole(der.SEQUENCE)
    reader.read(der.SEQUENCE)
    signature = reader.read_whole(der.BIT_STRING)
    sha384 = der.sequence(der.object_identifier("1.2.840.10045.4.3.3"))
    return der.sequence(tbs, sha384, signature)


NO_IDENTITIES: dict[str, tuple[Callable[[Leaser], dict[str, object]], str]] = {
    "nothing": (lambda _: {"certificate": b""}, "does not parse"),
    "no certificate": (lambda _: {"certificate": b"\x30\x03\x02\x01\x00"}, "does not parse"),
    "cut off": (lambda leaser: {"certificate": leaser.certificate[:-1]}, "does not parse"),
    "followed by something": (lambda leaser: {"certificate": leaser.certificate + b"\0"}, "does not parse"),
    "PEM": (lambda leaser: {"certificate": certificate_pem(leaser.certificate).encode()}, "does not parse"),
    "two algorithms": (
        lambda leaser: {"certificate": _with_another_outer_algorithm(leaser.certificate)},
        "two signature algorithms",
    ),
    "of a foreign authority with the same names": (
        lambda leaser: {"certificate": make_root().issue(leaser.key)},
        "signature of the certificate",
    ),
    "of another authority": (
        lambda leaser: {"certificate": make_root("Somebody Else").issue(leaser.key)},
        "none of the pinned roots",
    ),
    "of another issuer by the same key": (
        lambda leaser: _not_by(leaser, issuer=x509.Name([])),
        "none of the pinned roots",
    ),
    "self-signed": (
        lambda leaser: {
            "certificate": replace(leaser.custodian.root, key=ec.generate_private_key(ec.SECP256R1())).issue(leaser.key)
        },
        "signature of the certificate",
    ),
    "ended": (lambda leaser: _not_by(leaser, end=NOW - timedelta(seconds=1)), "not valid at this time"),
    "not begun": (lambda leaser: _not_by(leaser, begin=NOW + timedelta(seconds=1)), "not valid at this time"),
    "an authority's": (lambda leaser: _not_by(leaser, authority=True), "an authority's"),
    "that signs certificates": (lambda leaser: _not_by(leaser, certificate_sign=True), "an authority's"),
    "of two URIs": (lambda leaser: _not_by(leaser, uris=[CONSUMER, OTHER_CONSUMER]), "2 URIs"),
    "of one URI twice": (lambda leaser: _not_by(leaser, uris=[CONSUMER, CONSUMER]), "2 URIs"),
    "without names": (lambda leaser: _not_by(leaser, uris=[]), "0 URIs"),
    "of a DNS name that looks like it": (
        lambda leaser: _not_by(leaser, uris=[], other_names=[x509.DNSName(CONSUMER)]),
        "0 URIs",
    ),
    "of another consumer": (lambda leaser: _not_by(leaser, uris=[OTHER_CONSUMER]), "another identity's"),
    "of a longer name": (lambda leaser: _not_by(leaser, uris=[f"{CONSUMER}0"]), "another identity's"),
    "of a shorter name": (lambda leaser: _not_by(leaser, uris=[CONSUMER[:-1]]), "another identity's"),
    "with a slash more": (lambda leaser: _not_by(leaser, uris=[f"{CONSUMER}/"]), "another identity's"),
    "in other case": (
        lambda leaser: _not_by(leaser, uris=[CONSUMER.replace("certd", "CERTD")]),
        "another identity's",
    ),
    "the root itself": (
        lambda leaser: {"certificate": leaser.custodian.root.certificate},
        "an authority's",
    ),
}


@pytest.mark.parametrize("kind", NO_IDENTITIES)
def test_a_certificate_that_says_nothing_of_the_consumer_leases_nothing(leaser: Leaser, kind: str) -> None:
    changes, finding = NO_IDENTITIES[kind]
    assert finding in leaser.refusal(leaser.sign(), **changes(leaser)).message


def test_a_certificate_with_another_bit_anywhere_leases_nothing(leaser: Leaser) -> None:
    request = leaser.sign()
    for at in range(0, len(leaser.certificate), 7):
        bent = bytearray(leaser.certificate)
        bent[at] ^= 0x04
        leaser.refusal(request, certificate=bytes(bent))


OTHER_STATEMENTS: dict[str, dict[str, Any]] = {
    "tenant": {"tenant": "tenant-2"},
    "certificate": {"certificate": "certificate-2"},
    "version": {"version": 2},
    "consumer": {"consumer": OTHER_CONSUMER},
    "key to encrypt to": {"public_key": bytes(range(32))},
}


@pytest.mark.parametrize("field", OTHER_STATEMENTS)
def test_a_statement_of_something_else_leases_nothing(leaser: Leaser, field: str) -> None:
    assert "signature over the lease statement" in leaser.refusal(leaser.sign(**OTHER_STATEMENTS[field])).message


def test_a_statement_of_another_time_leases_nothing(leaser: Leaser) -> None:
    refusal = leaser.refusal(leaser.sign(), sign_time=NOW + MICROSECOND)
    assert "signature over the lease statement" in refusal.message


def test_whoever_asks_for_another_version_than_was_signed_for_gets_nothing(leaser: Leaser) -> None:
    changes: list[dict[str, Any]] = [{"version": 2}, {"tenant": "tenant-2"}, {"certificate": "certificate-2"}]
    for change in changes:
        other = replace(leaser.context, **change)
        assert "signature over" in leaser.refusal(leaser.sign(), context=other).message


def test_a_signature_by_another_key_leases_nothing(leaser: Leaser) -> None:
    for make in KEYS.values():
        assert "signature over" in leaser.refusal(leaser.sign(make())).message


def test_a_signature_that_is_none_or_bent_leases_nothing(leaser: Leaser) -> None:
    request = leaser.sign()
    bent = [
        request.signature[:at] + bytes([request.signature[at] ^ 1]) + request.signature[at + 1 :] for at in range(70)
    ]
    for signature in (b"", b"\0" * 70, request.signature[:-1], request.signature + b"\0", *bent):
        assert "signature over" in leaser.refusal(request, signature=signature).message


@pytest.mark.parametrize("recipient", [b"", bytes(31), bytes(33)], ids=["0", "31", "33"])
def test_a_key_to_encrypt_to_of_another_length_is_refused(leaser: Leaser, recipient: bytes) -> None:
    assert "X25519" in leaser.refusal(leaser.sign(), recipient_public_key=recipient).message


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("recipient", LOW_ORDER, ids=bytes.hex)
def test_a_key_of_low_order_is_refused_also_when_it_was_signed_for(leaser: Leaser, recipient: bytes) -> None:
    refusal = leaser.refusal(leaser.sign(public_key=recipient), recipient_public_key=recipient)
    assert "X25519" in refusal.message


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.CUSTODY},
        {"purpose": Purpose.IMPORT},
        {"consumer": ""},
        {"purpose": Purpose.CUSTODY, "consumer": ""},
    ],
    ids=["custody", "import", "no consumer", "custody without consumer"],
)
def test_what_is_not_sealed_for_a_consumer_is_not_leased(leaser: Leaser, changes: dict[str, object]) -> None:
    refusal = leaser.refusal(leaser.sign(), context=replace(leaser.context, **changes))  # type: ignore[arg-type]
    assert "sealed for a consumer" in refusal.message


@pytest.mark.parametrize(
    ("sign_time", "allowed"),
    [
        (NOW - 5 * MINUTE - MICROSECOND, False),
        (NOW - 5 * MINUTE, True),
        (NOW + 5 * MINUTE, True),
        (NOW + 5 * MINUTE + MICROSECOND, False),
        (NOW - 365 * DAY, False),
        (datetime.max.replace(tzinfo=NOW.tzinfo), False),
    ],
    ids=["too old", "old", "of the future", "of too far a future", "of last year", "of the end of time"],
)
def test_a_statement_has_its_time(kept: Custodian, sign_time: datetime, *, allowed: bool) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/in-time")
    request = leaser.sign(sign_time=sign_time)
    if allowed:
        kept.opened(request, leaser.lease(request))
    else:
        assert "five minutes" in leaser.refusal(request).message


@pytest.mark.parametrize("microseconds", [-(2**63), 2**63 - 1, -1, 0])
def test_a_time_that_python_cannot_hold_is_refused(leaser: Leaser, microseconds: int) -> None:
    request = messages.LeaseRequest(
        wrapping_key_id=leaser.custodian.wrapping_key_id,
        sealed_key=leaser.sealed_key,
        context=messages.SealContext(tenant="t", certificate="c", version=1, purpose="association", consumer=CONSUMER),
        certificate=leaser.certificate,
        recipient_public_key=bytes(32),
        sign_time=microseconds,
        signature=b"",
    )
    with pytest.raises(CertdError, match="five minutes") as caught:
        leaser.custodian.client._call(messages.TokenRequest(lease=request), 10)
    assert caught.value.reason is Reason.LEASE_REFUSED


def test_a_statement_leases_once(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/once")
    request = leaser.sign()
    kept.opened(request, leaser.lease(request))
    assert "before" in leaser.refusal(request).message
    # Of an ECDSA signature everybody can make a second one.
    r, s = decode_dss_signature(request.signature)
    assert "before" in leaser.refusal(request, signature=encode_dss_signature(r, _P256_ORDER - s)).message
    # With the certificate that the same consumer has renewed, too.
    assert (
        "before"
        in leaser.refusal(request, certificate=kept.root.issue(leaser.key, uris=[leaser.context.consumer])).message
    )
    another = leaser.sign()
    kept.opened(another, leaser.lease(another))


def test_a_statement_leases_once_until_its_time_is_over(own: Custodian) -> None:
    leaser = own.consumer()
    early, late = leaser.sign(sign_time=NOW - 4 * MINUTE), leaser.sign(sign_time=NOW + 4 * MINUTE)
    for request in (early, late):
        leaser.lease(request)
    for moment, findings in (
        (NOW + MINUTE, ("before", "before")),
        (NOW + MINUTE + MICROSECOND, ("five minutes", "before")),
        (NOW + 9 * MINUTE, ("five minutes", "before")),
        (NOW + 10 * MINUTE, ("five minutes", "five minutes")),
        # What was forgotten is not leased for when the clock is set back.
        (NOW, ("forgotten", "forgotten")),
    ):
        set_clock(own.clock_file, moment)
        if moment == NOW + 10 * MINUTE:
            # Something has to be verified for anything to be forgotten.
            own.opened(request := leaser.sign(sign_time=moment), leaser.lease(request))
        for request, finding in zip((early, late), findings, strict=True):
            assert finding in leaser.refusal(request).message, moment


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "tenant-2"},
        {"certificate": "certificate-2"},
        {"version": 2},
        {"public_key_sha256": bytes(32)},
        {"exportable": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_sealed_for_something_else_does_not_open(kept: Custodian, changes: dict[str, object]) -> None:
    """The consumer signs for it, and the daemon gives another blob."""
    leaser = kept.consumer("spiffe://certd.internal/identities/something-else")
    other = replace(leaser, context=replace(leaser.context, **changes))  # type: ignore[arg-type]
    with pytest.raises(CertdError, match="does not open") as caught:
        other.lease(other.sign())
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    assert kept.client.ready


def test_the_copy_of_another_consumer_and_the_key_in_custody_do_not_open(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/mine")
    other = kept.consumer("spiffe://certd.internal/identities/yours")
    for sealed_key in (other.sealed_key, kept.sealed_key):
        with pytest.raises(CertdError, match="does not open") as caught:
            leaser.lease(leaser.sign(), sealed_key=sealed_key)
        assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS


def test_what_did_not_open_may_be_asked_for_again(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/again")
    request = leaser.sign()
    with pytest.raises(CertdError, match="does not open"):
        leaser.lease(request, sealed_key=kept.sealed_key)
    kept.opened(request, leaser.lease(request))


def test_a_consumer_has_a_rate_and_a_stranger_s_garbage_eats_nothing_of_it(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/eager")
    for _ in range(100):
        leaser.refusal(replace(leaser.sign(), signature=b"garbage"))
    for _ in range(60):
        leaser.lease(leaser.sign())

    def lease_more() -> None:
        # In the time that the sixty took a few more became free.
        for _ in range(60):
            leaser.lease(leaser.sign())

    with pytest.raises(CertdError, match="a minute") as caught:
        lease_more()
    assert caught.value.reason is Reason.RATE_LIMITED
    assert caught.value.retry_after
    assert 0 < caught.value.retry_after <= 1
    # Another one is served.
    other = kept.consumer("spiffe://certd.internal/identities/patient")
    kept.opened(request := other.sign(), other.lease(request))


def test_the_token_process_has_a_rate_of_its_own(tmp_path: Path) -> None:
    with custodian(tmp_path, leases_per_minute=3) as found:
        leasers = [found.consumer(f"spiffe://certd.internal/identities/{number}") for number in range(4)]
        for leaser in leasers[:3]:
            leaser.lease(leaser.sign())
        with pytest.raises(CertdError, match="as many keys as it may") as caught:
            leasers[3].lease(leasers[3].sign())
        assert caught.value.reason is Reason.RATE_LIMITED
        assert caught.value.retry_after
        assert 0 < caught.value.retry_after <= 20


def test_the_journal_has_leases_and_the_log_refusals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with custodian(tmp_path) as found:
        leaser = found.consumer()
        request = leaser.sign()
        leaser.lease(request)
        leaser.refusal(request)
        with pytest.raises(CertdError, match="does not open"):
            leaser.lease(leaser.sign(), sealed_key=found.sealed_key)
    lines = [line for line in capfd.readouterr().err.splitlines() if "leased the key of " in line]
    assert ["not leased" in line for line in lines] == [True, True]
    assert all(CONSUMER in line and "tenant-1" in line and "certificate-1" in line for line in lines)
    assert "LEASE_REFUSED" in lines[0]
    assert "TOKEN_POLICY_FORBIDS" in lines[1]
    (leased,) = uses(tmp_path, "lease")
    assert (leased.text("tenant"), leased.text("consumer")) == ("tenant-1", CONSUMER)
    assert len(leased.text("sha256")) == 64


@pytest.mark.parametrize("field", ["tenant", "certificate", "consumer"])
def test_no_name_begins_a_line_of_the_journal(leaser: Leaser, field: str) -> None:
    forged = "x\n2030-01-01T00:00:00Z [info] leased the key of somebody else"
    with pytest.raises(CertdError, match="printable") as caught:
        leaser.lease(leaser.sign(), context=replace(leaser.context, **{field: forged}))  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.violations] == [f"context.{field}"]


def test_of_many_who_come_with_one_statement_one_gets_the_key(kept: Custodian) -> None:
    leaser = kept.consumer("spiffe://certd.internal/identities/crowd")
    request = leaser.sign()
    together = threading.Barrier(8)

    def ask(_number: int) -> bytes | CertdError:
        together.wait(20)
        try:
            return leaser.lease(request)
        except CertdError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(8)))
    (message,) = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    kept.opened(request, message)
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, CertdError)} == {Reason.LEASE_REFUSED}


def test_many_consumers_at_once_get_each_their_own(kept: Custodian) -> None:
    leasers = [kept.consumer(f"spiffe://certd.internal/identities/many-{number}") for number in range(8)]

    def lease_all(leaser: Leaser) -> list[tuple[Signed, bytes]]:
        leased = []
        for _ in range(20):
            request = leaser.sign()
            leased.append((request, leaser.lease(request)))
            leaser.refusal(leaser.sign(ec.generate_private_key(ec.SECP256R1())))
            leaser.refusal(request)
        return leased

    with ThreadPoolExecutor(8) as pool:
        for leased in pool.map(lease_all, leasers):
            assert len(leased) == 20
            for request, message in leased:
                kept.opened(request, message)
