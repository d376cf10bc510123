"""Lints of certificate policies and their qualifiers (RFC 5280, section 4.2.1.4; RFC 6818; RFC 9618)."""

import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from certd.pki import der
from certd.pki.extensions import ANY_POLICY, CERTIFICATE_POLICIES
from certd.pki.lint.judged import Lint, LintCopy

POLICY_MAPPINGS = "2.5.29.33"
_PRACTICE_STATEMENT = "1.3.6.1.5.5.7.2.1"
_USER_NOTICE = "1.3.6.1.5.5.7.2.2"
_LONGEST_EXPLICIT_TEXT = 200
"""Characters (RFC 5280, section 4.2.1.4)."""
_TEXTS = {der.UTF8_STRING: "utf-8", der.IA5_STRING: "ascii", der.VISIBLE_STRING: "ascii", der.BMP_STRING: "utf-16-be"}


class _Qualifier(NamedTuple):
    kind: str
    content: bytes


class _Policy(NamedTuple):
    oid: str
    qualifiers: tuple[_Qualifier, ...] | None
    """None when the field is left out."""


class _Notice(NamedTuple):
    has_reference: bool
    text: tuple[int, bytes] | None
    """Tag and content of explicitText."""


@lru_cache(maxsize=256)
def _policies(value: bytes) -> tuple[_Policy, ...]:
    """Reads CertificatePolicies; MalformedError when it is none."""
    outer = der.Reader(value)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    policies: list[_Policy] = []
    while reader.more:
        policy = reader.enter(der.SEQUENCE)
        oid = der.dotted(policy.read_object_identifier())
        qualifiers: list[_Qualifier] | None = None
        if policy.more:
            qualifiers = []
            field = policy.enter(der.SEQUENCE)
            while field.more:
                qualifier = field.enter(der.SEQUENCE)
                kind = der.dotted(qualifier.read_object_identifier())
                qualifiers.append(_Qualifier(kind, qualifier.read_any()[1]))
                qualifier.finish()
        policy.finish()
        policies.append(_Policy(oid, None if qualifiers is None else tuple(qualifiers)))
    return tuple(policies)


def _notice(content: bytes) -> _Notice:
    reader = der.Reader(content)
    has_reference = reader.peek() == der.SEQUENCE
    if has_reference:
        reader.read(der.SEQUENCE)
    text = reader.read_any() if reader.more else None
    reader.finish()
    return _Notice(has_reference, text)


@lru_cache(maxsize=256)
def _notices(value: bytes) -> tuple[_Notice, ...]:
    return tuple(
        _notice(qualifier.content)
        for policy in _policies(value)
        for qualifier in policy.qualifiers or ()
        if qualifier.kind == _USER_NOTICE
    )


def rfc5280_4_2_1_4_certificate_policies(copy: LintCopy) -> str | None:
    """Certificate policies are not empty, and none stands there twice."""
    policies = _policies(copy.tbs.extensions[CERTIFICATE_POLICIES].value)
    if not policies:
        return "the certificate policies are empty"
    twice = len({policy.oid for policy in policies}) < len(policies)
    return "a certificate policy stands there twice" if twice else None


def rfc5280_4_2_1_4_qualifiers(copy: LintCopy) -> str | None:
    """A list of policy qualifiers is not empty, and a practice statement is a URI. The library reads no other kinds."""
    for policy in _policies(copy.tbs.extensions[CERTIFICATE_POLICIES].value):
        if policy.qualifiers == ():
            return f"the policy {policy.oid} has an empty list of qualifiers"
        for qualifier in policy.qualifiers or ():
            if qualifier.kind == _PRACTICE_STATEMENT and b":" not in qualifier.content:
                return f"the practice statement of the policy {policy.oid} is no URI"
    return None


