"""What other CAs have written down of the certificates that they issued, read record by record."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from certd.errors import CertdError, Reason
from certd.pki.encoding import is_pem, parse_certificates

LONGEST_FILE: Final = 256 << 20
"""Bytes of a file that is read whole: JSON, and CRLs."""
_LONGEST_LINE: Final = 1 << 16
_LONGEST_SUBJECT: Final = 1024
_LONGEST_PEM: Final = 1 << 16
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SUFFIXES: Final = frozenset({".pem", ".crt", ".cer", ".der", ".json"})
_REASONS: Final = {
    "unspecified": "REVOCATION_REASON_UNSPECIFIED",
    "keycompromise": "KEY_COMPROMISE",
    "cacompromise": "CA_COMPROMISE",
    "affiliationchanged": "AFFILIATION_CHANGED",
    "superseded": "SUPERSEDED",
    "cessationofoperation": "CESSATION_OF_OPERATION",
    # Here nobody comes back from a hold.
    "certificatehold": "REVOCATION_REASON_UNSPECIFIED",
    "privilegewithdrawn": "PRIVILEGE_WITHDRAWN",
    "aacompromise": "AA_COMPROMISE",
}
_REASON_CODES: Final = dict(
    zip(
        (0, 1, 2, 3, 4, 5, 6, 9, 10),
        ("unspecified", "keycompromise", "cacompromise", "affiliationchanged", "superseded", "cessationofoperation",
         "certificatehold", "privilegewithdrawn", "aacompromise"),
        strict=True,
    )
)  # fmt: skip
"""RFC 5280, section 5.3.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """A revocation."""

    time: datetime
    reason: str = "REVOCATION_REASON_UNSPECIFIED"
    """Name in the API."""
    invalidity_time: datetime | None = None
    not_after: datetime | None = None
    """End of the certificate, where the record tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate, or what is left of one."""

    serial: int
    not_after: datetime | None = None
    subject: str = ""
    certificate: bytes = b""
    """DER."""
    revoked: Revoked | None = None


@dataclass(slots=True)
class Records:
    """What was read: revocations at once, for they are few, and certificates one by one."""

    revocations: dict[int, Revoked] = field(default_factory=dict)
    """By serial number."""
    crl_number: int = 0
    """The highest of the CRLs."""


def read_crl(path: str, records: Records) -> x509.CertificateRevocationList:
    """Reads a CRL, PEM or DER, into the revocations; FIELD_INVALID when it is none."""
    data = _read(path)
    try:
        crl = x509.load_pem_x509_crl(data) if b"-----BEGIN" in data[:4096] else x509.load_der_x509_crl(data)
        for entry in crl:
            reason, invalidity = "unspecified", None
            for extension in entry.extensions:
                if isinstance(extension.value, x509.CRLReason):
                    reason = extension.value.reason.value
                elif isinstance(extension.value, x509.InvalidityDate):
                    invalidity = extension.value.invalidity_date_utc
            if reason.lower() == "removefromcrl":
                continue
            records.revocations[entry.serial_number] = Revoked(
                time=entry.revocation_date_utc, reason=_reason(reason), invalidity_time=invalidity
            )
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        records.crl_number = max(records.crl_number, number)
    except x509.ExtensionNotFound:
        pass
    except ValueError as error:
        raise _invalid(f"{path} is no CRL") from error
    return crl


