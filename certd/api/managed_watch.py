"""ManagedCertificateService, the stream: convert, call `services.managed_watch`, convert back."""

from typing import Any

from certd.api.call import Call, Methods


def methods() -> Methods:
    """Returns the functions that answer these methods."""
    return {"WatchManagedCertificates": watch_managed_certificates}


def watch_managed_certificates(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """WatchManagedCertificates."""
    raise NotImplementedError
