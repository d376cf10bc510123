"""What went wrong on this machine."""


class AgentError(Exception):
    """A program, a file or a certificate is not as it must be. The message is for people, and holds no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotTakenYetError(AgentError):
    """Nobody came yet to take a version, and nobody refused it: whoever comes gets it."""
