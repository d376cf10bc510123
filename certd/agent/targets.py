"""The programs of this machine that take certificates in ways of their own: which there are, by the configuration."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from certd.agent.bundle import Bundle
from certd.agent.config import Certificate, Config, Sds
from certd.agent.errors import NotTakenYetError
from certd.agent.haproxy import HAProxyTarget
from certd.agent.target import Target

if TYPE_CHECKING:
    from certd.agent.sds import SecretServer

Wake = Callable[[str], None]
"""Has the certificate of a name tried again, from any thread."""


class EnvoyTarget:
    """The Envoys that ask for the secret of a certificate.

    Args:
        server: which they ask.
    """

    def __init__(self, server: "SecretServer") -> None:
        self._server = server

    def deploy(self, bundle: Bundle) -> None:
        """Sends it to every Envoy that is there; NotTakenYetError when there is none."""
        if not self._server.deploy(bundle):
            raise NotTakenYetError("no Envoy has asked for it yet")

    def restore(self, bundle: Bundle) -> None:
        """Serves it to whoever asks."""
        self._server.restore(bundle)


class Targets:
    """Made once, by `certd-agent run`, and anew when the configuration is read again.

    Args:
        config: the configuration.
        wake: called when a program that none had been there for came, and took or refused a certificate.
    """

    def __init__(self, config: Config, *, wake: Wake = lambda _: None) -> None:
        self._config = config
        self._wake = wake
        self._secrets = None if config.sds is None else self._secret_server(config.sds)

    def start(self) -> None:
        """Begins to listen, where programs come to fetch; raises AgentError when that cannot be."""
        if self._secrets is not None:
            self._secrets.start()

    def stop(self) -> None:
        """Ends what `start` began."""
        if self._secrets is not None:
            self._secrets.stop()

    def of(self, certificate: Certificate) -> tuple[Target, ...]:
        """Returns those that take a certificate, in the order in which they get it."""
        targets: list[Target] = []
        if certificate.haproxy is not None:
            targets.append(HAProxyTarget(certificate.haproxy))
        if certificate.sds and self._secrets is not None:
            targets.append(EnvoyTarget(self._secrets))
        return tuple(targets)

    def _secret_server(self, sds: Sds) -> "SecretServer":
        # Late: agents without it do without what it loads.
        from certd.agent.sds import SecretServer

        names = [each.name for each in self._config.certificates if each.sds]
        return SecretServer(sds, names, told=lambda bundle, _: self._wake(bundle.name))
