"""Whatever happens to certificates, keys and books, in whatever order: the right CRL and the right answer say so.

A state machine issues, revokes, upgrades, rotates keys, certifies authorities anew, lets time pass and goes back to
older books. A model, see `status_model`, says what must be published and answered.
"""

import os
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from certd.model.authority import AuthorityKeyState, AuthorityState
from certd.model.certificate import RevocationReason
from certd.model.job import JobKind
from certd.model.names import CertificateName, ProfileName
from certd.model.revocation_list import RevocationListKey
from certd.model.revocation_settings import RevocationSettings, SettingsChange
from certd.pki.ocsp_request import parse_request
from certd.services.authority_changes import Change, NewSettings
from certd.services.authority_keys import NewKey
from certd.services.authority_reissue import Reissue
from certd.services.certificates import NewCertificate
from certd.services.ocsp import UNAUTHORIZED
from certd.services.revocation import NewRevocation
from certd.services.revocation_lists import WantedList
from certd.store import authority_keys, certificates, revocation_lists
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.conftest import ADMINISTRATOR, csr_for
from tests.services.ocsp_books import load, request
from tests.services.revocation_books import Entry, number_of, partitioned
from tests.services.rotated_books import authority_in
from tests.services.status_model import Books, Key, Known, KnownKey, Place, check_list, restored, second, serial_of
from tests.services.status_server import Copy, Server, name_of, new_server

ACTIVE, PREPARED = AuthorityKeyState.ACTIVE, AuthorityKeyState.PREPARED
SUPERSEDED, TAINTED, RETIRED = AuthorityKeyState.SUPERSEDED, AuthorityKeyState.TAINTED, AuthorityKeyState.RETIRED
COMPROMISED = RevocationReason.KEY_COMPROMISE
REASONS = [reason for reason in RevocationReason if reason is not COMPROMISED]
LIFETIMES = [timedelta(hours=1), timedelta(days=3), timedelta(days=45)]
PAUSES = [timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(days=12), timedelta(days=40)]
EXAMPLES = int(os.environ.get("CERTD_STATUS_EXAMPLES", "10"))
MANY: Final = 100
"""So many are for who looks for defects, and waits for the shortest example of one."""
STEPS: Final = 40
MOST_KEYS: Final = 4
MOST_COPIES: Final = 2
MOST_RESTORES: Final = 2
MOST_OF_ROOT: Final = 15
TOGETHER: Final = 16
NEVER_ISSUED: Final = 0x7E57
_TURNS: Final = 40


