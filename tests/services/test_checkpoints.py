"""Checkpoints: signed in the token, of what there is, and never again of less."""

import base64
import json
import secrets
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from certd.config import Audit
from certd.errors import CertdError, Reason
from certd.model.event import EventType, NumberedEvent
from certd.pki.checkpoint import checkpoint_statement, parse_checkpoint
from certd.pki.key_spec import verify_signature
from certd.services.checkpoints import Checkpoints, CheckpointView, new_checkpoint_key
from certd.store import checkpoints, events
from certd.token.client import SignItem
from certd.token.policy import SignatureKind
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.conftest import (
    ADMINISTRATOR,
    STRANGER,
    CrashError,
    World,
    configuration,
    crash,
    new_world,
    running_world,
)
from tests.services.revocation_books import settle

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def service(world: World, *, file: Path | None = None) -> Checkpoints:
    """Checkpoints whose job is run by the test alone: for the scheduler it is a day away."""
    core = world.core
    return Checkpoints(
        store=core.store,
        token=core.token,
        clock=world.clock,
        access=core.access,
        system_authority=core.system_authority,
        interval=timedelta(days=1),
        file=file,
        wake_scheduler=lambda: None,
        step=world.steps,
    )


def get(world: World) -> CheckpointView:
    return service(world).get(ADMINISTRATOR)


def signed_events(world: World) -> list[NumberedEvent]:
    with world.core.store.read("test") as tx:
        page = events.page(tx, after_seq=0, limit=10_000)
    return [one for one in page if one.event.type is EventType.CHECKPOINT_SIGNED]


def is_signed(view: CheckpointView) -> bool:
    return verify_signature(view.public_key, view.signature_algorithm, signature=view.signature, data=view.statement)


def test_a_checkpoint_says_how_far_the_record_goes(world: World) -> None:
    with world.core.store.read("test") as tx:
        head = events.head(tx)
    view = get(world)
    said = parse_checkpoint(view.statement)
    assert is_signed(view)
    assert (said.seq, said.chain_hash, said.time) == (head.seq, head.chain_hash, world.clock.now())
    assert (view.seq, view.chain_hash, view.time) == (said.seq, said.chain_hash, said.time)
    assert said.installation == world.core.system_authority.generations()[0].authority.uid
    assert said.journal is not None
    found, _ = world.core.token.read_journal(position=said.journal.number - 1, limit=1)
    assert (said.journal.journal, said.journal.number) == (found.journal, said.journal.number)


def test_the_event_carries_all_that_it_takes_to_verify_it(world: World) -> None:
    view = get(world)
    (numbered,) = signed_events(world)
    details = numbered.event.details
    assert numbered.event.tenant == "default"
    assert details["statement"].encode() == view.statement
    assert base64.b64decode(details["signature"]) == view.signature
    assert base64.b64decode(details["public_key"]) == view.public_key
    assert details["signature_algorithm"] == view.signature_algorithm.value


def test_one_is_signed_in_a_minute_and_only_when_something_happened(world: World) -> None:
    first = get(world)
    assert get(world) == first
    # That it was signed is all that has happened.
    world.clock.advance(HOUR)
    assert get(world) == first
    world.create_root()
    second = get(world)
    assert second.seq > first.seq
    world.create_subordinate()
    assert get(world) == second
    world.clock.advance(MINUTE)
    assert get(world).seq > second.seq
    assert len(signed_events(world)) == 3


def test_the_job_signs_as_long_as_something_happens(world: World) -> None:
    job = service(world)
    for _ in range(3):
        job.advance("events")
        world.clock.advance(HOUR)
    assert len(signed_events(world)) == 1
    world.create_root()
    # Its CRL is signed beside the test, which is an event too.
    settle(world)
    job.advance("events")
    job.advance("events")
    assert len(signed_events(world)) == 2


def test_a_caller_without_the_permission_gets_none(world: World) -> None:
    with pytest.raises(CertdError) as caught:
        service(world).get(STRANGER)
    assert caught.value.reason is Reason.PERMISSION_MISSING
    assert signed_events(world) == []


def test_a_death_between_signature_and_record_leaves_another_checkpoint(world: World) -> None:
    world.steps.at["checkpoint.signed"] = crash
    with pytest.raises(CrashError):
        get(world)
    assert signed_events(world) == []
    assert is_signed(get(world))
    assert len(signed_events(world)) == 1


