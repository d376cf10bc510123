"""What a profile may not say: every broken rule, with the path of its field."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from certd.errors import CertdError, Violation
from certd.pki import der, distinguished_name, extensions, names
from certd.pki.extensions import KeyUsage, extension_text
from certd.pki.key_spec import default_signature_algorithm, family_of
from certd.pki.names import HIGHEST_COUNT
from certd.pki.profile import (
    EVERY_EXTENSION,
    FEWEST_WILDCARD_LABELS,
    CommonNameRule,
    CustomExtension,
    DnsNameRules,
    EmailAddressRules,
    IpAddressRules,
    NameRules,
    Profile,
    SubjectPresence,
    SubjectRules,
    UriRules,
    key_usages_for,
    lets_pass,
)
from certd.pki.profile_rules import normalise_email_address, normalise_prefix, parse_range

LONGEST_DESCRIPTION = 256
"""Characters."""
LONGEST_BACKDATE = timedelta(days=1)
LONGEST_LIFETIME = timedelta(days=40 * 365)
HIGHEST_PATH_LENGTH = 4
MOST_RULES = 1000
"""Of one kind."""
MOST_EXTENDED_KEY_USAGES = 16
MOST_PASSED_EXTENSIONS = 32
MOST_POLICIES = 16
MOST_TLS_FEATURES = 8
MOST_CUSTOM_EXTENSIONS = 16
LONGEST_CUSTOM_VALUE = 4 << 10
"""Bytes."""
MOST_ATTRIBUTES = 32
MOST_SUBTREES = 100

_SECOND = timedelta(seconds=1)
_AUTHORITY_USAGES = frozenset({KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN})
_ENCIPHER_OR_DECIPHER = frozenset({KeyUsage.ENCIPHER_ONLY, KeyUsage.DECIPHER_ONLY})
_TLS_FEATURES = {5: "status_request", 17: "status_request_v2"}
"""RFC 7633, section 4.2.3: the ones that there is a use for; the library knows no other."""


def profile_violations(profile: Profile) -> tuple[Violation, ...]:
    """Returns every rule that a profile breaks, with fields such as `profile.names.dns_names.suffixes[0]`.

    Also what could never issue anything is a broken rule: it is told when the profile is made.
    """
    found = [
        *_of_bounds(profile),
        *_of_usages(profile),
        *_of_names(profile.names),
        *_of_subject(profile),
        *_of_passed_extensions(profile),
        *_of_written_extensions(profile),
    ]
    return tuple(
        Violation(f"profile.{violation.field}" if violation.field else "profile", violation.description)
        for violation in found
    )


def _of_bounds(profile: Profile) -> Iterator[Violation]:
    if len(profile.description) > LONGEST_DESCRIPTION:
        yield Violation("description", f"has more than {LONGEST_DESCRIPTION} characters")
    yield from _of_lifetimes(profile)
    if profile.self_signed:
        yield Violation("", "cannot be for self-signed certificates; the profile root-ca is")
    if not profile.authority and profile.highest_path_length:
        yield Violation("highest_path_length", "is for profiles of authorities alone")
    elif not 0 <= profile.highest_path_length <= HIGHEST_PATH_LENGTH:
        yield Violation("highest_path_length", f"must be 0 to {HIGHEST_PATH_LENGTH}")
    if not profile.key_specs:
        yield Violation("key_specs", "must name a kind of key")


def _of_lifetimes(profile: Profile) -> Iterator[Violation]:
    for field in ("default_lifetime", "shortest_lifetime", "longest_lifetime", "backdate"):
        if getattr(profile, field).microseconds:
            yield Violation(field, "must be in whole seconds")
    if profile.longest_lifetime > LONGEST_LIFETIME:
        yield Violation("longest_lifetime", "must be at most 40 years of 365 days")
    if profile.shortest_lifetime < _SECOND:
        yield Violation("shortest_lifetime", "must be at least one second")
    elif profile.shortest_lifetime == _SECOND and not profile.backdate:
        yield Violation("shortest_lifetime", "must be two seconds without a backdate: both ends of a validity count")
    if profile.shortest_lifetime > profile.longest_lifetime:
        yield Violation("shortest_lifetime", "must not be longer than the longest lifetime")
    if not profile.shortest_lifetime <= profile.default_lifetime <= profile.longest_lifetime:
        yield Violation("default_lifetime", "must lie between the shortest and the longest lifetime")
    if not timedelta(0) <= profile.backdate <= LONGEST_BACKDATE:
        yield Violation("backdate", "must be from 0 to one day")


def _of_usages(profile: Profile) -> Iterator[Violation]:
    usages = profile.key_usages
    if profile.authority:
        if not usages >= _AUTHORITY_USAGES:
            yield Violation("key_usages", "of authorities must have KEY_CERT_SIGN and CRL_SIGN")
    else:
        if wrong := usages & _AUTHORITY_USAGES:
            yield Violation("key_usages", f"must not have {', '.join(sorted(wrong))}, which is for authorities alone")
        if not usages and not lets_pass(profile.passed_extensions, extensions.KEY_USAGE):
            yield Violation("key_usages", "must not be empty, unless passed_extensions leaves them to the CSR")
    if usages & _ENCIPHER_OR_DECIPHER and KeyUsage.KEY_AGREEMENT not in usages:
        yield Violation("key_usages", "must have KEY_AGREEMENT beside ENCIPHER_ONLY or DECIPHER_ONLY")
    if usages >= _ENCIPHER_OR_DECIPHER:
        yield Violation("key_usages", "must not have both ENCIPHER_ONLY and DECIPHER_ONLY, which contradict each other")
    for spec in sorted(profile.key_specs) if usages else ():
        if not key_usages_for(profile, family_of(default_signature_algorithm(spec))):
            yield Violation("key_usages", f"leave nothing that a key of the kind {spec} can do")
    yield from _of_extended_key_usages(profile)


def _of_extended_key_usages(profile: Profile) -> Iterator[Violation]:
    field, usages = "extended_key_usages", profile.extended_key_usages
    yield from _of_identifiers(field, usages, most=MOST_EXTENDED_KEY_USAGES)
    if extensions.ANY_EXTENDED_KEY_USAGE in usages:
        at = usages.index(extensions.ANY_EXTENDED_KEY_USAGE)
        yield Violation(f"{field}[{at}]", "must not be anyExtendedKeyUsage, which stands for every purpose there is")
    if extensions.OCSP_SIGNING in usages and len(usages) > 1:
        at = usages.index(extensions.OCSP_SIGNING)
        yield Violation(f"{field}[{at}]", "is OCSP signing, which stands alone")
    if profile.authority and usages:
        yield Violation(field, "are not for authorities, for some readers take them as a limit of what is below")
    elif (
        not profile.authority and not usages and not lets_pass(profile.passed_extensions, extensions.EXTENDED_KEY_USAGE)
    ):
        yield Violation(field, "must not be empty, unless passed_extensions leaves them to the CSR")


def _of_identifiers(field: str, identifiers: Sequence[str], *, most: int) -> Iterator[Violation]:
    if len(identifiers) > most:
        # No further: a list may be as long as a message.
        yield Violation(field, f"must be at most {most}")
        return
    for index, identifier in enumerate(identifiers):
        if not extensions.is_object_identifier(identifier):
            yield Violation(f"{field}[{index}]", f"{names.excerpt(identifier)} is not a dotted object identifier")
        elif identifier in identifiers[:index]:
            yield Violation(f"{field}[{index}]", "stands there twice")


# Names and subjects.


def _of_names(rules: NameRules) -> Iterator[Violation]:
    found = (
        () if rules.dns_names is None else _of_dns_names(rules.dns_names),
        () if rules.ip_addresses is None else _of_ip_addresses(rules.ip_addresses),
        () if rules.uris is None else _of_uris(rules.uris),
        () if rules.email_addresses is None else _of_email_addresses(rules.email_addresses),
    )
    for one in found:
        yield from one
    if not 1 <= rules.most <= HIGHEST_COUNT:
        yield Violation("names.most", f"must be 1 to {HIGHEST_COUNT}")
    if not 0 <= rules.fewest <= rules.most:
        yield Violation("names.fewest", "must be from 0 to `most`")
    elif rules.fewest and not _kinds(rules):
        yield Violation("names.fewest", "must be 0 where no kind of name is allowed")


def _kinds(rules: NameRules) -> bool:
    return any((rules.dns_names, rules.ip_addresses, rules.uris, rules.email_addresses))


def _of_dns_names(rules: DnsNameRules) -> Iterator[Violation]:
    field = "names.dns_names"
    if not (rules.allow_any or rules.names or rules.suffixes):
        yield Violation(field, "allow nothing: give names or suffixes, or set allow_any, or leave dns_names out")
    yield from _of_rules(f"{field}.names", rules.names, names.normalise_dns_name, "is not a DNS name in A-labels")
    yield from _of_rules(
        f"{field}.suffixes", rules.suffixes, _host, "is not a domain in A-labels, without a leading dot"
    )
    if rules.fewest_wildcard_labels < FEWEST_WILDCARD_LABELS:
        yield Violation(f"{field}.fewest_wildcard_labels", f"must be at least {FEWEST_WILDCARD_LABELS}")


def _host(text: str) -> str | None:
    name = names.normalise_dns_name(text)
    return None if name is None or names.is_wildcard(name) else name


def _of_ip_addresses(rules: IpAddressRules) -> Iterator[Violation]:
    field = "names.ip_addresses"
    if not (rules.allow_any or rules.ranges):
        yield Violation(field, "allow nothing: give ranges, or set allow_any, or leave ip_addresses out")
    problem = "is not a range in CIDR notation without host bits, such as 192.0.2.0/24"
    yield from _of_rules(f"{field}.ranges", rules.ranges, parse_range, problem)


def _of_uris(rules: UriRules) -> Iterator[Violation]:
    field = "names.uris"
    if not (rules.allow_any or rules.prefixes):
        yield Violation(field, "allow nothing: give prefixes, or set allow_any, or leave uris out")
    problem = (
        "is not scheme, host and a slash, such as spiffe://example.internal/, with perhaps a path, without user and dot"
        " segments"
    )
    yield from _of_rules(f"{field}.prefixes", rules.prefixes, normalise_prefix, problem)


def _of_email_addresses(rules: EmailAddressRules) -> Iterator[Violation]:
    field = "names.email_addresses"
    if not (rules.allow_any or rules.domains or rules.addresses):
        yield Violation(
            field, "allow nothing: give domains or addresses, or set allow_any, or leave email_addresses out"
        )
    yield from _of_rules(f"{field}.domains", rules.domains, _host, "is not a host in A-labels")
    yield from _of_rules(f"{field}.addresses", rules.addresses, normalise_email_address, "is not an e-mail address")


def _of_rules(
    field: str, rules: Sequence[str], normal: Callable[[str], object | None], problem: str
) -> Iterator[Violation]:
    if len(rules) > MOST_RULES:
        yield Violation(field, f"must be at most {MOST_RULES}")
        return
    for index, rule in enumerate(rules):
        if normal(rule) is None:
            yield Violation(f"{field}[{index}]", f"{names.excerpt(rule)} {problem}")


def _of_subject(profile: Profile) -> Iterator[Violation]:
    rules = profile.subject
    dropped = rules.presence is SubjectPresence.DROPPED
    if dropped and profile.authority:
        yield Violation("subject.presence", "must be REQUIRED for authorities, whose name it is")
    elif dropped and not profile.names.fewest:
        yield Violation("subject.presence", "must not be DROPPED unless names.fewest asks for a name")
    elif profile.authority and rules.presence is not SubjectPresence.REQUIRED:
        yield Violation("subject.presence", "must be REQUIRED for authorities, whose name it is")
    if profile.authority and rules.common_name is CommonNameRule.AMONG_NAMES and not _kinds(profile.names):
        yield Violation("subject.common_name", "must not be AMONG_NAMES where an authority has no alternative names")
    for field, attributes in (("allowed", rules.allowed_attributes), ("required", rules.required_attributes)):
        yield from _of_identifiers(f"subject.{field}_attributes", attributes, most=MOST_ATTRIBUTES)
    yield from _of_required_attributes(rules)
    if len(rules.directory_subtrees) > MOST_SUBTREES:
        yield Violation("subject.directory_subtrees", f"must be at most {MOST_SUBTREES}")
    for index, subtree in enumerate(rules.directory_subtrees[:MOST_SUBTREES]):
        field = f"subject.directory_subtrees[{index}]"
        try:
            if subtree == distinguished_name.EMPTY:
                yield Violation(field, "must not be empty")
            yield from distinguished_name.violations(subtree, field)
        except CertdError as error:
            yield from error.violations


def _of_required_attributes(rules: SubjectRules) -> Iterator[Violation]:
    field = "subject.required_attributes"
    if rules.required_attributes and rules.presence is SubjectPresence.DROPPED:
        yield Violation(field, "must be empty where the subject is dropped")
    for index, required in enumerate(rules.required_attributes[:MOST_ATTRIBUTES]):
        shown = distinguished_name.short_name(required)
        if rules.allowed_attributes and required not in rules.allowed_attributes:
            yield Violation(f"{field}[{index}]", f"{shown} is not among the allowed ones")
        if required == distinguished_name.COMMON_NAME and rules.common_name is CommonNameRule.NONE:
            yield Violation(f"{field}[{index}]", "CN is dropped by the rule NONE")


# Extensions.


def _of_passed_extensions(profile: Profile) -> Iterator[Violation]:
    field, passed = "passed_extensions", profile.passed_extensions
    if EVERY_EXTENSION in passed:
        if len(passed) > 1:
            yield Violation(field, "must be `*` alone, or object identifiers")
        return
    yield from _of_identifiers(field, passed, most=MOST_PASSED_EXTENSIONS)
    decided = profile.decided_extensions
    for index, oid in enumerate(passed[:MOST_PASSED_EXTENSIONS]):
        if not extensions.may_pass(oid):
            yield Violation(f"{field}[{index}]", f"{extension_text(oid)} cannot pass: only the authority can say it")
        elif oid in decided:
            yield Violation(f"{field}[{index}]", f"{extension_text(oid)} cannot pass: the profile itself decides it")


def _of_written_extensions(profile: Profile) -> Iterator[Violation]:
    yield from _of_identifiers("policies", profile.policies, most=MOST_POLICIES)
    if extensions.ANY_POLICY in profile.policies and not profile.authority:
        at = profile.policies.index(extensions.ANY_POLICY)
        yield Violation(f"policies[{at}]", "must not be anyPolicy, which is for authorities alone")
    if len(profile.tls_features) > MOST_TLS_FEATURES:
        yield Violation("tls_features", f"must be at most {MOST_TLS_FEATURES}")
    for index, feature in enumerate(profile.tls_features[:MOST_TLS_FEATURES]):
        if feature not in _TLS_FEATURES:
            known = " or ".join(f"{number} ({name})" for number, name in _TLS_FEATURES.items())
            yield Violation(f"tls_features[{index}]", f"must be {known}")
        elif feature in profile.tls_features[:index]:
            yield Violation(f"tls_features[{index}]", "stands there twice")
    if len(profile.custom_extensions) > MOST_CUSTOM_EXTENSIONS:
        yield Violation("custom_extensions", f"must be at most {MOST_CUSTOM_EXTENSIONS}")
    seen: set[str] = set()
    for index, custom in enumerate(profile.custom_extensions[:MOST_CUSTOM_EXTENSIONS]):
        field = f"custom_extensions[{index}]"
        if custom.oid in seen:
            yield Violation(f"{field}.oid", "stands there twice")
        seen.add(custom.oid)
        yield from _of_custom_extension(field, custom, profile)


def _of_custom_extension(field: str, custom: CustomExtension, profile: Profile) -> Iterator[Violation]:
    if not extensions.is_object_identifier(custom.oid):
        yield Violation(f"{field}.oid", f"{names.excerpt(custom.oid)} is not a dotted object identifier")
        return
    if extensions.is_written_by_certd(custom.oid):
        yield Violation(f"{field}.oid", f"{extension_text(custom.oid)} is written by certd itself")
    elif custom.oid in extensions.AUTHORITY_EXTENSIONS and not profile.authority:
        yield Violation(f"{field}.oid", f"{extension_text(custom.oid)} is for authorities alone")
    elif custom.oid == extensions.OCSP_NO_CHECK and extensions.OCSP_SIGNING not in profile.extended_key_usages:
        yield Violation(f"{field}.oid", f"{extension_text(custom.oid)} is for OCSP signing alone")
    if not 0 < len(custom.value) <= LONGEST_CUSTOM_VALUE:
        yield Violation(f"{field}.value", f"must have 1 to {LONGEST_CUSTOM_VALUE} bytes")
        return
    try:
        extensions.decode(custom.oid, custom.value)
    except der.MalformedError as error:
        yield Violation(f"{field}.value", f"is not the DER of a value of {extension_text(custom.oid)}: it {error}")
