"""The list of keys whose private halves are known to everybody, as a file."""

import mmap
from pathlib import Path

from certd.errors import CertdError, field_invalid
from certd.pki.weak_keys import KnownKeys


def known_keys_of(path: Path) -> KnownKeys:
    """Returns the list in a file in the format of badkeys' `blocklist.dat`; raises FIELD_INVALID for any other."""
    try:
        with path.open("rb") as file:
            return KnownKeys(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise field_invalid(
            "prepare.known_weak_keys", f"{path} cannot be read: fetch the list again with `badkeys --update-bl`"
        ) from error
    except CertdError as error:
        raise field_invalid("prepare.known_weak_keys", f"{path}: {error.violations[0].description}") from error
