import pytest
from hypothesis import given
from hypothesis import strategies as st

from certd.pki import der
from certd.pki.der import MalformedError, Reader


@given(st.one_of(st.integers(-(1 << 170), 1 << 170), st.sampled_from([-129, -128, -1, 0, 127, 128])))
def test_integer_round_trips(value: int) -> None:
    reader = Reader(der.integer(value))
    assert reader.read_integer() == value
    reader.finish()


@given(st.binary(max_size=70_000))
def test_element_round_trips(content: bytes) -> None:
    encoded = der.octet_string(content)
    assert Reader(encoded).read(der.OCTET_STRING) == content
    assert Reader(encoded).read_whole(der.OCTET_STRING) == encoded
    assert Reader(encoded).read_any() == (der.OCTET_STRING, content)


@given(
    st.one_of(
        st.tuples(st.integers(0, 1), st.integers(0, 39)),
        st.tuples(st.just(2), st.integers(0, 1 << 100)),
    ),
    st.lists(st.integers(0, 1 << 100), max_size=8),
)
def test_object_identifier_round_trips(first: tuple[int, int], rest: list[int]) -> None:
    text = ".".join(map(str, (*first, *rest)))
    assert der.dotted(Reader(der.object_identifier(text)).read_object_identifier()) == text


@pytest.mark.parametrize("text", ["1", "3.1", "0.40", "1.-2", "a.b", ""])
def test_what_is_no_object_identifier(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        der.object_identifier(text)


@pytest.mark.parametrize(
    "encoded",
    [
        "", "04", "0401", "040201", "0480", "04800000", "048100", "04817f" + "00" * 127, "0482007f" + "00" * 127,
        "04850000000001ff", "0482ff", "0581",
    ],
)  # fmt: skip
def test_malformed_element(encoded: str) -> None:
    with pytest.raises(MalformedError):
        Reader(bytes.fromhex(encoded)).read(der.OCTET_STRING)


def test_unexpected_tag() -> None:
    with pytest.raises(MalformedError, match="0x04"):
        Reader(b"\x04\x00").read(der.SEQUENCE)


def test_long_tag() -> None:
    with pytest.raises(MalformedError, match="more than one octet"):
        Reader(b"\x1f\x81\x01\x00").read_any()


def test_nothing_to_read() -> None:
    with pytest.raises(MalformedError, match="too early"):
        Reader(b"").read_any()
    assert Reader(b"").peek() is None


@pytest.mark.parametrize("encoded", ["0200", "02020001", "0202ffff"])
def test_malformed_integer(encoded: str) -> None:
    with pytest.raises(MalformedError):
        Reader(bytes.fromhex(encoded)).read_integer()


@pytest.mark.parametrize("encoded", ["0600", "060180", "06028001", "060355801d", "06032a8681"])
def test_malformed_object_identifier(encoded: str) -> None:
    with pytest.raises(MalformedError):
        Reader(bytes.fromhex(encoded)).read_object_identifier()


@pytest.mark.parametrize("encoded", ["010100", "010101", "0100"])
def test_boolean_that_is_neither_true_nor_omitted(encoded: str) -> None:
    with pytest.raises(MalformedError):
        Reader(bytes.fromhex(encoded)).read_true()


def test_boolean() -> None:
    assert Reader(b"\x01\x01\xff").read_true()
    assert not Reader(b"").read_true()


def test_element_does_not_reach_past_the_one_around_it() -> None:
    inner = Reader(b"\x30\x02\x04\x01\x00").enter(der.SEQUENCE)
    with pytest.raises(MalformedError, match="too early"):
        inner.read(der.OCTET_STRING)


def test_something_left() -> None:
    with pytest.raises(MalformedError, match="after its end"):
        Reader(b"\x05\x00").finish()


def test_set_is_sorted() -> None:
    assert der.set_of([der.integer(2), der.integer(1)]) == der.encode(der.SET, der.integer(1) + der.integer(2))
