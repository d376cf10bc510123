"""Certificates in files, as `openssl ca -revoke` takes them: which one of the books each is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from certd.cli.certctl import files, names
from certd.cli.certctl.invocation import Invocation
from certd.errors import CertdError, Reason
from certd.pki.description import describe
from certd.pki.encoding import parse_certificates
from certd.v1.certificate_filter_pb2 import CertificateFilter
from certd.v1.certificate_service_pb2 import SearchCertificatesRequest

if TYPE_CHECKING:
    from certd.client.connection import Client

_CERTIFICATE_BYTES: Final = 64 << 10
_ALL: Final = "-"


def find(run: Invocation, paths: Sequence[str], authority: str | None) -> Mapping[str, str]:
    """Returns the full names of the certificates in files, by path.

    Another authority, or another CA, may have issued one with the same serial number; so what a file has must be what
    the books have, byte for byte.

    Args:
        run: the invocation.
        paths: files of one certificate each, PEM or DER.
        authority: whose certificates they are; None: those of any of the tenant.

    Raises:
        CertdError: FIELD_INVALID when a file cannot be read, or has no certificate or several; CERTIFICATE_NOT_FOUND
            when the books have none with the serial number, or none that is the same.
        CallFailed: as the server has it.
    """
    read = {path: _read(path) for path in paths}
    if not read:
        return {}
    parent = names.authority_name(authority or _ALL, run.tenant)
    with run.connect() as client, run.progress("looking the certificates up"):
        return {path: _find(client, parent, path, certificate) for path, certificate in read.items()}


def _read(path: str) -> bytes:
    data = files.read_certificates(path, longest=_CERTIFICATE_BYTES, what="certificate")
    found = parse_certificates(data, field=path)
    if len(found) != 1:
        raise CertdError(
            Reason.FIELD_INVALID, f"{path} has {len(found)} certificates; name a file that has the one to revoke alone"
        )
    return found[0]


def _find(client: "Client", parent: str, path: str, certificate: bytes) -> str:
    serial = describe(certificate).serial_number
    request = SearchCertificatesRequest(parent=parent, filter=CertificateFilter(serial_number=serial))
    found = [one for page in client.pages(client.stubs.search_certificates, request) for one in page.certificates]
    same = [one.name for one in found if one.certificate.der == certificate]
    if same:
        return same[0]
    bare = [one.name for one in found if not one.certificate.der]
    if not found:
        why = f"no certificate with the serial number {serial} of {path} is in the books of {parent}"
    elif bare:
        # It was lost, or comes from an old CA's list of numbers.
        why = f"the books have no copy of {bare[0]} to compare {path} with; if that is the one, revoke it by its name"
    else:
        others = ", ".join(one.name for one in found)
        why = f"the certificate in {path} is not the one of its serial number in the books: {others}"
    raise CertdError(Reason.CERTIFICATE_NOT_FOUND, why)
