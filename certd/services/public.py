"""What anyone may fetch without a credential: certificates of authorities."""

from certd.errors import CertdError, Reason
from certd.store import authority_keys
from certd.store.store import Store


class PublicCertificates:
    """Certificates of authorities by what stands in public URLs: the uid, and the number of the key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def authority_chain(self, uid: str, key_number: int) -> tuple[bytes, ...]:
        """Returns DER of the authority's certificate and those above it; raises AUTHORITY_NOT_FOUND."""
        with self._store.read("public.authority") as tx:
            found = authority_keys.get(tx, uid, key_number)
        if found is None or found.certificate is None:
            raise CertdError(Reason.AUTHORITY_NOT_FOUND, "no authority has this uid and key number")
        return found.full_chain
