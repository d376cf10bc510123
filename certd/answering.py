"""The part of the composition root that answers OCSP requests."""

from dataclasses import dataclass

from certd.clock import Clock
from certd.services.issuing_loop import IssuingLoop
from certd.services.ocsp import OcspAnswers
from certd.services.ocsp_following import OcspFollower
from certd.services.ocsp_keys import OcspKeys
from certd.services.ocsp_presigning import OcspPresigning, begin_all
from certd.services.ocsp_responders import OcspResponders
from certd.services.steps import StepHook
from certd.store.store import Store
from certd.token.client import TokenClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What answers, and what signs ahead."""

    store: Store
    clock: Clock
    answers: OcspAnswers
    follower: OcspFollower
    presigning: OcspPresigning

    def start(self) -> None:
        """Starts answering; to be called before the scheduler starts."""
        self.begin()
        self.answers.start()
        self.follower.start()

    def begin(self) -> None:
        """Has all keys answered for that should be."""
        begin_all(self.store, self.clock.now())

    def stop(self) -> None:
        """Ends what `start` started."""
        self.follower.stop()
        self.answers.stop()


def answering(*, store: Store, token: TokenClient, clock: Clock, loop: IssuingLoop, step: StepHook) -> Answering:
    """Constructs it."""
    answers = OcspAnswers(store=store, token=token, clock=clock, keys=OcspKeys(store), step=step)
    responders = OcspResponders(store=store, token=token, clock=clock, loop=loop, step=step)
    return Answering(
        store=store,
        clock=clock,
        answers=answers,
        follower=OcspFollower(store, answers.memory),
        presigning=OcspPresigning(store=store, token=token, clock=clock, responders=responders, step=step),
    )