def item(world: World, view: CheckpointView, **changes: object) -> SignItem:
    with world.core.store.read("test") as tx:
        key = checkpoints.newest_key(tx)
    assert key is not None
    said = replace(parse_checkpoint(view.statement), **changes)  # type: ignore[arg-type]  # Of the fields' types.
    return SignItem(
        key_id=key.key_id,
        policy=key.policy,
        kind=SignatureKind.CHECKPOINT,
        signature_algorithm=key.signature_algorithm,
        to_be_signed=checkpoint_statement(said),
    )


def refusal(world: World, wanted: SignItem) -> CertdError | None:
    (outcome,) = world.core.token.sign([wanted], timeout=20)
    return outcome if isinstance(outcome, CertdError) else None


def test_the_token_signs_nothing_that_goes_back(world: World) -> None:
    view = get(world)
    assert refusal(world, item(world, view)) is None
    for changes in ({"seq": view.seq - 1}, {"chain_hash": secrets.token_bytes(32)}):
        error = refusal(world, item(world, view, **changes))
        assert error is not None
        assert error.reason is Reason.TOKEN_POLICY_FORBIDS
    assert refusal(world, item(world, view, seq=view.seq + 1)) is None


def test_a_key_of_checkpoints_signs_nothing_else(world: World) -> None:
    view = get(world)
    other = replace(item(world, view), kind=SignatureKind.CERTIFICATE)
    error = refusal(world, other)
    assert error is not None
    assert error.reason is Reason.TOKEN_POLICY_FORBIDS
    text_of_nothing = replace(item(world, view), to_be_signed=b"certd checkpoint v1\n")
    error = refusal(world, text_of_nothing)
    assert error is not None
    assert error.reason is Reason.FIELD_INVALID


def test_a_token_process_that_starts_anew_remembers(tmp_path: Path, token_settings: TokenSettings) -> None:
    with new_world(tmp_path, token_settings) as world:
        view = get(world)
        before = item(world, view, seq=view.seq - 1)
    with running_again(tmp_path, token_settings) as world:
        error = refusal(world, before)
        assert error is not None
        assert "is below" in error.message


def running_again(folder: Path, token: TokenSettings) -> AbstractContextManager[World]:
    return running_world(configuration(folder, token), FakeClock())


def test_a_record_that_was_cut_is_told_of_and_nothing_is_signed(world: World) -> None:
    view = get(world)

    def cut(tx: object) -> None:
        run = tx.execute  # type: ignore[attr-defined]  # Past the store, as an attacker.
        run(text("DELETE FROM events WHERE seq >= 3"))
        run(text("UPDATE event_sequence SET last_seq = 2, last_hash = (SELECT chain_hash FROM events WHERE seq = 2)"))

    world.core.store.write("test.cut", cut)
    world.clock.advance(HOUR)
    with pytest.raises(CertdError) as caught:
        get(world)
    assert caught.value.reason is Reason.TOKEN_POLICY_FORBIDS
    service(world).advance("events")
    assert len(signed_events(world)) == 0
    with world.core.store.read("test") as tx:
        found = [one.event for one in events.page(tx, after_seq=2, limit=100)]
    assert EventType.JOURNAL_DIFFERS in [one.type for one in found]
    assert any(f"below {view.seq}" in one.details.get("finding", "") for one in found)


def test_every_checkpoint_is_a_line_of_the_file(world: World, tmp_path: Path) -> None:
    file = tmp_path / "checkpoints.jsonl"
    wanted = service(world, file=file)
    wanted.advance("events")
    world.create_root()
    wanted.advance("events")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 2
    assert [parse_checkpoint(line["statement"].encode()).seq for line in lines] == [line["seq"] for line in lines]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_keeps_no_checkpoint_back(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service(world, file=tmp_path / "nowhere" / "file").advance("events")
    assert len(signed_events(world)) == 1
    assert "checkpoint_file" in caplog.text


def test_another_key_signs_when_there_is_a_newer_one(world: World) -> None:
    first = get(world)
    new = new_checkpoint_key(2, world.clock.now())
    world.core.store.write("test", lambda tx: checkpoints.insert_key(tx, new))
    world.create_root()
    world.clock.advance(MINUTE)
    second = get(world)
    assert is_signed(second)
    assert second.public_key != first.public_key


def test_the_interval_is_a_setting_with_bounds() -> None:
    assert Audit(checkpoint_interval=60).checkpoint_interval == 60
    for wrong in (59, 86_401):
        with pytest.raises(ValueError, match="checkpoint_interval"):
            Audit(checkpoint_interval=wrong)
