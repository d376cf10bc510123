"""DNS labels outside ASCII (RFC 5890 to 5893, IDNA 2008): what is an A-label, and its display.

On the wire there are A-labels alone. A label that mixes scripts is refused, for nobody can tell a name in Latin from
one whose first letter is Cyrillic: Unicode Technical Standard 39, section 5.2, restriction level *highly restrictive*.

The script of a character is the first word of its Unicode name. Over the characters that IDNA 2008 allows this agrees
with the property Script, but for the words named below; so certd carries no tables and needs no library of them.
"""

import unicodedata
from functools import lru_cache

import idna

_PREFIX = "xn--"
# Marks, digits and signs that stand in any script; joiners and the middle dot have contextual rules in IDNA itself.
_COMMON = frozenset(
    {"CARON", "COMBINING", "DIGIT", "HYPHEN-MINUS", "MASU", "MIDDLE", "MODIFIER", "VEDIC", "VERTICAL", "ZERO"}
)
_COMBINING = frozenset({"CYRILLIC", "DEVANAGARI", "GLAGOLITIC"})
"""Scripts that have combining letters."""
_SAME = {
    "ARABIC-INDIC": "ARABIC",
    "EXTENDED": "ARABIC",
    "HENTAIGANA": "HIRAGANA",
    "IDEOGRAPHIC": "CJK",
    "KATAKANA-HIRAGANA": "KATAKANA",
    "TURNED": "LATIN",
}
_WRITTEN_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
)
"""Japanese, Chinese and Korean."""


def is_a_label(label: str) -> bool:
    """Returns whether a label, in lower case, claims to be an A-label."""
    return label.startswith(_PREFIX)


def a_label_problem(label: str) -> str | None:
    """Returns why a label that begins with `xn--`, in lower case, is no A-label that certd certifies, or None."""
    try:
        text = idna.ulabel(label)
        is_the_one = idna.alabel(text) == label.encode("ascii")
    except (idna.IDNAError, UnicodeError):
        is_the_one = False
    if not is_the_one:
        return "has a label that begins with xn-- and is no A-label of IDNA 2008"
    scripts = _scripts(text)
    if len(scripts) > 1 and not any(scripts <= together for together in _WRITTEN_TOGETHER):
        mixed = ", ".join(sorted(script.capitalize() for script in scripts))
        return f"has a label that mixes scripts ({mixed}), so that it looks like another one"
    return None


def _scripts(text: str) -> frozenset[str]:
    """Returns the scripts of a U-label."""
    return frozenset(map(_script, text)) - _COMMON


def _script(character: str) -> str:
    first, _, rest = unicodedata.name(character, "UNNAMED").partition(" ")
    second = rest.partition(" ")[0]
    return second if first == "COMBINING" and second in _COMBINING else _SAME.get(first, first)


@lru_cache(maxsize=1024)
def unicode_dns_name(dns_name: str) -> str:
    """Returns a DNS name in its normal form as people read it: U-labels for A-labels. For display alone.

    A label that certd would not certify stays as it is.
    """
    return ".".join(
        idna.ulabel(label) if is_a_label(label) and a_label_problem(label) is None else label
        for label in dns_name.split(".")
    )
