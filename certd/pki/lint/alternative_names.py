"""Lints of names: alternative ones of subject and issuer, their spelling, and what else looks like a name."""

import idna
from cryptography import x509

from certd.errors import CertdError
from certd.pki import der, distinguished_name, names
from certd.pki.extensions import SUBJECT_ALTERNATIVE_NAME
from certd.pki.lint.judged import Lint, LintCopy

SMTP_UTF8_MAILBOX = "1.3.6.1.5.5.7.8.9"
ISSUER_ALTERNATIVE_NAME = "2.5.29.18"
SUBJECT_DIRECTORY_ATTRIBUTES = "2.5.29.9"
_EMAIL_ADDRESS = "1.2.840.113549.1.9.1"


def rfc5280_4_2_1_6_subject_alternative_name(copy: LintCopy) -> str | None:
    """Alternative names are there, and critical, when the subject is empty; each is in its normal form."""
    extension = copy.find(x509.SubjectAlternativeName)
    empty_subject = copy.tbs.subject == distinguished_name.EMPTY
    if extension is None:
        return "there is neither a subject nor an alternative name" if empty_subject else None
    if extension.critical is not empty_subject:
        return "alternative names are critical exactly when the subject is empty, and here they are not"
    count = len(extension.value)
    if not count:
        return "the alternative names are empty"
    if count != len(copy.names) and not all(_is_known(name) for name in extension.value):
        return "there is an alternative name of an unknown kind"
    try:
        normal = names.normalise(copy.names, field="subject_alternative_names")
    except CertdError as error:
        return error.message
    return None if normal == copy.names else "an alternative name is not in its normal form, or stands twice"


def _is_known(name: x509.GeneralName) -> bool:
    if isinstance(name, x509.OtherName):
        return name.type_id.dotted_string == SMTP_UTF8_MAILBOX
    return isinstance(name, x509.DNSName | x509.IPAddress | x509.UniformResourceIdentifier | x509.RFC822Name)


def rfc9549_2_2_a_labels(copy: LintCopy) -> str | None:
    """What begins with xn-- is an A-label of IDNA 2008: in DNS names, and in the hosts of e-mail addresses and URIs."""
    found = copy.names
    for name in (*found.dns_names, *found.email_addresses, *found.uris):
        if "xn--" not in name.lower():
            continue
        host = names.host_of_uri(name) or "" if ":" in name else name.rpartition("@")[2]
        for label in host.lower().split("."):
            if label.startswith("xn--") and not _is_a_label(label):
                return "an alternative name has a label that begins with xn-- and is no A-label of IDNA 2008"
    return None


def _is_a_label(label: str) -> bool:
    try:
        idna.ulabel(label)
    except idna.IDNAError:
        return False
    return True


def rfc9525_6_3_wildcard(copy: LintCopy) -> str | None:
    """A wildcard is the whole leftmost label of a DNS name, with two labels after it."""
    for name in copy.names.dns_names:
        if "*" in name and ("*" in name[1:] or name[1:2] != "." or name.count(".") < 2):
            return "a wildcard is not the whole leftmost label of a name with two more"
    return None


def rfc8398_3_smtp_utf8_mailbox(copy: LintCopy) -> str | None:
    """A SmtpUTF8Mailbox is a UTF8String whose local part needs it and whose domain is in A-labels (RFC 8399)."""
    extension = copy.find(x509.SubjectAlternativeName)
    if extension is None or len(extension.value) == len(copy.names):
        return None
    for name in extension.value:
        if isinstance(name, x509.OtherName) and name.type_id.dotted_string == SMTP_UTF8_MAILBOX:
            problem = _mailbox_problem(name.value)
            if problem is not None:
                return problem
    return None


def _mailbox_problem(value: bytes) -> str | None:
    try:
        reader = der.Reader(value)
        mailbox = reader.read(der.UTF8_STRING).decode()
        reader.finish()
    except ValueError:
        return "a SmtpUTF8Mailbox is no UTF8String"
    local_part, at, domain = mailbox.rpartition("@")
    if not at or not local_part or names.normalise_dns_name(domain) != domain:
        return "a SmtpUTF8Mailbox is no mailbox with a domain of A-labels in lower case"
    return "a SmtpUTF8Mailbox is in ASCII, where rfc822Name is to be used" if local_part.isascii() else None


def rfc5280_4_2_1_7_issuer_alternative_name(copy: LintCopy) -> str | None:
    """Alternative names of the issuer are not empty, nor critical."""
    extension = copy.find(x509.IssuerAlternativeName)
    if extension is None:
        return None
    if not tuple(extension.value):
        return "the alternative names of the issuer are empty"
    return "the alternative names of the issuer are critical" if extension.critical else None


def rfc5280_4_2_1_8_subject_directory_attributes(copy: LintCopy) -> str | None:
    """Directory attributes are not empty, nor critical."""
    extension = copy.tbs.extensions[SUBJECT_DIRECTORY_ATTRIBUTES]
    if extension.critical:
        return "the subject's directory attributes are critical"
    return "the subject's directory attributes are empty" if extension.value == der.sequence() else None


def rfc5280_4_1_2_6_email_address(copy: LintCopy) -> str | None:
    """An e-mail address stands among the alternative names; the subject's attribute for it is a relic."""
    found = {address.casefold() for address in copy.names.email_addresses}
    for address in copy.attribute_values(_EMAIL_ADDRESS):
        if address not in found:
            return "the subject has an emailAddress that is not among the alternative names"
    return None


LINTS = (
    Lint(rfc5280_4_2_1_6_subject_alternative_name),
    Lint(rfc9549_2_2_a_labels, SUBJECT_ALTERNATIVE_NAME),
    Lint(rfc9525_6_3_wildcard, SUBJECT_ALTERNATIVE_NAME),
    Lint(rfc8398_3_smtp_utf8_mailbox, SUBJECT_ALTERNATIVE_NAME),
    Lint(rfc5280_4_2_1_7_issuer_alternative_name, ISSUER_ALTERNATIVE_NAME),
    Lint(rfc5280_4_2_1_8_subject_directory_attributes, SUBJECT_DIRECTORY_ATTRIBUTES),
    Lint(rfc5280_4_1_2_6_email_address, is_warning=True),
)
