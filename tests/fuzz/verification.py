"""Whatever was issued: read by certd's own lints, by openssl under its strict checks, and by pkilint."""

import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certd.errors import CertdError
from certd.pki import lint
from certd.pki.description import Description, describe
from tests.daemon import Installation
from tests.interop.pkilint_comparison import explain
from tests.interop.pkilint_comparison import lint as pkilint
from tests.interop.pkilint_comparison import lint_pair as pkilint_pair
from tests.system.books import database_of, rows

_DIFFERENCES = (
    # Object identifiers of two arcs are whole ones, and the second arc below 2 has no bound (X.660).
    r"(certificate does not decode|itu\.invalid_asn1_syntax): .*OID (requires minimum of 3|contains out-of-range).*",
    # It knows the schemes of the web alone; a URI may have any (RFC 3986).
    r'pkix\.invalid_uri_syntax: Invalid URI syntax: "[a-z][a-z0-9+.-]*:[^/ "][^ "]*"',
    # One letter is a domain.
    r'pkix\.invalid_domain_name_syntax: Invalid domain name syntax: "([a-z0-9-]+\.)+[a-z0-9]"',
)
"""What pkilint says of odd certificates beside what it says of usual ones, and what is no fault of certd's either."""
_AT_ONCE = 400
"""Certificates for one process of openssl."""
_OPENSSL_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate from the books."""

    certificate: bytes
    issuer: bytes
    """DER, as is the chain."""
    chain: tuple[bytes, ...]
    """From the issuer's issuer up to the root."""
    profile: str
    serial: str

    @property
    def root(self) -> bytes:
        return self.chain[-1] if self.chain else self.issuer


@dataclass(slots=True)
class Verification:
    """What was looked at, and what is wrong."""

    certificates: int = 0
    linted_by_pkilint: int = 0
    explained: Counter[str] = field(default_factory=Counter)
    """Differences to pkilint, by their finding."""
    wrong: list[str] = field(default_factory=list)


def issued_certificates(installation: Installation) -> list[Issued]:
    """Returns every certificate in the books of a daemon, those of authorities too, save the system's own."""
    database = database_of(installation)
    authorities = {
        uid: (certificate, _chain(chain))
        for uid, certificate, chain in rows(
            database,
            "SELECT uid, certificate, chain FROM authorities WHERE tenant IS NOT NULL AND certificate IS NOT NULL",
        )
    }
    return [
        Issued(certificate=der, issuer=authorities[uid][0], chain=authorities[uid][1], profile=profile, serial=serial)
        for uid, serial, der, profile in rows(
            database,
            "SELECT authority_uid, serial, der, profile FROM certificates WHERE der IS NOT NULL ORDER BY create_time",
        )
        if uid in authorities
    ]


