"""Extensions that a CSR asks for: which of them pass under a profile, and which not even then.

What passes is written into the certificate byte for byte. Key usages are the exception: they are critical whatever the
CSR says, and less those that the key cannot have.
"""

from dataclasses import dataclass

from cryptography import x509

from certd.errors import CertdError, Reason, Violation
from certd.pki import der, extensions
from certd.pki.certificate_request import Warning  # noqa: A004  # The API's word.
from certd.pki.csr import RequestedExtension
from certd.pki.extensions import KeyUsage, extension_text, key_usages_of
from certd.pki.key_spec import KeyFamily
from certd.pki.profile import Profile, key_usages_for, lets_pass, possible_key_usages

_FIELD = "csr.extensions"
_AUTHORITY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_FORBIDDEN_EXTENDED_USAGES = {
    extensions.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage, which stands for every purpose there is",
    extensions.OCSP_SIGNING: "OCSPSigning, with which its key would answer for the authority",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedExtensions:
    """What the certificate has of the profile and of the CSR."""

    key_usages: frozenset[KeyUsage]
    """Empty when neither profile nor CSR say anything of them."""
    extended_key_usages: tuple[str, ...]
    """Empty for an authority, and when neither profile nor CSR say anything of them."""
    passed: tuple[RequestedExtension, ...] = ()
    """The others that pass."""
    warnings: tuple[Warning, ...] = ()


def admit_extensions(
    requested: tuple[RequestedExtension, ...], profile: Profile, family: KeyFamily
) -> AdmittedExtensions:
    """Returns the extensions that a certificate for a key of `family` has of the profile and of the CSR.

    PROFILE_FORBIDS when the CSR asks for a usage that no CSR may choose, or for none that its key can have;
    FIELD_INVALID when a value that would pass is not DER.
    """
    if not requested and not _leaves_usages(profile):
        return AdmittedExtensions(
            key_usages=key_usages_for(profile, family), extended_key_usages=profile.extended_key_usages
        )
    return _Admission(profile, family).admit(requested)


def _leaves_usages(profile: Profile) -> bool:
    return not profile.authority and not (profile.key_usages and profile.extended_key_usages)


class _Admission:
    """Holds what is found on the way through the extensions of a CSR."""

    def __init__(self, profile: Profile, family: KeyFamily) -> None:
        self._profile = profile
        self._family = family
        self._key_usages = key_usages_for(profile, family)
        self._extended_key_usages = profile.extended_key_usages
        self._passed: list[RequestedExtension] = []
        self._warnings: list[Warning] = []
        self._undecodable: list[Violation] = []
        self._forbidden: list[Violation] = []

    def admit(self, requested: tuple[RequestedExtension, ...]) -> AdmittedExtensions:
        """Raises what `admit_extensions` raises."""
        for extension in requested:
            why = _why_dropped(extension.oid, self._profile)
            if why is None:
                self._pass(extension)
            else:
                self._warn(f"dropped {extension_text(extension.oid)}: {why}")
        self._refuse(Reason.FIELD_INVALID, self._undecodable)
        self._refuse(Reason.PROFILE_FORBIDS, self._forbidden)
        if not self._key_usages:
            self._warn("left keyUsage out: the profile leaves it to the CSR, which does not say what its key may do")
        if not self._extended_key_usages and not self._profile.authority:
            self._warn(
                "left extKeyUsage out: the profile leaves it to the CSR, and without it there is no purpose limit"
            )
        return AdmittedExtensions(
            key_usages=self._key_usages,
            extended_key_usages=self._extended_key_usages,
            passed=tuple(self._passed),
            warnings=tuple(self._warnings),
        )

    def _warn(self, message: str) -> None:
        self._warnings.append(Warning(_FIELD, message))

    def _forbid(self, problem: str) -> None:
        self._forbidden.append(Violation(_FIELD, problem))

    def _refuse(self, reason: Reason, violations: list[Violation]) -> None:
        if violations:
            profile_id = self._profile.profile_id
            more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
            message = f"{_FIELD}: {violations[0].description}{more}; profile {profile_id} takes them from the CSR"
            raise CertdError(reason, message, metadata={"profile": profile_id}, violations=tuple(violations))

    def _pass(self, extension: RequestedExtension) -> None:
        try:
            value = extensions.decode(extension.oid, extension.value)
        except der.MalformedError as error:
            problem = f"{extension_text(extension.oid)} has a value that cannot stand in a certificate: it {error}"
            self._undecodable.append(Violation(_FIELD, problem))
            return
        if isinstance(value, x509.KeyUsage):
            self._pass_key_usages(key_usages_of(value), critical=extension.critical)
        elif isinstance(value, x509.ExtendedKeyUsage):
            self._pass_extended_key_usages(tuple(usage.dotted_string for usage in value), critical=extension.critical)
        else:
            self._passed.append(extension)

    def _pass_key_usages(self, usages: frozenset[KeyUsage], *, critical: bool) -> None:
        if wrong := usages & _AUTHORITY_USAGES:
            self._forbid(f"keyUsage has {', '.join(sorted(wrong))}, which is for authorities alone")
        self._key_usages = possible_key_usages(usages, self._family)
        if dropped := usages - self._key_usages:
            self._warn(
                f"dropped {', '.join(sorted(dropped))} of keyUsage: a key of the kind {self._family} cannot do it"
            )
        if not critical:
            self._warn("made keyUsage critical (RFC 5280, section 4.2.1.3)")
        if not self._key_usages:
            self._forbid(f"keyUsage has nothing that a key of the kind {self._family} can do")

    def _pass_extended_key_usages(self, usages: tuple[str, ...], *, critical: bool) -> None:
        for usage in usages:
            if usage in _FORBIDDEN_EXTENDED_USAGES:
                self._forbid(f"extKeyUsage has {_FORBIDDEN_EXTENDED_USAGES[usage]}")
        self._extended_key_usages = tuple(dict.fromkeys(usages))
        wanted = extensions.is_extended_key_usage_critical(self._extended_key_usages)
        if critical is not wanted:
            self._warn(f"made extKeyUsage {'' if wanted else 'not '}critical")


def _why_dropped(oid: str, profile: Profile) -> str | None:
    """Returns why an extension does not pass, or None."""
    if not lets_pass(profile.passed_extensions, oid):
        return f"profile {profile.profile_id} decides on extensions"
    if not extensions.may_pass(oid):
        return "only the authority can say it"
    return f"profile {profile.profile_id} decides on it" if oid in profile.decided_extensions else None
