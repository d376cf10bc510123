"""What must and must not be said of every certificate, by a model that knows nothing of rows, jobs and caches.

It is told what was done. Of a restore it knows that the books forget and the world does not.
"""

import copy
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID

from certd.model.authority import AuthorityKeyState
from tests.services.revocation_books import Entry, entries, number_of

GRACE = timedelta(minutes=10)
"""How much longer than it must an entry may stay, as `revocation_list_signing` has it."""
_LIST = re.compile(r"http://[^/]+/crl/([0-9a-f]{32})/(\d+)(?:/(\d+))?\.crl")
_EXPIRED_CERTIFICATES = x509.ObjectIdentifier("2.5.29.60")

Key = tuple[str, int]
"""Id of an authority, and number of its key."""
Place = tuple[Key, int]
"""Of a CRL: whose it is, and the partition; 0: the complete one."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A certificate."""

    certificate: x509.Certificate = field(repr=False)
    key: Key
    """That signed it."""
    code: bool = False
    entry: Entry | None = None
    lost: bool = False
    """Whether only a journal tells of it."""

    @property
    def serial(self) -> str:
        return serial_of(self.certificate)

    @property
    def end(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it says that its CRL is."""
        try:
            points = self.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        except x509.ExtensionNotFound:
            return ()
        return tuple(name.value for point in points for name in point.full_name or ())

    @property
    def named(self) -> tuple[str, int, int] | None:
        """Uid, key number and partition of the CRL that it names."""
        for url in self.urls:
            found = _LIST.fullmatch(url)
            assert found is not None
            return found[1], int(found[2]), int(found[3] or 0)
        return None

    @property
    def responders(self) -> list[str]:
        """Where it says that requests about it are answered."""
        access = self.certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        return [one.access_location.value for one in access if one.access_method == AuthorityInformationAccessOID.OCSP]

    @property
    def partition(self) -> int:
        return 0 if self.named is None else self.named[2]


@dataclass(frozen=True, kw_only=True)
class KnownKey:
    """A key of an authority."""

    certificate: x509.Certificate
    state: AuthorityKeyState

    @property
    def public_key(self) -> bytes:
        return spki(self.certificate)


@dataclass(kw_only=True, repr=False)
class Books:
    """What the books of the server know. A restore takes that back."""

    known: dict[str, Known] = field(default_factory=dict)
    keys: dict[Key, KnownKey] = field(default_factory=dict)
    lists: dict[Place, tuple[int, datetime]] = field(default_factory=dict)
    """Number and time of the CRL that is published."""
    before: dict[Place, datetime] = field(default_factory=dict)
    """Time of the CRL that it replaced."""
    partition_count: int = 0
    """Of the authority `ca`; 0: its CRLs are not partitioned."""

    def copy(self) -> "Books":
        return Books(**{name: copy.copy(value) for name, value in vars(self).items()})

    def add(self, certificate: x509.Certificate, key: Key, *, code: bool = False) -> Known:
        one = Known(certificate=certificate, key=key, code=code)
        self.known[one.serial] = one
        return one

    def set_entry(self, serial: str, entry: Entry) -> None:
        self.known[serial] = replace(self.known[serial], entry=entry)

    def set_state(self, key: Key, state: AuthorityKeyState) -> None:
        self.keys[key] = replace(self.keys[key], state=state)

    def keys_of(self, authority_id: str, *states: AuthorityKeyState) -> list[Key]:
        return [key for key, one in self.keys.items() if key[0] == authority_id and (not states or one.state in states)]

    def active(self, authority_id: str) -> Key:
        (found,) = self.keys_of(authority_id, AuthorityKeyState.ACTIVE)
        return found

    def observe(self, place: Place, crl: x509.CertificateRevocationList) -> None:
        """Notes which CRL is published; to be called at least once for each that ever is."""
        published = (number_of(crl), crl.last_update_utc)
        replaced = self.lists.get(place)
        if replaced is not None and replaced != published:
            self.before[place] = replaced[1]
        self.lists[place] = published

    def signed_by(self, key: Key) -> list[Known]:
        return [one for one in self.known.values() if one.key == key]


def restored(now: Books, then: Books, told: Collection[str], moment: datetime) -> Books:
    """Returns what books know that were restored, by what a journal tells; its records are of this moment.

    What was issued since the backup is lost, and revoked. What an answer since then called revoked is revoked again. Of
    keys that are forgotten nobody answers; their own certificates are lost, which says as much.

    Args:
        now: what they knew.
        then: what the backup knows.
        told: serials that an answer called revoked since the backup.
        moment: when they are restored.
    """
    books, entry = then.copy(), Entry(second(moment), None, None)
    for serial, one in now.known.items():
        key = then.keys.get(one.key)
        if serial in then.known or key is None or key.public_key != now.keys[one.key].public_key:
            continue
        books.known[serial] = replace(
            one,
            entry=entry,
            lost=True,
            # What it was for is forgotten.
            code=False,
        )
    for serial, one in then.known.items():
        signs_itself = then.keys[then.active(one.key[0])].public_key == spki(one.certificate)
        if one.entry is None and serial in told and not signs_itself:
            books.known[serial] = replace(one, entry=entry)
    return books


def check_list(books: Books, place: Place, crl: x509.CertificateRevocationList) -> int:
    """Checks that a CRL says what it must and nothing else; returns how many entries it has."""
    key, partition = place
    found = entries(crl)
    of_it = {one.serial: one for one in books.signed_by(key)}
    before = books.before.get(place)
    for serial, entry in found.items():
        one = of_it.get(serial)
        assert one is not None, f"{serial} on the CRL of {place}, which did not sign it"
        assert partition in {0, one.partition}, f"{serial} on the CRL of another partition"
        assert one.entry == entry, f"{serial} on the CRL of {place}"
        assert one.code or before is None or one.end >= before - GRACE, f"{serial} is still on the CRL of {place}"
    for serial, one in of_it.items():
        if one.entry is not None and partition in {0, one.partition}:
            needed = one.code or one.end >= (before or crl.last_update_utc)
            assert serial in found or not needed, f"{serial} is not on the CRL of {place}"
    _check_promise(crl, [one for one in of_it.values() if partition in {0, one.partition}], set(found))
    _check_points(crl, place, of_it.values())
    return len(found)


def _check_promise(crl: x509.CertificateRevocationList, of_it: Iterable[Known], found: set[str]) -> None:
    """What the CRL says of ended certificates is true: what ended since then and was revoked stands there."""
    promises = [one.value for one in crl.extensions if one.oid == _EXPIRED_CERTIFICATES]
    revoked = [one for one in of_it if one.entry is not None]
    assert bool(promises) == any(one.code for one in revoked)
    for promise in promises:
        assert isinstance(promise, x509.UnrecognizedExtension)
        since = datetime.strptime(promise.value[2:].decode() + "+0000", "%Y%m%d%H%M%SZ%z")
        assert {one.serial for one in revoked if one.end >= since} <= found


def _check_points(crl: x509.CertificateRevocationList, place: Place, of_it: Iterable[Known]) -> None:
    """The complete CRL has no IDP; that of a partition lists every URL that a certificate names (RFC 5280, 5.2.5)."""
    points = [one for one in crl.extensions if isinstance(one.value, x509.IssuingDistributionPoint)]
    if not place[1]:
        assert not points
        return
    (point,) = points
    assert point.critical
    assert isinstance(point.value, x509.IssuingDistributionPoint)
    listed = {name.value for name in point.value.full_name or ()}
    assert {url for one in of_it if one.partition == place[1] for url in one.urls} <= listed


def second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def serial_of(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}".zfill(32)


def spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
