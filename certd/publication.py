"""The part of the composition root that makes what relying parties look at."""

from dataclasses import dataclass

from certd.answering import Answering, answering
from certd.clock import Clock
from certd.services.access import Access
from certd.services.issuing_loop import IssuingLoop
from certd.services.revocation_list_signing import RevocationListSigning
from certd.services.revocation_lists import PublishedLists, RevocationLists, RevocationListTroubles
from certd.services.steps import StepHook
from certd.store.store import Store
from certd.token.client import TokenClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What is signed for relying parties, and served to them."""

    list_signing: RevocationListSigning
    lists: RevocationLists
    published_lists: PublishedLists
    list_troubles: RevocationListTroubles
    answering: Answering


def publication(
    *, store: Store, token: TokenClient, clock: Clock, access: Access, loop: IssuingLoop, step: StepHook
) -> Publication:
    """Constructs it."""
    signing = RevocationListSigning(store=store, token=token, clock=clock, step=step)
    return Publication(
        list_signing=signing,
        lists=RevocationLists(store=store, access=access, signing=signing),
        published_lists=PublishedLists(store),
        list_troubles=RevocationListTroubles(store, clock),
        answering=answering(store=store, token=token, clock=clock, loop=loop, step=step),
    )
