"""The pinned roots: who says who a consumer is, in a file that nobody else can have written."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certd.errors import CertdError
from certd.pki.encoding import certificate_pem, parse_certificates
from certd.token.pinning import pin_roots
from tests.token.consumers import CONSUMER, NOW, Key, SystemRoot, make_root
from tests.token.leasing import Custodian, custodian


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Custodian]:
    with custodian(tmp_path) as found:
        yield found


def test_an_expired_root_vouches_for_nobody(own: Custodian) -> None:
    leaser = own.consumer()
    old = make_root("old", end=NOW - timedelta(seconds=1))
    pin_roots(own.settings.system_roots, [old.certificate], beside_others=True)
    refusal = leaser.refusal(leaser.sign(), certificate=old.issue(leaser.key))
    assert "pinned root is not valid" in refusal.message


def _refusal_of_roots(own: Custodian) -> str:
    leaser = own.consumer()
    return leaser.refusal(leaser.sign()).message


def test_without_pinned_roots_nothing_is_leased_and_the_remedy_is_named(own: Custodian) -> None:
    own.settings.system_roots.unlink()
    message = _refusal_of_roots(own)
    assert str(own.settings.system_roots) in message
    assert "certd token trust-root" in message


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_roots_that_others_may_write_are_refused(own: Custodian, mode: int) -> None:
    own.consumer()
    own.settings.system_roots.chmod(mode)
    assert "may be written by others" in _refusal_of_roots(own)
    own.settings.system_roots.chmod(0o644)
    leaser = own.consumer()
    own.opened(request := leaser.sign(), leaser.lease(request))


def test_roots_that_become_writable_are_refused_although_they_were_read(own: Custodian) -> None:
    leaser = own.consumer()
    own.opened(request := leaser.sign(), leaser.lease(request))
    own.settings.system_roots.chmod(0o666)
    assert "may be written by others" in leaser.refusal(leaser.sign()).message


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_roots_in_a_folder_that_others_may_write_are_refused(own: Custodian, mode: int) -> None:
    own.settings.system_roots.parent.chmod(mode)
    message = _refusal_of_roots(own)
    assert "folder that may be written by others" in message
    assert f"chmod go-w {own.settings.system_roots.parent}" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others takes root")
def test_roots_of_another_user_are_refused(own: Custodian) -> None:
    os.chown(own.settings.system_roots, 61001, -1)
    assert "belongs to another user" in _refusal_of_roots(own)
    os.chown(own.settings.system_roots, 0, -1)
    os.chown(own.settings.system_roots.parent, 61001, -1)
    assert "folder that belongs to another user" in _refusal_of_roots(own)


def _pem_of_nameless(issuer: ec.EllipticCurvePrivateKey, key: Key, *, authority: bool) -> bytes:
    """Returns a certificate whose issuer and subject are the same name."""
    nameless = SystemRoot(issuer, x509.Name([]), b"")
    return certificate_pem(nameless.issue(key, uris=[CONSUMER], authority=authority)).encode()


NO_ROOTS: dict[str, Callable[[Custodian], bytes]] = {
    "nothing": lambda _: b"",
    "garbage": lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "an identity": lambda own: certificate_pem(own.consumer().certificate).encode(),
    "a self-signed identity": lambda own: _pem_of_nameless(own.root.key, own.root.key, authority=False),
    "an authority below another": lambda own: certificate_pem(
        own.root.issue(ec.generate_private_key(ec.SECP256R1()), authority=True)
    ).encode(),
    "an authority of its own name by another's key": lambda own: _pem_of_nameless(
        own.root.key, ec.generate_private_key(ec.SECP256R1()), authority=True
    ),
    "a root and an identity": lambda own: (
        certificate_pem(own.root.certificate) + certificate_pem(own.consumer().certificate)
    ).encode(),
    "a private key": lambda own: (
        certificate_pem(own.root.certificate).encode()
        + b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"
    ),
    "too much": lambda own: certificate_pem(own.root.certificate).encode() * 4000,
}


@pytest.mark.parametrize("kind", NO_ROOTS)
def test_a_file_that_holds_something_else_than_roots_is_refused(own: Custodian, kind: str) -> None:
    content = NO_ROOTS[kind](own)
    own.settings.system_roots.write_bytes(content)
    assert str(own.settings.system_roots) in _refusal_of_roots(own)


def test_a_folder_in_place_of_the_roots_is_refused(own: Custodian) -> None:
    own.settings.system_roots.unlink()
    own.settings.system_roots.mkdir()
    assert str(own.settings.system_roots) in _refusal_of_roots(own)


def test_the_roots_are_read_again_when_they_change(own: Custodian) -> None:
    leaser = own.consumer()
    following = make_root("certd system authority 2")
    renewed = following.issue(leaser.key)
    assert "none of the pinned roots" in leaser.refusal(leaser.sign(), certificate=renewed).message
    assert pin_roots(own.settings.system_roots, [following.certificate], beside_others=True)
    for certificate in (renewed, leaser.certificate):
        request = leaser.sign()
        own.opened(request, leaser.lease(request, certificate=certificate))
    assert pin_roots(own.settings.system_roots, [following.certificate])
    assert "none of the pinned roots" in leaser.refusal(leaser.sign()).message


def test_pinned_roots_are_written_for_everybody_to_read_and_only_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "system-roots.pem"
    first, second = make_root("first").certificate, make_root("second").certificate
    assert pin_roots(file, [first])
    assert file.stat().st_mode & 0o777 == 0o644
    inode = file.stat().st_ino
    assert not pin_roots(file, [first])
    assert not pin_roots(file, [first], beside_others=True)
    assert file.stat().st_ino == inode
    assert pin_roots(file, [second], beside_others=True)
    assert parse_certificates(file.read_bytes()) == [first, second]
    assert not pin_roots(file, [second, first])
    assert pin_roots(file, [second])
    assert parse_certificates(file.read_bytes()) == [second]


def test_what_is_no_root_is_not_pinned(tmp_path: Path) -> None:
    file = tmp_path / "system-roots.pem"
    root = make_root()
    identity = root.issue(make_root().key)
    for certificates in ([identity], [root.certificate, identity], [b"garbage"], []):
        with pytest.raises(CertdError) as caught:
            pin_roots(file, certificates)
        assert [violation.field for violation in caught.value.violations] == ["token.system_roots"]
        assert not file.exists()
    file.write_text(certificate_pem(identity))
    with pytest.raises(CertdError):
        pin_roots(file, [root.certificate], beside_others=True)
    assert file.read_text() == certificate_pem(identity)
    # Whoever keeps nothing of it need not understand it.
    assert pin_roots(file, [root.certificate])
    assert parse_certificates(file.read_bytes()) == [root.certificate]
