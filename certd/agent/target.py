"""What a program offers that takes certificates in a way of its own, beside or instead of files and a reload."""

from typing import Protocol

from certd.agent.bundle import Bundle


class Target(Protocol):
    """A program that takes a certificate."""

    def deploy(self, bundle: Bundle) -> None:
        """Has the program serve a bundle; raises AgentError when it did not take it.

        NotTakenYetError where programs come to fetch and none has come: nothing is undone, and it is called again.

        The files of the bundle are in place by then. Called again with the one before when any target refused, so it
        takes every version at any time, also the one that it has. It gives up by itself after a while.
        """

    def restore(self, bundle: Bundle) -> None:
        """Is told, when the agent starts, what is deployed; raises AgentError when that did not help.

        Nothing is rolled back then: the bundle was taken before.
        """