def openssl_index(path: str, certificates: Path | None) -> Iterator[Issued]:
    """Yields what `index.txt` of `openssl ca`, and of what builds on it, has.

    Args:
        path: of the file.
        certificates: the directory of the certificates, each named by its serial number; None: they are gone.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        parts = line.split("\t")
        if len(parts) != 6 or parts[0] not in {"V", "R", "E"}:
            raise _invalid(f"{path}: line {number} is none of an index.txt: six fields, V, R or E the first")
        status, expiry, revocation, serial_text, _, subject = parts
        try:
            serial = int(serial_text, 16)
            revoked = _openssl_revocation(revocation) if status == "R" else None
            not_after = _asn1_time(expiry)
        except (ValueError, KeyError) as error:
            raise _invalid(f"{path}: line {number} has a time, serial number or reason that does not read") from error
        yield Issued(
            serial=serial,
            not_after=not_after,
            subject=_printable(subject),
            certificate=_named(certificates, serial_text),
            revoked=revoked,
        )


def exported(paths: Iterable[str], records: Records) -> Iterator[Issued]:
    """Yields the certificates of PEM, DER and JSON files and of directories of such.

    JSON is of step-ca (records of `x509_certs` and `revoked_x509_certs`) or Vault and OpenBao (answers of `pki/cert/…`
    and lists of `pki/certs/revoked`), one value or many. All revocations are read before the first certificate.
    """
    found = list(_files(paths))
    read = {path: list(_json_values(path)) for path in found if _is_json(path)}
    listed: dict[int, Path] = {}
    for path, values in read.items():
        for value in values:
            _take_revocation(value, records, path, listed)
    if listed:
        _check_listed(listed, read)
    for path in found:
        if path not in read:
            yield from _certificates(path)
            continue
        for value in read[path]:
            certificate = _certificate_in(value)
            if certificate:
                yield _of_certificate(certificate, path)


def _take_revocation(value: Any, records: Records, path: Path, listed: dict[int, Path]) -> None:  # noqa: ANN401  # Of JSON.
    if isinstance(value, str):
        # A list of serial numbers, as `vault list pki/certs/revoked` prints it, does not say since when.
        serial = _hexadecimal(value, path)
        listed[serial] = path
        records.revocations.setdefault(serial, Revoked(time=datetime.now(UTC)))
        return
    if not isinstance(value, dict):
        raise _invalid(f"{path}: {json.dumps(value)[:64]} is no record of a certificate or of a revocation")
    data = value.get("data", value)
    if isinstance(data, dict) and isinstance(data.get("keys"), list):
        for serial in data["keys"]:
            _take_revocation(str(serial), records, path, listed)
        return
    said = _said(value)
    certificate = _certificate_in(value)
    time = _revocation_time(said)
    if not time:
        return
    serial = _of_certificate(certificate, path).serial if certificate else _serial_said(said, path)
    code = said.get("reasoncode", said.get("reason_code", 0))
    end = said.get("expiresat") or said.get("notafter")
    records.revocations[serial] = Revoked(
        time=_moment(time, path),
        reason=_reason(_REASON_CODES.get(int(code) if str(code).isdigit() else 0, "unspecified")),
        not_after=_end(end, path) if end else None,
    )


def _said(value: Any) -> dict[str, Any]:  # noqa: ANN401  # Of JSON.
    """Returns what a record says, by names in lower case."""
    data = value.get("data", value) if isinstance(value, dict) else None
    return {str(key).lower(): one for key, one in data.items()} if isinstance(data, dict) else {}


def _revocation_time(said: dict[str, Any]) -> Any:  # noqa: ANN401  # Of JSON.
    return said.get("revokedat") or said.get("revocation_time_rfc3339") or said.get("revocation_time")


def _end(value: Any, path: Path) -> datetime | None:  # noqa: ANN401  # Of JSON.
    """Returns when a certificate ends; None for the zero time that step-ca writes where it does not know."""
    end = _moment(value, path)
    return end if end.year > 1 else None


def _check_listed(listed: dict[int, Path], read: dict[Path, list[Any]]) -> None:
    """Raises FIELD_INVALID when a list, which would revoke all that it names, is none of what is revoked."""
    for path, values in read.items():
        for value in values:
            said, certificate = _said(value), _certificate_in(value)
            if not certificate or "revocation_time" not in said or _revocation_time(said):
                continue
            serial = _of_certificate(certificate, path).serial
            if serial in listed:
                raise _invalid(
                    f"{listed[serial]} lists {serial:x} as revoked, which is not, as {path} says; a list is of"
                    " pki/certs/revoked, and never of pki/certs"
                )


def _serial_said(said: dict[str, Any], path: Path) -> int:
    serial = said.get("serial", said.get("serial_number", said.get("serialnumber")))
    if serial is None:
        raise _invalid(f"{path}: a revocation has no serial number")
    text = str(serial)
    # step-ca writes them in decimal, Vault in hexadecimal with colons.
    return int(text) if text.isdigit() and "serial_number" not in said else _hexadecimal(text, path)


def _certificate_in(value: Any) -> bytes:  # noqa: ANN401  # Of JSON.
    """Returns the DER or PEM of a certificate in a value; empty when there is none."""
    data = value.get("data", value) if isinstance(value, dict) else None
    if not isinstance(data, dict):
        return b""
    for key in ("certificate", "crt", "pem", "x509"):
        text = next((one for name, one in data.items() if str(name).lower() == key), None)
        if isinstance(text, str) and text:
            encoded = text.encode()
            return encoded if is_pem(encoded) else f"{_BEGIN}\n{text.strip()}\n{_END}\n".encode()
    return b""


def _of_certificate(data: bytes, path: Path) -> Issued:
    try:
        der = parse_certificates(data)[0]
        parsed = x509.load_der_x509_certificate(der)
        return Issued(serial=parsed.serial_number, not_after=parsed.not_valid_after_utc, certificate=der)
    except (CertdError, ValueError) as error:
        raise _invalid(f"{path} has something in it that is no certificate: {error}") from error


def _certificates(path: Path) -> Iterator[Issued]:
    """Yields the certificates of a PEM bundle of any length, or of a file in DER."""
    with path.open("rb") as file:
        begin = file.read(_LONGEST_PEM)
    if not is_pem(begin) and b"-----BEGIN" not in begin:
        yield _of_certificate(_read(str(path)), path)
        return
    block: list[str] | None = None
    for _, line in _lines(str(path)):
        if line.startswith(_BEGIN):
            block = []
        if block is not None:
            block.append(line)
            if line.startswith(_END):
                yield _of_certificate("\n".join(block).encode() + b"\n", path)
                block = None


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for name in paths:
        path = Path(name)
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file() and one.suffix.lower() in _SUFFIXES)
        elif path.is_file():
            yield path
        else:
            raise _invalid(f"{name} is no file and no directory")


def _is_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(256).lstrip()[:1] in {b"{", b"["}


def _json_values(path: Path) -> Iterator[Any]:
    """Yields the values of a file that has one or many, those of a list one by one."""
    text, decoder, place = _read(str(path)).decode("utf-8", "replace"), json.JSONDecoder(), 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            raise _invalid(f"{path} is no JSON behind character {place}") from error
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise _invalid(f"{path}: line {number} is longer than {_LONGEST_LINE} bytes")
                yield number, line.decode("utf-8", "replace").rstrip("\r\n")
    except OSError as error:
        raise _invalid(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise _invalid(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > LONGEST_FILE:
        raise _invalid(f"{path} is longer than {LONGEST_FILE} bytes; divide it")
    return data


def _named(directory: Path | None, serial: str) -> bytes:
    """Returns the DER of the certificate of a serial number in `newcerts`; empty when it is not there."""
    if directory is None:
        return b""
    for name in (f"{serial}.pem", f"{serial.lower()}.pem"):
        path = directory / name
        if path.is_file() and re.fullmatch(r"[0-9A-Fa-f]+", serial):
            return _of_certificate(_read(str(path)), path).certificate
    return b""


def _openssl_revocation(text: str) -> Revoked | None:
    """Reads the third field: time, reason, and what belongs to it, with commas between; None: it was taken back."""
    time, _, rest = text.partition(",")
    reason, _, more = rest.partition(",")
    match reason.lower():
        case "keytime":
            return Revoked(time=_asn1_time(time), reason="KEY_COMPROMISE", invalidity_time=_asn1_time(more))
        case "cakeytime":
            return Revoked(time=_asn1_time(time), reason="CA_COMPROMISE", invalidity_time=_asn1_time(more))
        case "holdinstruction":
            return Revoked(time=_asn1_time(time))
        case "removefromcrl":
            return None
    return Revoked(time=_asn1_time(time), reason=_reason(reason or "unspecified"))


def _asn1_time(text: str) -> datetime:
    """Reads UTCTime (RFC 5280, section 4.1.2.5.1) or GeneralizedTime."""
    if not re.fullmatch(r"(\d\d)?\d{12}Z", text):
        raise ValueError(text)
    if len(text) == len("YYMMDDHHMMSSZ"):
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _moment(value: Any, path: Path) -> datetime:  # noqa: ANN401  # Of JSON.
    try:
        if isinstance(value, int | float) or str(value).isdigit():
            return datetime.fromtimestamp(int(value), UTC)
        moment = datetime.fromisoformat(re.sub(r"\.(\d{6})\d+", r".\1", str(value)))
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise _invalid(f"{path}: {str(value)[:64]} is no time") from error


def _hexadecimal(text: str, path: Path) -> int:
    digits = text.replace(":", "").replace("-", "")
    if not re.fullmatch(r"[0-9A-Fa-f]{1,40}", digits):
        raise _invalid(f"{path}: {text[:64]} is no serial number in hexadecimal")
    return int(digits, 16)


def _reason(text: str) -> str:
    return _REASONS[text.lower()]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)[:_LONGEST_SUBJECT]


def _invalid(problem: str) -> CertdError:
    return CertdError(Reason.FIELD_INVALID, problem)
