"""Writes the pinned roots of the system, for whoever may: the token process itself only reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from certd.credential_files import write
from certd.errors import CertdError
from certd.pki.consumer_certificate import parse_roots
from certd.pki.encoding import certificate_pem

_FIELD: Final = "token.system_roots"


def pin_roots(path: Path, certificates: Sequence[bytes], *, beside_others: bool = False) -> bool:
    """Writes roots (DER) to the file, which everybody may read; returns whether it changed.

    Args:
        path: the file, which may be missing.
        certificates: the roots.
        beside_others: whether those that the file has stay.

    Raises FIELD_INVALID for what is no root, also in the file unless nothing of it stays, and OSError.
    """
    found = _pinned(path, refuse_broken=beside_others)
    wanted = list(dict.fromkeys([*found, *certificates] if beside_others else certificates))
    bundle = "".join(certificate_pem(certificate) for certificate in wanted).encode()
    parse_roots(bundle, field=_FIELD)
    if set(wanted) == set(found):
        return False
    write(path, bundle, mode=0o644)
    return True


def _pinned(path: Path, *, refuse_broken: bool) -> list[bytes]:
    if not path.exists():
        return []
    try:
        return [root.certificate for root in parse_roots(path.read_bytes(), field=_FIELD)]
    except CertdError:
        if refuse_broken:
            raise
        return []