def rfc6818_3_explicit_text(copy: LintCopy) -> str | None:
    """An explicit text is a UTF8String or IA5String of at most 200 characters."""
    for notice in _notices(copy.tbs.extensions[CERTIFICATE_POLICIES].value):
        if notice.text is None:
            continue
        tag, content = notice.text
        if tag not in {der.UTF8_STRING, der.IA5_STRING}:
            return "the explicit text of a user notice is neither UTF8String nor IA5String"
        try:
            text = content.decode(_TEXTS[tag])
        except UnicodeDecodeError:
            return "the explicit text of a user notice does not decode"
        if not 0 < len(text) <= _LONGEST_EXPLICIT_TEXT:
            return f"the explicit text of a user notice has not 1 to {_LONGEST_EXPLICIT_TEXT} characters"
    return None


def rfc6818_3_explicit_text_form(copy: LintCopy) -> str | None:
    """An explicit text is best a UTF8String, in normalization form C, without control characters."""
    for notice in _notices(copy.tbs.extensions[CERTIFICATE_POLICIES].value):
        if notice.text is None:
            continue
        text = notice.text[1].decode(errors="replace")
        if notice.text[0] != der.UTF8_STRING or unicodedata.normalize("NFC", text) != text:
            return "the explicit text of a user notice is not a UTF8String in normalization form C"
        if any(unicodedata.category(character) == "Cc" for character in text):
            return "the explicit text of a user notice has control characters"
    return None


def rfc5280_4_2_1_4_notice_reference(copy: LintCopy) -> str | None:
    """A user notice does not refer to a text elsewhere, for no program looks there."""
    notices = _notices(copy.tbs.extensions[CERTIFICATE_POLICIES].value)
    referring = any(notice.has_reference for notice in notices)
    return "a user notice refers to a notice elsewhere" if referring else None


@lru_cache(maxsize=256)
def _mappings(value: bytes) -> tuple[tuple[str, str], ...]:
    outer = der.Reader(value)
    reader = outer.enter(der.SEQUENCE)
    outer.finish()
    pairs: list[tuple[str, str]] = []
    while reader.more:
        mapping = reader.enter(der.SEQUENCE)
        pairs.append((der.dotted(mapping.read_object_identifier()), der.dotted(mapping.read_object_identifier())))
        mapping.finish()
    return tuple(pairs)


def rfc5280_4_2_1_5_policy_mappings(copy: LintCopy) -> str | None:
    """Policy mappings are an authority's, not empty, and never map to or from anyPolicy."""
    if not copy.authority:
        return "there are policy mappings and the certificate is no authority's"
    try:
        mappings = _mappings(copy.tbs.extensions[POLICY_MAPPINGS].value)
    except der.MalformedError as error:
        return f"the policy mappings do not decode: it {error}"
    if not mappings:
        return "the policy mappings are empty"
    return "a policy is mapped to or from anyPolicy" if any(ANY_POLICY in mapping for mapping in mappings) else None


def rfc9618_2_2_policy_mappings(copy: LintCopy) -> str | None:
    """Policies are mapped one to one, or verifiers from before RFC 9618 build trees that grow exponentially."""
    try:
        mappings = _mappings(copy.tbs.extensions[POLICY_MAPPINGS].value)
    except der.MalformedError:
        return None
    for side in (0, 1):
        if max(Counter(mapping[side] for mapping in mappings).values(), default=0) > 1:
            return "a policy is mapped more than once, which makes old verifiers work exponentially"
    return None


LINTS = (
    Lint(rfc5280_4_2_1_4_certificate_policies, CERTIFICATE_POLICIES),
    Lint(rfc5280_4_2_1_4_qualifiers, CERTIFICATE_POLICIES),
    Lint(rfc6818_3_explicit_text, CERTIFICATE_POLICIES),
    Lint(rfc6818_3_explicit_text_form, CERTIFICATE_POLICIES, is_warning=True),
    Lint(rfc5280_4_2_1_4_notice_reference, CERTIFICATE_POLICIES, is_warning=True),
    Lint(rfc5280_4_2_1_5_policy_mappings, POLICY_MAPPINGS),
    Lint(rfc9618_2_2_policy_mappings, POLICY_MAPPINGS, is_warning=True),
)
