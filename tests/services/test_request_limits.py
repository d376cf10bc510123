"""A server that is configured to take less: what is known of a request only when it was looked at, and its queue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from certd.config import Limits
from certd.errors import CertdError, Reason, Violation
from certd.model.names import ProfileName
from certd.services.profile_check import Finding, RequestToCheck
from certd.token.settings import TokenSettings
from tests.fakes import FakeClock
from tests.services.batches import CA, batch_item, issue_batch, made, nothing_written, outcomes, refused
from tests.services.conftest import ADMINISTRATOR, World, configuration, csr_for, running_world

_TWO = ("a.example.internal", "b.example.internal")
_THREE = (*_TWO, "c.example.internal")
_RULE = "has 3 names; a certificate has at most 2, divide them"
_PROFILE = ProfileName("default", "end-entity")


@pytest.fixture
def ca(tmp_path: Path, token_settings: TokenSettings) -> Iterator[World]:
    limits = Limits(maximum_names=2, maximum_csr_bytes=1024, signing_queue=16)
    config = configuration(tmp_path, token_settings).model_copy(update={"limits": limits})
    with running_world(config, FakeClock()) as running:
        running.create_root()
        running.create_subordinate()
        yield running


def _issue(world: World, csr: bytes, *, validate_only: bool) -> Any:
    item = batch_item(csr=csr)
    return world.core.certificates.issue(ADMINISTRATOR, item.new, key=None, validate_only=validate_only, timeout=30)


@pytest.mark.parametrize("validate_only", [False, True])
def test_too_many_names_of_a_csr_are_refused_before_anything_is_written(ca: World, *, validate_only: bool) -> None:
    assert _issue(ca, csr_for(*_TWO), validate_only=True).der
    with nothing_written(ca):
        error = refused(lambda: _issue(ca, csr_for(*_THREE), validate_only=validate_only), Reason.NAME_NOT_ALLOWED)
    assert error.violations == (Violation("csr.subject_alternative_names", _RULE),)


def test_as_many_names_as_may_be_are_issued_and_an_item_with_more_fails_alone(ca: World) -> None:
    results = issue_batch(ca, [batch_item(csr=csr_for(*names)) for names in (_TWO, _THREE, _TWO)])
    assert outcomes(results) == [None, Reason.NAME_NOT_ALLOWED, None]
    assert isinstance(results[1], CertdError)
    assert results[1].violations == (Violation("csr.subject_alternative_names", _RULE),)


@pytest.mark.parametrize(
    ("csr", "findings"),
    [
        (csr_for(*_TWO), ()),
        (csr_for(*_THREE), ((Reason.NAME_NOT_ALLOWED, "csr.subject_alternative_names", _RULE),)),
        (bytes(1025), ((Reason.CSR_MALFORMED, "csr", "is longer than 1024 bytes"),)),
    ],
    ids=["two names", "three names", "long"],
)
def test_a_check_of_a_profile_finds_the_same(ca: World, csr: bytes, findings: tuple[Any, ...]) -> None:
    checked = ca.core.profile_checks.check(ADMINISTRATOR, RequestToCheck(name=_PROFILE, csr=csr, authority=CA))
    assert checked.findings == tuple(
        Finding(reason=reason, field=field, description=rule) for reason, field, rule in findings
    )
    assert (checked.certificate is None) == bool(findings)


def test_a_batch_that_is_alone_does_not_fill_a_short_queue(ca: World) -> None:
    assert ca.core.loop.queue_length == 16
    assert len(made(issue_batch(ca, [batch_item() for _ in range(60)]))) == 60
