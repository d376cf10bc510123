"""A prepare process answers what the daemon itself would."""

import os
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any, cast

import pytest
from cryptography import x509

from certd.errors import CertdError, Reason
from certd.ipc.channel import Channel, SpawnedChild
from certd.pki import distinguished_name
from certd.pki.key_spec import KeySpec, SignatureAlgorithm
from certd.pki.profiles import BUILT_IN, SYSTEM
from certd.prepare.client import Preparer, answers_of
from certd.prepare.messages import Answer, Described, Wanted, parse_response, request_bytes, response_bytes, result_of
from certd.prepare.order import Csr, Terms, is_as_told
from certd.prepare.work import answer_item
from certd.v1.x509_pb2 import CertificateDescription
from tests.prepare.asking import EVERYTHING, START_SECONDS, ask, good_csr, item, made, running_preparer, terms_of, told
from tests.prepare.corpus import orders
from tests.unit.memory_authority import MemoryAuthority, csr, der_of, root

_SEED, _COUNT = 20261124, 1000


def comparable(answer: Answer) -> object:
    """An answer without what differs each time: the throw-away signature."""
    if isinstance(answer, CertdError):
        return vars(answer)
    prepared = replace(answer.prepared, lint_certificate=b"", description=None)
    described = CertificateDescription.FromString(answer.description).SerializeToString(deterministic=True)
    return prepared, described, x509.load_der_x509_certificate(answer.prepared.lint_certificate).tbs_certificate_bytes


def test_whatever_is_asked_it_answers_as_the_daemon_itself_would(preparer: Preparer) -> None:
    """The valid and the refused, of every kind of issuer and key, under built-in profiles and others."""
    reasons: Counter[Reason | None] = Counter()
    for terms, one in islice(orders(_SEED), _COUNT):
        here = answer_item(terms, one, EVERYTHING)
        (there,) = ask(preparer, terms, [one])
        assert comparable(there) == comparable(here), (terms.profile.profile_id, one)
        reasons[here.reason if isinstance(here, CertdError) else None] += 1
    assert reasons[None] > _COUNT // 4, reasons
    assert {Reason.CSR_MALFORMED, Reason.NAME_NOT_ALLOWED, Reason.PROFILE_FORBIDS} < set(reasons), reasons
    assert Reason.INTERNAL not in reasons


def test_items_of_a_call_are_answered_in_order_and_each_for_itself(
    preparer: Preparer, authority: MemoryAuthority
) -> None:
    items = [
        item(good_csr(f"host-{number}.example.internal") if number % 3 else b"no csr", serial=1 << 126 | number)
        for number in range(50)
    ]
    answers = ask(preparer, terms_of(authority), items)
    assert len(answers) == 50
    for number, answer in enumerate(answers):
        if number % 3:
            prepared = made(answer).prepared
            assert (prepared.serial, prepared.names.dns_names) == (
                items[number].serial,
                (f"host-{number}.example.internal",),
            )
        else:
            assert told(answer).reason is Reason.CSR_MALFORMED


@pytest.mark.parametrize("spec", list(KeySpec))
def test_every_kind_of_issuer_is_served(preparer: Preparer, spec: KeySpec) -> None:
    """Also those that the process was not warmed up with: it can open nothing any more, and needs nothing."""
    authority = root(spec)
    (answer,) = ask(preparer, terms_of(authority), [item()])
    certificate = x509.load_der_x509_certificate(authority.sign(made(answer).prepared))
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(authority.certificate))


def test_the_reserved_trust_domain_is_refused_there_too(preparer: Preparer, authority: MemoryAuthority) -> None:
    terms = terms_of(authority, BUILT_IN["blank"])
    terms = replace(terms, issuer=replace(terms.issuer, reserved_trust_domain="test.internal"))
    uri = x509.UniformResourceIdentifier("spiffe://test.internal/identities/admin")
    (answer,) = ask(preparer, terms, [item(der_of(csr(san=[uri])))])
    assert told(answer).reason is Reason.NAME_NOT_ALLOWED
    (answer,) = ask(preparer, terms_of(authority, SYSTEM["identity"]), [item(der_of(csr(san=[uri])))])
    assert made(answer).prepared.names.uris == (uri.value,)


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(lint_certificates=True), Wanted(descriptions=True)])
def test_it_sends_what_is_wanted_and_no_more(preparer: Preparer, authority: MemoryAuthority, wanted: Wanted) -> None:
    (answer,) = ask(preparer, terms_of(authority), [item()], wanted=wanted)
    described = made(answer)
    assert bool(described.prepared.lint_certificate) == wanted.lint_certificates
    assert bool(described.description) == wanted.descriptions


