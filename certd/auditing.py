"""What proves the record, put together: checkpoints, the watch over the journal, audit reports."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from certd.clock import Clock
from certd.config import Audit
from certd.services.access import Access
from certd.services.audit_reports import AuditReports
from certd.services.checkpoints import Checkpoints
from certd.services.journal_watch import JournalWatch
from certd.services.steps import StepHook
from certd.services.system import SystemAuthority
from certd.store.store import Store
from certd.token.client import TokenClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditing:
    """The services that prove the record."""

    checkpoints: Checkpoints
    journal_watch: JournalWatch
    audit_reports: AuditReports

    @property
    def beats(self) -> tuple[Callable[[], object], ...]:
        """What the scheduler calls every few seconds."""
        return self.checkpoints.look, self.journal_watch.look


def auditing(
    settings: Audit,
    *,
    store: Store,
    token: TokenClient,
    clock: Clock,
    access: Access,
    system_authority: SystemAuthority,
    wake_scheduler: Callable[[], None],
    step: StepHook,
) -> Auditing:
    """Constructs them."""
    return Auditing(
        checkpoints=Checkpoints(
            store=store,
            token=token,
            clock=clock,
            access=access,
            system_authority=system_authority,
            interval=timedelta(seconds=settings.checkpoint_interval),
            file=settings.checkpoint_file,
            wake_scheduler=wake_scheduler,
            step=step,
        ),
        journal_watch=JournalWatch(store=store, token=token, clock=clock),
        audit_reports=AuditReports(store=store, clock=clock, access=access),
    )
