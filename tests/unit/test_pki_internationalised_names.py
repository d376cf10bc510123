# ruff: noqa: RUF001  # Letters that look like others are what this is about.
import unicodedata

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.errors import CertdError
from certd.pki import names
from certd.pki.internationalised_names import a_label_problem, unicode_dns_name
from certd.pki.names import SubjectAlternativeNames


def _a_label(text: str) -> str:
    return idna.alabel(text).decode()


@pytest.mark.parametrize(
    "label",
    [
        "münchen", "straße", "ελλάδα", "пример", "مثال", "דוגמה", "उदाहरण", "ตัวอย่าง", "例え", "例えテスト", "ラーメン",
        "web例え", "abc日本語テスト", "例子", "b例子", "ㄅ例", "예제", "web예제", "例예", "l·l", "가나다", "ÿ1-ÿ",
    ],
)  # fmt: skip
def test_label_of_one_script_or_of_those_written_together(label: str) -> None:
    a_label = _a_label(label)
    assert a_label_problem(a_label) is None
    assert unicode_dns_name(f"*.{a_label}.example") == f"*.{label}.example"
    assert names.normalise_dns_name(f"{a_label}.Example") == f"{a_label}.example"


@pytest.mark.parametrize(
    ("label", "scripts"),
    [
        ("pаypal", "Cyrillic, Latin"),
        ("gοοgle", "Greek, Latin"),
        ("аλ", "Cyrillic, Greek"),
        ("webпример", "Cyrillic, Latin"),
        ("ひ예", "Hangul, Hiragana"),
        ("ㄅひ", "Bopomofo, Hiragana"),
        ("բobա", "Armenian, Latin"),
        ("aⷠ", "Cyrillic, Latin"),
        ("例д", "Cjk, Cyrillic"),
    ],
)
def test_label_of_mixed_scripts(label: str, scripts: str) -> None:
    problem = a_label_problem(_a_label(label))
    assert problem is not None
    assert f"mixes scripts ({scripts})" in problem
    with pytest.raises(CertdError, match="mixes scripts"):
        names.normalise(SubjectAlternativeNames(dns_names=(f"{_a_label(label)}.example",)), field="n")
    assert unicode_dns_name(f"{_a_label(label)}.example") == f"{_a_label(label)}.example"


def test_scripts_may_differ_from_label_to_label() -> None:
    name = f"{_a_label('пример')}.{_a_label('ελλάδα')}.example"
    assert names.normalise_dns_name(name) == name
    assert unicode_dns_name(name) == "пример.ελλάδα.example"


def _raw(text: str) -> str:
    return f"xn--{text.encode('punycode').decode()}"


@pytest.mark.parametrize(
    "label",
    [
        # Nothing, nothing but ASCII, no Punycode, no letters of IDNA 2008, another spelling than the one.
        "xn--", "xn---", "xn--a", "xn--abc-", "xn--zzzzzzzzz", "xn---bbk", "xn--mnchen-3ya-", _raw("♥"),
        # Upper case, not composed, a mark first, a joiner alone, a sign of Hebrew after a letter of Latin.
        _raw("mÜnchen"), _raw("u\u0308ü"), _raw("\u0308ü"), _raw("ü\u200d"), _raw("ü׳"),
    ],
)  # fmt: skip
def test_what_is_no_a_label(label: str) -> None:
    assert a_label_problem(label) is not None
    assert names.normalise_dns_name(f"{label}.example") is None
    assert unicode_dns_name(f"{label}.example") == f"{label}.example"


@given(st.text(st.characters(categories=("Ll", "Lo", "Mn", "Nd")), min_size=1, max_size=12))
def test_what_is_accepted_comes_back_from_its_display(text: str) -> None:
    label = f"xn--{unicodedata.normalize('NFC', text).encode('punycode').decode()}".lower()
    if a_label_problem(label) is None:
        shown = unicode_dns_name(label)
        assert not shown.isascii()
        assert _a_label(shown) == label
    else:
        assert unicode_dns_name(label) == label


@given(st.text(max_size=40))
def test_display_never_fails(text: str) -> None:
    assert unicode_dns_name(f"xn--{text}").count(".") == text.count(".")
