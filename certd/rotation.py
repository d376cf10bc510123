"""What keeps authorities going for decades, put together: their keys, cross-certificates, and what they take over."""

from collections.abc import Callable
from dataclasses import dataclass

from certd.clock import Clock
from certd.services.access import Access
from certd.services.adoption import Adoption
from certd.services.authority_key_changes import AuthorityKeyChanges
from certd.services.authority_keys import AuthorityKeys
from certd.services.authority_views import AuthorityViews
from certd.services.cross_certification import CrossCertifier
from certd.services.issued_import import IssuedImport
from certd.services.issuing_loop import IssuingLoop
from certd.services.steps import StepHook
from certd.store.store import Store
from certd.token.client import TokenClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The services of keys of authorities."""

    keys: AuthorityKeys
    changes: AuthorityKeyChanges
    certifier: CrossCertifier
    adoption: Adoption
    issued_import: IssuedImport


def rotation(
    *,
    store: Store,
    token: TokenClient,
    clock: Clock,
    access: Access,
    loop: IssuingLoop,
    epoch: Callable[[], int],
    views: AuthorityViews,
    base_url: str | None,
    wake_scheduler: Callable[[], None],
    step: StepHook,
) -> Rotation:
    """Constructs them."""
    certifier = CrossCertifier(store=store, clock=clock, access=access, loop=loop, base_url=base_url, step=step)
    return Rotation(
        keys=AuthorityKeys(
            store=store,
            token=token,
            clock=clock,
            access=access,
            loop=loop,
            epoch=epoch,
            views=views,
            certifier=certifier,
            base_url=base_url,
            step=step,
        ),
        changes=AuthorityKeyChanges(
            store=store, clock=clock, access=access, views=views, wake_scheduler=wake_scheduler
        ),
        certifier=certifier,
        adoption=Adoption(
            store=store, token=token, clock=clock, access=access, views=views, base_url=base_url, step=step
        ),
        issued_import=IssuedImport(store=store, clock=clock, access=access),
    )