def _chain(packed: bytes) -> tuple[bytes, ...]:
    """Returns certificates that are each preceded by their length in four bytes."""
    found = []
    at = 0
    while at < len(packed):
        length = int.from_bytes(packed[at : at + 4])
        found.append(packed[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(found)


def verify(issued: Sequence[Issued], *, folder: Path, sample: int, seed: int) -> Verification:
    """Verifies all, and has a sample of so many read by pkilint too."""
    result = Verification(certificates=len(issued))
    warnings: dict[bytes, set[str]] = {}
    issuers: dict[bytes, Description] = {}
    for one in issued:
        try:
            warnings[one.certificate] = _lint(one, issuers)
        except CertdError as error:
            result.wrong.append(f"certd's lints refuse {_of(one)}: {error}")
    result.wrong += _openssl(issued, folder)
    chosen = list(issued) if len(issued) <= sample else random.Random(seed).sample(list(issued), sample)
    for one in chosen:
        found = pkilint(one.certificate) | pkilint_pair(one.issuer, one.certificate)
        for finding in found:
            difference = explain(finding, warnings.get(one.certificate, ()))
            pattern = difference.finding if difference is not None else _difference(finding)
            if pattern is None:
                result.wrong.append(f"pkilint of {_of(one)}: {finding}")
            else:
                result.explained[pattern] += 1
    result.linted_by_pkilint = len(chosen)
    return result


def _difference(finding: str) -> str | None:
    return next((pattern for pattern in _DIFFERENCES if re.fullmatch(pattern, finding)), None)


def _of(one: Issued) -> str:
    return f"{one.serial} under {one.profile} ({one.certificate.hex()})"


def _lint(one: Issued, issuers: dict[bytes, Description]) -> set[str]:
    """Returns the names of the lints that warn; raises CertdError for one that refuses."""
    issuer = issuers.get(one.issuer)
    if issuer is None:
        issuer = issuers[one.issuer] = describe(one.issuer)
    described = describe(one.certificate)
    assert described.signature_algorithm is not None
    _, warnings = lint.check(
        one.certificate,
        issuer_name=issuer.subject,
        issuer_key_identifier=issuer.subject_key_identifier,
        public_key=described.public_key,
        signature_algorithm=described.signature_algorithm,
    )
    return {warning.message.partition(":")[0] for warning in warnings}


def _openssl(issued: Sequence[Issued], folder: Path) -> Iterator[str]:
    """Yields what openssl refuses. Times are not looked at: some of these were made to end soon."""
    groups: dict[tuple[bytes, ...], list[Issued]] = {}
    for one in issued:
        groups.setdefault((one.issuer, *one.chain), []).append(one)
    for number, (above, members) in enumerate(groups.items()):
        root, untrusted = folder / f"root-{number}.pem", folder / f"untrusted-{number}.pem"
        root.write_bytes(_pem(above[-1]))
        untrusted.write_bytes(b"".join(map(_pem, above[:-1])))
        for start in range(0, len(members), _AT_ONCE):
            yield from _openssl_batch(members[start : start + _AT_ONCE], root, untrusted, folder)


def _openssl_batch(members: Sequence[Issued], root: Path, untrusted: Path, folder: Path) -> Iterator[str]:
    files = {}
    for number, one in enumerate(members):
        file = folder / f"{number}.pem"
        file.write_bytes(_pem(one.certificate))
        files[str(file)] = one
    accepted = {line.removesuffix(": OK") for line in _openssl_verify([*files], root, untrusted)[0].splitlines()}
    for path, one in files.items():
        if path in accepted:
            continue
        # Alone, so that what it says is of this one.
        problems = _openssl_verify([path], root, untrusted)[1]
        if not _unread_by_openssl(one.certificate, problems):
            yield f"openssl refuses {_of(one)}: {problems}"


def _openssl_verify(files: Sequence[str], root: Path, untrusted: Path) -> tuple[str, str]:
    """Returns what openssl says of the good, and of the bad."""
    ended = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-check_ss_sig", "-no_check_time", "-ignore_critical"),
            *("-CAfile", str(root)),
            *(("-untrusted", str(untrusted)) if untrusted.stat().st_size else ()),
            *files,
        ],
        capture_output=True,
        text=True,
        timeout=_OPENSSL_SECONDS,
        check=False,
    )
    return ended.stdout, ended.stderr


def _unread_by_openssl(certificate: bytes, problems: str) -> bool:
    """Tells whether openssl only fails to see that the alternative names are critical, as they are.

    It looks at extensions up to the first critical one that it does not know; with -ignore_critical it goes on, but
    does not look at the rest again.
    """
    if re.findall(r"error (\d+) at (\d+) depth", problems) != [("88", "0")]:
        return False
    extensions = list(x509.load_der_x509_certificate(certificate).extensions)
    names = next(at for at, one in enumerate(extensions) if isinstance(one.value, x509.SubjectAlternativeName))
    before = extensions[:names]
    return extensions[names].critical and any(
        one.critical and isinstance(one.value, x509.UnrecognizedExtension) for one in before
    )


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
