"""Codes for downloads as the edge sees them."""

from datetime import UTC, datetime

from certd.model.access import Caller
from certd.pki.download_code import DownloadCode
from certd.services.download_codes import DownloadCodes, MadeDownloadCode, NewDownloadCode
from tests.api.edge_profiles import Takes

CODE = DownloadCode(bytes(range(20)))
EXPIRES = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeDownloadCodes(DownloadCodes):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create(self, caller: Caller, new: NewDownloadCode) -> MadeDownloadCode:
        self._told.take(caller, new)
        return MadeDownloadCode(code=CODE, expire_time=EXPIRES)
