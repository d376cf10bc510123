"""Codes for downloads as the edge sees them."""

from dataclasses import replace
from datetime import UTC, datetime

from certd.model.access import Caller
from certd.model.names import DownloadCodeName, ManagedCertificateName
from certd.pki.download_code import DownloadCode
from certd.services.download_codes import DownloadCodes, DownloadCodeView, MadeDownloadCode, NewDownloadCode
from certd.services.idempotency import RequestKey
from certd.services.paging import Page, PageRequest
from certd.store.download_codes import DownloadCodeRow
from tests.api.edge_profiles import Takes

CODE = DownloadCode(bytes(range(20)))
EXPIRES = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
USED = datetime(2030, 1, 2, 2, 30, tzinfo=UTC)
ROW = DownloadCodeRow(
    code_sha256=CODE.secret_sha256,
    managed_certificate_uid="uid-of-web",
    source_networks=("192.0.2.0/24",),
    reason="a new router",
    creator="spiffe://example/identities/alice",
    create_time=datetime(2030, 1, 2, 2, 4, 5, tzinfo=UTC),
    expire_time=EXPIRES,
)
NAME = DownloadCodeName(ManagedCertificateName("default", "web"), ROW.id)


class FakeDownloadCodes(DownloadCodes):
    def __init__(self, told: Takes) -> None:
        self._told = told

    def create(self, caller: Caller, new: NewDownloadCode) -> MadeDownloadCode:
        self._told.take(caller, new)
        return MadeDownloadCode(code=CODE, view=DownloadCodeView(NAME, ROW))

    def page(self, caller: Caller, parent: ManagedCertificateName, request: PageRequest) -> Page[DownloadCodeView]:
        self._told.take(caller, parent, request)
        used = replace(ROW, use_time=USED, source_networks=())
        return Page((DownloadCodeView(NAME, ROW), DownloadCodeView(NAME, used)), "next")

    def delete(self, caller: Caller, name: DownloadCodeName, *, key: RequestKey | None) -> None:
        self._told.take(caller, name, key)