def test_what_is_to_be_signed_is_held_against_what_is_told_of_it(authority: MemoryAuthority) -> None:
    terms = terms_of(authority)
    prepared, other = (made(answer_item(terms, one, Wanted())).prepared for one in (item(), item(serial=5)))
    assert is_as_told(prepared, terms)
    lies = [
        replace(prepared, tbs=other.tbs),
        replace(prepared, tbs=b""),
        replace(prepared, serial=5),
        replace(prepared, not_before=prepared.not_before - timedelta(seconds=1)),
        replace(prepared, not_after=prepared.not_after - timedelta(seconds=1)),
        replace(prepared, public_key_sha256=other.public_key_sha256),
    ]
    for lie in lies:
        assert not is_as_told(lie, terms)
    payload = response_bytes(result_of(Described(one), Wanted()) for one in (prepared, lies[0]))
    good, bad = answers_of(payload, terms, [prepared.serial, prepared.serial])
    assert made(good).prepared.tbs == prepared.tbs
    assert told(bad).reason is Reason.INTERNAL
    issuer = terms.issuer
    changed: list[dict[str, Any]] = [
        {"issuer": replace(issuer, name=distinguished_name.parse_text("CN=Another"))},
        {"issuer": replace(issuer, signature_algorithm=SignatureAlgorithm.PURE_ED25519)},
        {"issuer": replace(issuer, not_after=prepared.not_after - timedelta(seconds=1))},
        {"profile": BUILT_IN["subordinate-ca"]},
    ]
    for changes in changed:
        assert not is_as_told(prepared, replace(terms, **changes))


def test_a_call_that_makes_no_sense_is_told_so_and_the_process_goes_on(authority: MemoryAuthority) -> None:
    """As of a daemon of another version."""
    channel = Channel(SpawnedChild((sys.executable, "-I", "-m", "certd.prepare")), name="prepare process")
    channel.start()
    try:
        assert channel.wait_ready(START_SECONDS)
        process_id = channel.process_id
        for payload in (b"\xff\xff", b"", os.urandom(100)):
            with pytest.raises(CertdError) as raised:
                channel.call(payload, timeout=20)
            assert raised.value.reason is Reason.INTERNAL
            assert "do not understand each other" in raised.value.message
        good = item()
        answer = channel.call(request_bytes(terms_of(authority), [good], EVERYTHING), timeout=20)
        made(*parse_response(answer, terms=terms_of(authority), serials=[good.serial]))
        assert channel.process_id == process_id
    finally:
        channel.stop()


_WRITTEN = "what a stranger wrote"


class Panic(BaseException):
    """What the X.509 library raises where its authors thought that nothing could happen."""


class Source:
    """A CSR that makes the library panic, with a text of its own."""

    @property
    def data(self) -> bytes:
        raise Panic(_WRITTEN)


def test_a_defect_is_one_requests_failure_with_an_id_and_nothing_of_the_stranger(
    authority: MemoryAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    broken = replace(item(), source=cast("Csr", Source()))
    error = told(answer_item(terms_of(authority), broken, EVERYTHING))
    assert error.reason is Reason.INTERNAL
    ((name, _level, logged),) = caplog.record_tuples
    assert name == "certd.prepare.work"
    error_id = error.message.rpartition(" ")[2]
    assert len(error_id) == 16
    assert error_id in logged
    assert "Panic" in logged
    assert _WRITTEN not in logged + error.message


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_no_defect(authority: MemoryAuthority, signal: type[BaseException]) -> None:
    class Ending:
        @property
        def data(self) -> bytes:
            raise signal

    with pytest.raises(signal):
        answer_item(terms_of(authority), replace(item(), source=cast("Csr", Ending())), Wanted())


def test_without_processes_the_daemon_does_it_itself_and_answers_the_same(authority: MemoryAuthority) -> None:
    one = item()
    with running_preparer(0) as none:
        assert none.process_ids == ()
        (here,) = ask(none, terms_of(authority), [one])
    (there,) = (answer_item(terms_of(authority), one, EVERYTHING),)
    assert comparable(here) == comparable(there)


def test_an_order_that_is_too_long_for_a_frame_is_refused_and_the_next_one_served(
    preparer: Preparer, authority: MemoryAuthority
) -> None:
    terms: Terms = terms_of(authority)
    (answer,) = ask(preparer, terms, [item(bytes(80 * 1024 * 1024))])
    assert told(answer).reason is Reason.FIELD_INVALID
    made(*ask(preparer, terms, [item()]))
