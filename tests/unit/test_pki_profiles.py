"""Built-in profiles: what each makes of a request, for every kind of key."""

import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from certd.errors import Reason
from certd.pki import der
from certd.pki.description import Description, describe
from certd.pki.encoding import certificate_pem
from certd.pki.extensions import KeyUsage
from certd.pki.key_spec import KeyFamily, KeySpec
from certd.pki.names import SubjectAlternativeNames
from certd.pki.profiles import (
    BLANK,
    BUILT_IN,
    CLIENT,
    CODE_SIGNING,
    EMAIL,
    END_ENTITY,
    LISTENER,
    OCSP_SIGNING,
    ROOT_CA,
    SERVER,
    SYSTEM,
    CustomExtension,
    Profile,
    key_usages_for,
    profile_violations,
)
from tests.unit.memory_authority import MemoryAuthority, prepare_leaf, public_key, refused_with, root

_HOST = SubjectAlternativeNames(dns_names=("www.example.internal",))
_MAILBOX = SubjectAlternativeNames(email_addresses=("jane@example.internal",))
_NONE = SubjectAlternativeNames()
_LEAVES = {
    "end-entity": (END_ENTITY, _HOST, ""),
    "server": (SERVER, _HOST, ""),
    "client": (CLIENT, _MAILBOX, "CN=jane@example.internal"),
    "code-signing": (CODE_SIGNING, _NONE, "CN=Example Software,O=Example"),
    "ocsp-signing": (OCSP_SIGNING, _NONE, "CN=Example Responder"),
    "email": (EMAIL, _MAILBOX, "CN=Jane Doe"),
    "listener": (LISTENER, _HOST, ""),
}
_SIGNS = KeyUsage.DIGITAL_SIGNATURE
_EXPECTED_USAGES = {
    KeyFamily.RSA: {
        name: {_SIGNS, KeyUsage.KEY_ENCIPHERMENT} for name in ("end-entity", "server", "listener", "email")
    },
    KeyFamily.EC: {"email": {_SIGNS, KeyUsage.KEY_AGREEMENT}},
    KeyFamily.ED25519: {},
}
_PURPOSES = {
    "end-entity": ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"),
    "server": ("1.3.6.1.5.5.7.3.1",),
    "client": ("1.3.6.1.5.5.7.3.2",),
    "code-signing": ("1.3.6.1.5.5.7.3.3",),
    "ocsp-signing": ("1.3.6.1.5.5.7.3.9",),
    "email": ("1.3.6.1.5.5.7.3.4",),
    "listener": ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"),
}


@pytest.fixture(scope="module")
def authority() -> MemoryAuthority:
    return root()


def _leaf(authority: MemoryAuthority, name: str, spec: KeySpec) -> Description:
    profile, names, subject = _LEAVES[name]
    prepared = prepare_leaf(authority, key=public_key(spec), names=names, subject=subject, profile=profile)
    assert not [one for one in prepared.warnings if one.field != "certificate"]
    assert (prepared.names, prepared.key_spec) == (names, spec)
    return describe(prepared.lint_certificate)


def _family(spec: KeySpec) -> KeyFamily:
    return KeyFamily(spec.partition("_")[0])


@pytest.mark.parametrize(
    ("name", "spec"), [(name, spec) for name, (profile, _, _) in _LEAVES.items() for spec in sorted(profile.key_specs)]
)
def test_leaf(authority: MemoryAuthority, name: str, spec: KeySpec) -> None:
    _, names, subject = _LEAVES[name]
    described = _leaf(authority, name, spec)
    assert set(described.key_usages) == _EXPECTED_USAGES[_family(spec)].get(name, {_SIGNS})
    assert described.extended_key_usages == _PURPOSES[name]
    assert described.subject_alternative_names == names
    assert described.subject_text == subject
    assert not described.authority
    assert ("1.3.6.1.5.5.7.48.1.5" in {extension.oid for extension in described.extensions}) is (name == "ocsp-signing")


