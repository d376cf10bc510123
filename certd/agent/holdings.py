"""What a machine holds of a certificate, and may give to programs: nothing that is revoked, but for what they have.

Certificates are told apart by their hashes: numbers of versions may be given again, when the server's books were
restored from a backup.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final

from certd.agent.bundle import Bundle
from certd.agent.checks import check
from certd.agent.errors import AgentError
from certd.agent.kept import Kept, Record
from certd.v1.association_pb2 import Association

_LENGTH: Final = 32
"""Bytes of a SHA-256."""
_MOST_TOLD: Final = 100
_MOST_KNOWN: Final = 200


class Holdings:
    """Where a certificate stands, and its bundles. Not for two threads at once.

    Args:
        kept: its folder.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.record = kept.record()
        """Where it stands, as it was written last."""
        deployed = self.deployed()
        if deployed is not None:
            self.record = replace(self.record, deployed_sha256=sha256_of(deployed))

    def write(self, record: Record) -> None:
        """Writes where it stands; raises AgentError."""
        self._kept.write_record(record)
        self.record = record

    def deployed(self) -> Bundle | None:
        """Returns what is served, also when it is revoked; None when it is not kept."""
        record = self.record
        found = self._kept.bundle(record.deployed, record.source) if record.deployed else None
        return found if record.deployed_sha256 in {"", sha256_of(found)} else None

    def bundle(self, version: int, certificate_sha256: str = "") -> Bundle | None:
        """Returns a version that programs may be given, with a certificate, or any; None when it is not kept."""
        found = self._kept.bundle(version, self.record.source) if version else None
        if self._is_of_no_use(found) or certificate_sha256 not in {"", sha256_of(found)}:
            return None
        return found

    def keep(self, bundle: Bundle) -> None:
        """Keeps a bundle; raises AgentError."""
        self._kept.keep(bundle, self.record.source)

    def prune(self, versions: Iterable[int]) -> tuple[int, ...]:
        """Forgets all but some versions, and of these what is revoked and not served; returns those that stay."""
        record = self.record
        stay = tuple(
            version for version in versions if not self._is_of_no_use(self._kept.bundle(version, record.source))
        )
        self._kept.prune(keep=stay)
        return stay

    def learn(self, association: Association) -> bool:
        """Notes which certificates the server tells to be revoked; returns whether any is new. Raises AgentError.

        What was known stays known, for no certificate is good again. When what is served is among what is new, a newer
        version that failed before is to be tried again at once.
        """
        record, served = self.record, self.record.deployed_sha256
        told = [each.hex() for each in association.revoked_certificate_sha256[:_MOST_TOLD] if len(each) == _LENGTH]
        own = [served] if served in {*told, *record.revoked} else []
        known = tuple(dict.fromkeys((*own, *told, *record.revoked)))[:_MOST_KNOWN]
        if set(known) == set(record.revoked):
            return False
        failure = record.failure
        if failure is not None and own and served not in record.revoked:
            failure = replace(failure, retry_time=0)
        self.write(replace(record, revoked=known, failure=failure))
        return True

    def is_revoked(self, certificate_sha256: str) -> bool:
        """Returns whether a certificate is known to be revoked."""
        return certificate_sha256 in self.record.revoked

    @property
    def serves_revoked(self) -> bool:
        """Whether what is served is known to be revoked."""
        return self.is_revoked(self.record.deployed_sha256)

    def is_deployed(self, bundle: Bundle) -> bool:
        """Returns whether a bundle is what is served."""
        record = self.record
        return bundle.version == record.deployed and record.deployed_sha256 in {"", sha256_of(bundle)}

    def check(self, bundle: Bundle, now: datetime, *, certificate_sha256: str = "") -> None:
        """Raises AgentError unless programs may be given a bundle, with a certificate, or any."""
        if certificate_sha256 not in {"", sha256_of(bundle)}:
            raise AgentError(
                f"version {bundle.version} came with another certificate than the server tells of; tell its operator"
            )
        if self._is_of_no_use(bundle):
            raise AgentError(f"version {bundle.version} is revoked; renew the managed certificate, or request another")
        check(bundle, now)

    def _is_of_no_use(self, bundle: Bundle | None) -> bool:
        """Returns whether a bundle is revoked, and not what programs have."""
        found = sha256_of(bundle)
        return self.is_revoked(found) and found != self.record.deployed_sha256


def sha256_of(bundle: Bundle | None) -> str:
    """Returns the SHA-256 of the certificate of a bundle in hexadecimal; empty without a bundle."""
    return "" if bundle is None else bundle.certificate_sha256.hex()


def current_sha256(association: Association) -> str:
    """Returns that of the current version's certificate; empty when the server does not tell it."""
    told = association.current_certificate_sha256
    return told.hex() if len(told) == _LENGTH else ""
