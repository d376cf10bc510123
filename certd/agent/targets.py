"""The programs of this machine that take certificates in ways of their own: which there are, by the configuration."""

from certd.agent.config import Certificate, Config
from certd.agent.target import Target


class Targets:
    """Made once, by `certd-agent run`, and anew when the configuration is read again.

    Args:
        config: the configuration.
    """

    def __init__(self, config: Config) -> None:
        self._config = config

    def start(self) -> None:
        """Begins to listen, where programs come to fetch; raises AgentError when that cannot be."""

    def stop(self) -> None:
        """Ends what `start` began."""

    def of(self, _certificate: Certificate) -> tuple[Target, ...]:
        """Returns those that take a certificate, in the order in which they get it."""
        return ()
