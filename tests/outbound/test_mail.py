"""Mail, handed to a real server over TLS."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.model.delivery import Answer, Outcome
from certd.model.event import Event, EventType, NumberedEvent
from certd.model.mail_server import MailSecurity, MailServer
from certd.model.subscription import MailTarget
from certd.outbound import mail
from certd.outbound.mail import Mail, compose
from certd.outbound.mail_text import subject_of, text_of
from certd.outbound.message import Message
from tests.mail_server import Mailbox, running_mail_server
from tests.webhooks import listening

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
EVENT = NumberedEvent(
    seq=42,
    event=Event(
        time=NOW,
        type=EventType.MANAGED_CERTIFICATE_EXPIRING,
        tenant="shop",
        principal="certd",
        resource="tenants/shop/managedCertificates/web",
        details={"days": "7", "not_after": "2030-01-09T00:00:00Z"},
    ),
    chain_hash=b"",
)
MESSAGE = Message(message_id="events/42:abc", event=EVENT)
TARGET = MailTarget(recipients=("ops@example.org", "security@example.org"))
SUBSCRIPTION = "tenants/shop/subscriptions/people"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mail")


@pytest.fixture
def mailbox(folder: Path) -> Iterator[Mailbox]:
    with running_mail_server(folder) as running:
        yield running


def _send(server: MailServer | None, target: MailTarget = TARGET) -> Answer:
    return Mail(server).send(target, MESSAGE, SUBSCRIPTION, NOW)


@pytest.mark.parametrize("security", list(MailSecurity))
def test_a_mail_is_sent(folder: Path, security: MailSecurity) -> None:
    with running_mail_server(folder, security=security) as mailbox:
        assert _send(mailbox.server()) == Answer(outcome=Outcome.TAKEN)
    (mailed,) = mailbox.mails
    assert mailed.encrypted
    assert (mailed.sender, mailed.recipients) == ("certd@example.org", TARGET.recipients)
    message = mailed.message
    assert message["From"] == "certd <certd@example.org>"
    assert message["To"] == "ops@example.org, security@example.org"
    assert message["Subject"] == "certd: web of tenant shop ends within 7 days"
    assert message["Message-ID"] == "<events.42.abc@example.org>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime == NOW
    assert message.get_content_type() == "text/plain"
    text = message.get_content()
    assert "tenants/shop/managedCertificates/web ends within 7 days, on 2030-01-09T00:00:00Z." in text
    assert "certctl managed renew" in text
    assert mailed.seq == 42


def test_a_repeated_mail_folds() -> None:
    server = MailServer(host="x", port=1, security=MailSecurity.TLS, sender="certd@example.org")
    first, second = (
        compose(server, TARGET, MESSAGE, SUBSCRIPTION, NOW + timedelta(hours=hours))["Message-ID"] for hours in (0, 1)
    )
    assert first == second
    other = compose(server, TARGET, replace(MESSAGE, message_id="events/42:abd"), SUBSCRIPTION, NOW)["Message-ID"]
    assert other != first


def test_who_is_not_encrypted_or_not_trusted_gets_nothing(mailbox: Mailbox, folder: Path) -> None:
    mailbox.offers_starttls = False
    answer = _send(mailbox.server())
    assert (answer.outcome, "STARTTLS" in answer.error) == (Outcome.AWAY, True)
    mailbox.offers_starttls = True
    for wrong in (mailbox.server(ca_file=None), mailbox.server(host="127.0.0.1")):
        answer = _send(wrong)
        assert answer.outcome is Outcome.AWAY
        assert "certificate is not trusted" in answer.error
    # Who speaks in the clear first is no server of TLS from the first octet.
    assert "TLS with the mail server fails" in _send(mailbox.server(security=MailSecurity.TLS)).error
    assert _send(mailbox.server(ca_file=folder / "none.pem")).outcome is Outcome.AWAY
    assert not mailbox.mails


def test_logging_in(mailbox: Mailbox, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    mailbox.credentials = "certd:hunter2"
    server = mailbox.server(username="certd", password_file=password)
    assert _send(server) == Answer(outcome=Outcome.TAKEN)
    assert mailbox.mails[0].login == "certd:hunter2"
    password.write_text("wrong")
    answer = _send(server)
    assert answer.outcome is Outcome.AWAY
    assert "does not let certd in" in answer.error
    password.chmod(0o644)
    for broken in (server, replace(server, password_file=tmp_path / "none")):
        answer = _send(broken)
        assert answer.outcome is Outcome.AWAY
        assert answer.error.startswith("the password or the roots of the mail server cannot be used")
        assert str(tmp_path) not in answer.error
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize(
    ("command", "said", "outcome"),
    [
        ("CONNECT", "554 not you", Outcome.AWAY),
        ("CONNECT", "DROP", Outcome.AWAY),
        ("EHLO", "DROP", Outcome.AWAY),
        ("STARTTLS", "454 not now", Outcome.AWAY),
        ("MAIL", "451 later", Outcome.AWAY),
        ("MAIL", "550 no relay", Outcome.AWAY),
        ("RCPT", "451 greylisted", Outcome.AWAY),
        ("RCPT", "550 nobody", Outcome.REFUSED),
        ("RCPT security@example.org", "550 nobody", Outcome.TAKEN),
        ("RCPT security@example.org", "451 greylisted", Outcome.REFUSED),
        ("DATA", "451 later", Outcome.AWAY),
        ("DATA", "554 no", Outcome.REFUSED),
        ("END", "451 later", Outcome.AWAY),
        ("END", "554 looks like spam", Outcome.REFUSED),
        ("END", "DROP", Outcome.AWAY),
        ("QUIT", "DROP", Outcome.TAKEN),
    ],
)
def test_what_an_answer_means(mailbox: Mailbox, command: str, said: str, outcome: Outcome) -> None:
    mailbox.answers[command] = said
    answer = _send(mailbox.server())
    assert answer.outcome is outcome
    assert answer.perhaps_the_event == (command in {"DATA", "END"} and said == "451 later")
    if said != "DROP":
        assert said in answer.error
    if command == "RCPT security@example.org":
        assert mailbox.mails[0].recipients == ("ops@example.org",)
        assert answer.error == f"security@example.org: the mail server answers {said}"


def test_nobody_there(mailbox: Mailbox) -> None:
    with listening() as gone:
        port = gone.getsockname()[1]
    assert _send(mailbox.server(port=port)).error == "the mail server cannot be reached: Connection refused"
    assert "[notify.smtp]" in _send(None).error


@pytest.mark.parametrize("security", list(MailSecurity))
def test_who_says_nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch, security: MailSecurity) -> None:
    monkeypatch.setattr(mail, "PATIENCE", 0.1)
    with listening() as silent:
        server = MailServer(
            host="localhost",
            port=silent.getsockname()[1],
            security=security,
            sender="certd@example.org",
            ca_file=folder / "mail-root.pem" if (folder / "mail-root.pem").exists() else None,
        )
        answer = _send(server)
    assert (answer.outcome, answer.error) == (Outcome.AWAY, "the mail server does not answer in time")


def test_who_talks_on_and_on_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "LONGEST", 0.3)
    gone = threading.Event()
    with listening() as endless:

        def talk() -> None:
            connection, _ = endless.accept()
            with connection:
                try:
                    while not gone.wait(0.02):
                        connection.sendall(b"220-hello\r\n")
                except OSError:
                    gone.set()

        talker = threading.Thread(target=talk)
        talker.start()
        server = MailServer(
            host="localhost",
            port=endless.getsockname()[1],
            security=MailSecurity.STARTTLS,
            sender="certd@example.org",
        )
        began = time.monotonic()
        assert _send(server).outcome is Outcome.AWAY
        assert time.monotonic() - began < 5
        talker.join(10)
    assert gone.is_set()


_TYPES = st.sampled_from(list(EventType)) | st.just(EventType.of("brand.new-thing"))
_WILD = st.text(max_size=60) | st.just("a\r\nBcc: victim@example.org\r\n\r\nhello")


@given(type_=_TYPES, resource=_WILD, principal=_WILD, details=st.dictionaries(_WILD, _WILD, max_size=5))
def test_no_event_puts_anything_into_the_headers(
    type_: EventType, resource: str, principal: str, details: dict[str, str]
) -> None:
    event = replace(EVENT.event, type=type_, resource=resource, principal=principal, details=details)
    message = replace(MESSAGE, event=NumberedEvent(seq=7, event=event, chain_hash=b""))
    server = MailServer(host="x", port=1, security=MailSecurity.TLS, sender="certd@example.org")
    composed = compose(server, TARGET, message, SUBSCRIPTION, NOW)
    head = composed.as_bytes().partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in {b" ", b"\t"}]
    known = {b"From", b"To", b"Subject", b"Date", b"Message-ID", b"Auto-Submitted", b"MIME-Version"}
    assert set(names) <= known | {b"Content-Type", b"Content-Transfer-Encoding"}
    assert len(names) == len(set(names))


def test_a_mail_is_of_seven_bits_whatever_it_says() -> None:
    event = replace(EVENT.event, type=EventType.SUBSCRIPTION_UPDATED, details={"display_name": "Bär"})
    message = replace(MESSAGE, event=replace(EVENT, event=event))
    server = MailServer(host="x", port=1, security=MailSecurity.TLS, sender="certd@example.org")
    composed = compose(server, TARGET, message, SUBSCRIPTION, NOW)
    assert composed.as_bytes().isascii()
    assert "display_name: Bär" in composed.get_content()


@pytest.mark.parametrize("type_", [*EventType, EventType.of("brand.new-thing")])
@pytest.mark.parametrize("details", [{}, EVENT.event.details])
def test_every_type_is_told_in_sentences(type_: EventType, details: dict[str, str]) -> None:
    numbered = replace(EVENT, event=replace(EVENT.event, type=type_, details=details))
    subject, text = subject_of(numbered), text_of(numbered, SUBSCRIPTION)
    assert "web" in subject or type_ is EventType.SUBSCRIPTION_TEST
    first = text.splitlines()[0]
    assert first.endswith((".", "type of the event"))
    assert "None" not in text
    assert "  " not in first
    assert SUBSCRIPTION in text
    assert type_.value in text


def test_what_happens_to_a_version_is_told_of_what_it_is_a_version_of() -> None:
    resource = "tenants/shop/managedCertificates/web/versions/3"
    event = replace(EVENT.event, type=EventType.MANAGED_CERTIFICATE_EXPIRING, tenant="shop", resource=resource)
    assert subject_of(replace(EVENT, event=event)).startswith("certd: web of tenant shop ends")