def test_responder_need_not_be_asked_about(authority: MemoryAuthority) -> None:
    described = _leaf(authority, "ocsp-signing", KeySpec.EC_P256)
    (no_check,) = (extension for extension in described.extensions if extension.oid == "1.3.6.1.5.5.7.48.1.5")
    assert (no_check.critical, no_check.value) == (False, b"\x05\x00")
    assert described.not_after_time - described.not_before_time < timedelta(days=8)


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("end-entity", "sslserver"),
        ("end-entity", "sslclient"),
        ("server", "sslserver"),
        ("client", "sslclient"),
        ("email", "smimesign"),
        ("email", "smimeencrypt"),
        ("code-signing", "codesign"),
        ("ocsp-signing", "ocsphelper"),
    ],
)
@pytest.mark.parametrize("spec", [KeySpec.RSA_2048, KeySpec.EC_P256])
def test_openssl_takes_the_leaf_for_its_purpose(tmp_path: Path, name: str, purpose: str, spec: KeySpec) -> None:
    authority = root()
    profile, names, subject = _LEAVES[name]
    leaf = authority.sign(prepare_leaf(authority, key=public_key(spec), names=names, subject=subject, profile=profile))
    (tmp_path / "root.pem").write_text(certificate_pem(authority.certificate))
    (tmp_path / "leaf.pem").write_text(certificate_pem(leaf))
    files = [tmp_path / "root.pem", tmp_path / "leaf.pem"]
    run = subprocess.run(
        ["openssl", "verify", "-purpose", purpose, "-x509_strict", "-attime", "1772604367", "-CAfile", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    if purpose == "codesign" and "Invalid purpose" in run.stderr:
        pytest.skip("this OpenSSL does not know the purpose")
    if name == "email" and purpose == "smimeencrypt" and spec is KeySpec.EC_P256:
        # OpenSSL wants keyEncipherment for encryption whatever the key, which an EC key cannot have (RFC 5480).
        assert run.returncode != 0
        return
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        (CLIENT, SubjectAlternativeNames(uris=("spiffe://example.internal/a",))),
        (CLIENT, SubjectAlternativeNames(dns_names=("*.example.internal",))),
        (EMAIL, _HOST),
        (CODE_SIGNING, _HOST),
        (OCSP_SIGNING, _HOST),
        (SERVER, _MAILBOX),
        (SERVER, SubjectAlternativeNames(uris=("https://example.internal/",))),
        (BLANK, SubjectAlternativeNames(uris=("spiffe://example.internal/a",))),
    ],
)
def test_names_of_other_kinds(authority: MemoryAuthority, profile: Profile, names: SubjectAlternativeNames) -> None:
    error = refused_with(
        lambda: prepare_leaf(authority, names=names, subject="CN=x,O=Example", profile=profile), Reason.NAME_NOT_ALLOWED
    )
    assert all(profile.profile_id in violation.description for violation in error.violations)


@pytest.mark.parametrize("profile", [CODE_SIGNING, OCSP_SIGNING])
def test_what_is_called_by_its_subject_needs_one(authority: MemoryAuthority, profile: Profile) -> None:
    error = refused_with(lambda: prepare_leaf(authority, names=_NONE, profile=profile), Reason.NAME_NOT_ALLOWED)
    assert error.violations[0].field == "subject"


def test_blank_takes_what_is_there(authority: MemoryAuthority) -> None:
    names = replace(_HOST, email_addresses=("a@b.example",), uris=("https://a.example/",))
    prepared = prepare_leaf(authority, names=names, subject="CN=Anything at all", profile=BLANK)
    described = describe(prepared.lint_certificate)
    assert described.subject_alternative_names == names
    assert described.subject_text == "CN=Anything at all"
    assert (described.key_usages, described.extended_key_usages) == ((), ())
    told = [warning.message for warning in prepared.warnings if warning.field == "csr.extensions"]
    assert [message.partition(":")[0] for message in told] == ["left keyUsage out", "left extKeyUsage out"]


def test_blank_needs_some_name(authority: MemoryAuthority) -> None:
    error = refused_with(lambda: prepare_leaf(authority, names=_NONE, profile=BLANK), Reason.NAME_NOT_ALLOWED)
    assert error.violations[0].field == "subject_alternative_names"


def test_restricted_profiles() -> None:
    restricted = {name for name, profile in BUILT_IN.items() if profile.restricted}
    assert restricted == {"root-ca", "subordinate-ca", "ocsp-signing", "blank"}
    assert replace(SERVER, passed_extensions=("1.2.3",)).restricted
    for oid, restricted_by in (("1.3.6.1.4.1.311.21.10", True), ("1.2.3", False)):
        custom = CustomExtension(oid=oid, value=der.sequence(der.sequence(der.object_identifier("2.5.29.37.0"))))
        assert replace(SERVER, custom_extensions=(custom,)).restricted is restricted_by


def test_built_in_profiles_keep_the_rules_of_everybody() -> None:
    for profile in (*BUILT_IN.values(), *SYSTEM.values()):
        found = {violation.field for violation in profile_violations(profile)}
        # What certd alone may say: self-signed certificates, and SPIFFE ids of any trust domain.
        expected = {"profile"} if profile.self_signed else set()
        assert found == (expected if profile.profile_id != "identity" else {"profile.names.uris.prefixes[0]"})
        assert profile.version == 1
        assert profile.description


def test_ids() -> None:
    assert all(name == profile.profile_id for name, profile in (*BUILT_IN.items(), *SYSTEM.items()))
    assert not set(BUILT_IN) & set(SYSTEM)


@pytest.mark.parametrize("family", KeyFamily)
def test_keys_get_no_usage_that_they_cannot_have(family: KeyFamily) -> None:
    everything = replace(ROOT_CA, key_usages=frozenset(KeyUsage))
    impossible = {
        KeyFamily.RSA: {KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY, KeyUsage.DECIPHER_ONLY},
        KeyFamily.EC: {KeyUsage.KEY_ENCIPHERMENT, KeyUsage.DATA_ENCIPHERMENT},
        KeyFamily.ED25519: {
            KeyUsage.KEY_ENCIPHERMENT, KeyUsage.DATA_ENCIPHERMENT, KeyUsage.KEY_AGREEMENT, KeyUsage.ENCIPHER_ONLY,
            KeyUsage.DECIPHER_ONLY,
        },
    }  # fmt: skip
    assert frozenset(KeyUsage) - key_usages_for(everything, family) == impossible[family]
