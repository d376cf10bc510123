"""The part of the composition root that lets authorities go on under new certificates, and end."""

from collections.abc import Callable
from dataclasses import dataclass

from certd.clock import Clock
from certd.services.access import Access
from certd.services.authority_changes import AuthorityChanges
from certd.services.authority_deletion import AuthorityDeletion
from certd.services.authority_purge import AuthorityPurge
from certd.services.authority_reissue import AuthorityReissue
from certd.services.authority_views import AuthorityViews
from certd.services.issuing_loop import IssuingLoop
from certd.services.revocation_list_signing import RevocationListSigning
from certd.services.steps import StepHook
from certd.store.store import Store
from certd.token.client import TokenClient


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityLife:
    """The services of what becomes of authorities that exist."""

    changes: AuthorityChanges
    reissue: AuthorityReissue
    deletion: AuthorityDeletion
    purge: AuthorityPurge


def authority_life(
    *,
    store: Store,
    token: TokenClient,
    clock: Clock,
    access: Access,
    loop: IssuingLoop,
    views: AuthorityViews,
    lists: RevocationListSigning,
    base_url: str | None,
    wake_scheduler: Callable[[], None],
    step: StepHook,
) -> AuthorityLife:
    """Constructs them."""
    changes = AuthorityChanges(store=store, clock=clock, access=access, views=views, base_url=base_url)
    return AuthorityLife(
        changes=changes,
        reissue=AuthorityReissue(store=store, clock=clock, access=access, loop=loop, views=views, base_url=base_url),
        deletion=AuthorityDeletion(changes=changes, wake_scheduler=wake_scheduler),
        purge=AuthorityPurge(store=store, token=token, clock=clock, lists=lists, step=step),
    )