class Machine(RuleBasedStateMachine):
    """A server and a model of it."""

    def __init__(self, folder: Path, template: Path, token: TokenSettings) -> None:
        super().__init__()
        shutil.rmtree(folder)
        shutil.copytree(template, folder)
        self.clock = FakeClock()
        self.server = Server(folder, token, self.clock)
        self.server.start()
        self.books = Books()
        self.copies: list[tuple[Copy, Books]] = []
        self.restores = 0
        # Those whose keys the token may lack by now: it has gone back as well.
        self.whole: set[Copy] = set()
        # What readers have seen, whatever the books forget: by public key and partition.
        self.seen: dict[tuple[bytes, int], x509.CertificateRevocationList] = {}
        for authority_id in ("root", "ca"):
            self._certified(authority_id, 1, ("root", 1), ACTIVE)
        self._learn()
        self._observe_all()

    def teardown(self) -> None:
        try:
            # What has failed is looked at no more.
            if sys.exc_info()[0] is None:
                self.settle()
                self.check_answers()
        finally:
            self.server.stop()

    # What is done.

    @rule(code=st.booleans(), lifetime=st.sampled_from(LIFETIMES))
    def issue(self, *, code: bool, lifetime: timedelta) -> None:
        key = self.books.active("ca")
        if self.clock.now() + lifetime > self._end(key):
            return
        new = NewCertificate(
            authority=name_of("ca"),
            csr=csr_for(subject="Example Code") if code else csr_for("www.example.internal"),
            profile=ProfileName("default", "code-signing") if code else None,
            lifetime=lifetime,
        )
        view = self._core.certificates.issue(ADMINISTRATOR, new, key=None, validate_only=False, timeout=60)
        one = self.books.add(x509.load_der_x509_certificate(view.der or b""), key, code=code)
        uid, number, _ = self._list((key, 0))
        assert one.named == (uid, number, one.partition)
        assert one.responders == [f"http://pki.example.internal/ocsp/{uid}/{number}"]
        assert 1 <= one.partition <= self.books.partition_count or one.partition == self.books.partition_count == 0

    @precondition(lambda self: self._candidates(revoked=False))
    @rule(data=st.data(), reason=st.sampled_from(REASONS))
    def revoke(self, data: st.DataObject, reason: RevocationReason) -> None:
        one = data.draw(st.sampled_from(self._candidates(revoked=False)))
        if one.key[0] == "root":
            # Of an authority: that of its own compromise is another story.
            reason = RevocationReason.SUPERSEDED
        self._revoke(one, reason, None)
        told = None if reason is RevocationReason.UNSPECIFIED else reason.value
        self.books.set_entry(one.serial, Entry(second(self.clock.now()), told, None))

    @precondition(lambda self: self._candidates(revoked=True))
    @rule(data=st.data(), part=st.sampled_from([0.0, 0.3, 1.0]))
    def upgrade(self, data: st.DataObject, part: float) -> None:
        one = data.draw(st.sampled_from(self._candidates(revoked=True)))
        begin, now = one.certificate.not_valid_before_utc, self.clock.now()
        since = begin + (now - begin) * part
        self._revoke(one, COMPROMISED, since)
        assert one.entry is not None
        self.books.set_entry(
            one.serial, Entry(min(one.entry.revoke_time, second(since)), COMPROMISED.value, second(since))
        )

    @precondition(lambda self: self._rotatable())
    @rule(data=st.data())
    def prepare_key(self, data: st.DataObject) -> None:
        authority_id = data.draw(st.sampled_from(self._rotatable()))
        number = max(number for _, number in self.books.keys_of(authority_id)) + 1
        issuer = self.books.active("root") if authority_id == "ca" else ("root", number)
        self._core.rotation.keys.prepare(ADMINISTRATOR, self._change(authority_id), NewKey())
        self._certified(authority_id, number, issuer, PREPARED)
        if data.draw(st.booleans()):
            self._switch((authority_id, number), ACTIVE)

    @precondition(lambda self: self._switches())
    @rule(data=st.data())
    def switch_key(self, data: st.DataObject) -> None:
        self._switch(*data.draw(st.sampled_from(self._switches())))

    def _switch(self, key: Key, to: AuthorityKeyState) -> None:
        changes, change = self._core.rotation.changes, self._change(key[0])
        if to is ACTIVE:
            changes.activate(ADMINISTRATOR, change, key[1])
            self.books.set_state(self.books.active(key[0]), SUPERSEDED)
        elif to is TAINTED:
            changes.taint(ADMINISTRATOR, change, key[1])
        else:
            changes.retire(ADMINISTRATOR, change, key[1], allow_live=True)
        self.books.set_state(key, to)

    @precondition(lambda self: len(self.books.signed_by(self.books.active("root"))) < MOST_OF_ROOT)
    @rule(authority_id=st.sampled_from(["root", "ca"]))
    def reissue(self, authority_id: str) -> None:
        self._reissue(authority_id)

    def _reissue(self, authority_id: str) -> None:
        key, issuer = self.books.active(authority_id), self.books.active("root")
        self._core.authority_life.reissue.reissue(ADMINISTRATOR, self._change(authority_id), Reissue())
        self._certified(authority_id, key[1], issuer, ACTIVE)

    @rule(data=st.data())
    def spread(self, data: st.DataObject) -> None:
        """Has new certificates name another number of CRLs."""
        count = data.draw(st.sampled_from([one for one in (0, 2, 3) if one != self.books.partition_count]))
        wanted = partitioned(count) if count else SettingsChange(given=RevocationSettings(), paths=frozenset({"crl"}))
        self._core.authority_changes.update(ADMINISTRATOR, self._change("ca"), NewSettings(revocation=wanted))
        self.books.partition_count = count

    @rule(pause=st.sampled_from(PAUSES))
    def wait(self, pause: timedelta) -> None:
        self.clock.advance(pause)

    @precondition(lambda self: len(self.copies) < MOST_COPIES)
    @rule()
    def back_up(self) -> None:
        self._learn()
        self.copies.append((self.server.back_up(), self.books.copy()))

    @precondition(lambda self: self.copies and self.restores < MOST_RESTORES)
    @rule(data=st.data(), token=st.booleans())
    def restore(self, data: st.DataObject, *, token: bool) -> None:
        copy, then = data.draw(st.sampled_from(self.copies))
        self._learn()
        self.restores += 1
        told = self.server.told_revoked(copy)
        token = token or copy in self.whole
        self.server.restore(copy, token=token)
        if token:
            self.whole |= {one for one, _ in self.copies}
        self.books = restored(self.books, then, told, self.clock.now())
        self._learn()
        self._observe_all()
        if authority_in(self.server.world, "ca").state is AuthorityState.DISABLED:
            # Its certificate is revoked.
            self._reissue("ca")
            self._core.authority_changes.enable(ADMINISTRATOR, self._change("ca"))

    # What is looked at.

    @rule()
    def look(self) -> None:
        self.settle()

    @rule(data=st.data())
    def generate(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.books.keys)))
        wanted = WantedList(authority=name_of(key[0]), key_number=key[1])
        self._core.publication.lists.generate(ADMINISTRATOR, wanted)
        self._observe((key, 0))

    @rule()
    def check_answers(self) -> None:
        for key in sorted(self.books.keys):
            self._check_answers(key)

    def settle(self) -> None:
        """Seconds later, once what is due is done, everything that is published says all."""
        self.clock.advance(revocation_lists.GATHERING + timedelta(seconds=1))
        for _ in range(_TURNS):
            due = self.server.due()
            if not due:
                break
            for kind, subject in due:
                self.server.run(kind, subject)
                self._note(kind, subject)
        assert not self.server.due()
        for key in sorted(self.books.keys):
            with self._core.store.read("test.lists") as tx:
                found = revocation_lists.of_key(tx, *self._list((key, 0))[:2])
            partitions = {one.key.partition for one in found}
            assert {0, *(one.partition for one in self.books.signed_by(key))} <= partitions
            for partition in sorted(partitions):
                self._check_published((key, partition))

    def _check_published(self, place: Place) -> None:
        crl = self.server.published(self._list(place))
        assert crl is not None, f"no CRL of {place}"
        key, known = place[0], self.books.keys[place[0]]
        signer = known.certificate.public_key()
        assert isinstance(signer, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(signer)
        assert _authority_key(crl) == _subject_key(known.certificate)
        before = self.seen.get((known.public_key, place[1]), crl)
        assert number_of(crl) >= number_of(before)
        assert (number_of(crl) == number_of(before)) == (crl == before)
        self.seen[known.public_key, place[1]] = crl
        check_list(self.books, place, crl)
        if any(self.clock.now() <= one.end for one in self.books.signed_by(key)) and self.clock.now() < self._end(key):
            assert crl.next_update_utc is not None
            assert crl.next_update_utc > self.clock.now()

    def _check_answers(self, key: Key) -> None:
        now = self.clock.now()
        others = [one for one in self.books.known.values() if one.key != key][:3]
        asked = [*self.books.signed_by(key), *others]
        serials = [*(int(one.serial, 16) for one in asked), NEVER_ISSUED]
        found = [one for serial in serials for one in self._answers(key, [serial], hashes.SHA1())]
        several = [
            one
            for start in range(0, len(serials), TOGETHER)
            for one in self._answers(key, serials[start : start + TOGETHER], hashes.SHA256())
        ]
        if now > self._end(key):
            return
        for answers in (found, several):
            assert [one.serial_number for one in answers] == serials
            for one, answer in zip([*asked, None], answers, strict=True):
                assert answer.this_update_utc <= now
                assert answer.next_update_utc is not None
                assert now < answer.next_update_utc
                _check_answer(None if one is None or one.key != key else one, answer)
        for one in self.books.signed_by(key):
            self._check_row(one)

    def _answers(self, key: Key, serials: list[int], algorithm: hashes.HashAlgorithm) -> list[ocsp.OCSPSingleResponse]:
        certificate = self.books.keys[key].certificate
        content = request(certificate, serials, algorithm=algorithm)
        uid, number, _ = self._list((key, 0))
        answers = self._core.publication.answering.answers
        body = answers.submit(uid, number, parse_request(content), content).result(60).body
        if self.clock.now() > self._end(key) and body == UNAUTHORIZED.body:
            return []
        response = load(body, certificate)
        for signer in response.certificates:
            assert signer.not_valid_before_utc <= self.clock.now() <= signer.not_valid_after_utc
        return list(response.responses)

    def _check_row(self, one: Known) -> None:
        """What the books have of its partition is what it names."""
        with self._core.store.read("test.row") as tx:
            row = certificates.get(tx, authority_in(self.server.world, one.key[0]).uid, one.serial)
        assert row is not None
        assert (row.crl_partition or 0) == one.partition

    # How it is done.

    @property
    def _core(self) -> Any:
        return self.server.world.core

    def _change(self, authority_id: str) -> Change:
        return Change(name=name_of(authority_id))

    def _list(self, place: Place) -> RevocationListKey:
        (authority_id, number), partition = place
        return self.server.key(authority_id, number, partition)

    def _end(self, key: Key) -> datetime:
        return self.books.keys[key].certificate.not_valid_after_utc

    def _rotatable(self) -> list[str]:
        """Authorities that may get another key."""
        return [
            authority_id
            for authority_id in ("root", "ca")
            if len(self.books.keys_of(authority_id)) < MOST_KEYS and not self.books.keys_of(authority_id, PREPARED)
        ]

    def _switches(self) -> list[tuple[Key, AuthorityKeyState]]:
        """What may become of keys. None signs whose certificate has ended or is revoked."""
        found = []
        for key, one in sorted(self.books.keys.items()):
            own = self.books.known.get(serial_of(one.certificate))
            if one.state in {PREPARED, SUPERSEDED} and self.clock.now() <= self._end(key) and own and not own.entry:
                found.append((key, ACTIVE))
            if one.state is SUPERSEDED:
                found.append((key, TAINTED))
            if one.state in {PREPARED, SUPERSEDED, TAINTED}:
                found.append((key, RETIRED))
        return found

    def _candidates(self, *, revoked: bool) -> list[Known]:
        """What may be revoked, but for certificates that authorities and responders use."""
        used = {serial_of(one.certificate) for one in self.books.keys.values()}
        found = []
        for one in self.books.known.values():
            wanted = (
                one.entry is None if not revoked else one.entry is not None and one.entry.reason != COMPROMISED.value
            )
            if not wanted or one.lost or one.serial in used or _is_responder(one.certificate):
                continue
            if one.key[0] == "root" and (revoked or _is_self_signed(one.certificate)):
                continue
            if revoked or self.clock.now() <= one.end:
                found.append(one)
        return found

    def _revoke(self, one: Known, reason: RevocationReason, since: datetime | None) -> None:
        name = CertificateName("default", one.key[0], one.serial)
        new = NewRevocation(name=name, reason=reason, invalidity_time=since)
        self._core.revocation.revoke(ADMINISTRATOR, new, key=None, validate_only=False)

    def _certified(self, authority_id: str, number: int, issuer: Key, state: AuthorityKeyState) -> None:
        """Learns of the certificate that a key has by now."""
        with self._core.store.read("test.keys") as tx:
            row = authority_keys.get(tx, authority_in(self.server.world, authority_id).uid, number)
        assert row is not None
        certificate = x509.load_der_x509_certificate(row.certificate or b"")
        self.books.keys[authority_id, number] = KnownKey(certificate=certificate, state=state)
        self.books.add(certificate, issuer)

    def _learn(self) -> None:
        """Learns of responders, which come by themselves."""
        for key in self.books.keys:
            for certificate in self.server.responders(*key):
                if serial_of(certificate) not in self.books.known:
                    self.books.add(certificate, key)

    def _note(self, kind: JobKind, subject: str) -> None:
        """Notes what came of a job."""
        if kind is not JobKind.GENERATE_REVOCATION_LIST:
            self._learn()
            return
        uid, number, partition = revocation_lists.parse_subject(subject)
        for authority_id in ("root", "ca"):
            if authority_in(self.server.world, authority_id).uid == uid:
                self._observe(((authority_id, number), partition))

    def _observe(self, place: Place) -> None:
        crl = self.server.published(self._list(place))
        if crl is not None and place[0] in self.books.keys:
            self.books.observe(place, crl)

    def _observe_all(self) -> None:
        for key in self.books.keys:
            for partition in range(4):
                self._observe((key, partition))


def _check_answer(one: Known | None, answer: ocsp.OCSPSingleResponse) -> None:
    if one is None:
        assert answer.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    elif one.entry is None:
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    else:
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert answer.revocation_time_utc == one.entry.revoke_time
        told = None if answer.revocation_reason is None else answer.revocation_reason.value
        assert told == one.entry.reason


def _authority_key(crl: x509.CertificateRevocationList) -> bytes | None:
    return crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def _subject_key(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def _is_responder(certificate: x509.Certificate) -> bool:
    return any(isinstance(one.value, x509.OCSPNoCheck) for one in certificate.extensions)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


@pytest.mark.timeout(1500)
def test_the_right_crl_and_the_right_answer_say_the_right_thing(tmp_path: Path) -> None:
    folder, template = tmp_path / "server", tmp_path / "template"
    folder.mkdir()
    token = new_server(folder).token
    shutil.copytree(folder, template)

    class OnThisServer(Machine):
        def __init__(self) -> None:
            super().__init__(folder, template, token)

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            # Each example has a token process to start, and perhaps others beside it.
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate] if EXAMPLES < MANY else [Phase.generate, Phase.shrink],
        ),
    )
