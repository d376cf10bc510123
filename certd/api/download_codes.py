"""ManagedCertificateService, codes for downloads: convert, call `services.download_codes`, convert back."""

from typing import Any

from certd.api.call import Call, Methods


def methods() -> Methods:
    """Returns the functions that answer these methods."""
    return {"CreateDownloadCode": create_download_code}


def create_download_code(_request: Any, _call: Call) -> Any:  # noqa: ANN401
    """CreateDownloadCode."""
    raise NotImplementedError
