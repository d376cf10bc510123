"""The memory of a process, as its host's administrator sees it."""

import base64
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
)

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r")
_KERNEL = ("[vvar", "[vdso", "[vsyscall")
_CHUNK = 8 << 20
_LEAST_OF_A_LINE = 32
"""Characters that are more than chance."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found in a memory, and how much of it was looked at."""

    found: frozenset[str]
    scanned_bytes: int
    unread: tuple[str, ...]
    """Mappings that could not be read."""


def scan(process_id: int, needles: Mapping[str, bytes]) -> Scan:
    """Looks for every needle, by name, in every readable mapping of a process. Needs the rights to trace it."""
    assert needles
    # A short needle is found everywhere, a needle of zeros too: neither would tell anything.
    assert all(len(needle) >= 16 and len(set(needle)) > 4 for needle in needles.values())
    longest = max(map(len, needles.values()))
    stride = (min(map(len, needles.values())) - _WORD + 1) // _WORD
    words = _words(needles, stride)
    known = frozenset(words)
    found: set[str] = set()
    unread: list[str] = []
    scanned = 0
    with Path(f"/proc/{process_id}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process_id}/maps").read_text().splitlines():
            mapping = _MAPPING.match(line)
            if mapping is None or any(name in line for name in _KERNEL):
                continue
            start, end = (int(address, 16) for address in mapping.groups())
            try:
                for chunk in _chunks(memory.fileno(), start, end, overlap=longest - 1):
                    scanned += len(chunk)
                    likely = {name for word in _words_in(chunk, known, stride) for name in words[word]}
                    found |= {name for name in likely - found if needles[name] in chunk}
            except OSError:
                unread.append(line)
    return Scan(frozenset(found), scanned, tuple(unread))


_WORD = 8


def _words(needles: Mapping[str, bytes], stride: int) -> dict[int, list[str]]:
    """Returns words of eight bytes one of which stands at a multiple of so many words wherever a needle does.

    They are from the middle of the needle, where it is least like others. With each go the names of its needles.
    """
    words: dict[int, list[str]] = {}
    for name, needle in needles.items():
        first = (len(needle) - (stride + 1) * _WORD + 1) // 2
        for start in range(first, first + stride * _WORD):
            words.setdefault(int.from_bytes(needle[start : start + _WORD], sys.byteorder), []).append(name)
    return words


def _words_in(chunk: bytes, words: frozenset[int], stride: int) -> frozenset[int]:
    """Returns which of the words stand at multiples of the stride: one pass, however many needles there are."""
    return words.intersection(memoryview(chunk)[: len(chunk) // _WORD * _WORD].cast("Q")[::stride])


def _chunks(descriptor: int, start: int, end: int, *, overlap: int) -> Iterator[bytes]:
    while start < end:
        chunk = os.pread(descriptor, min(_CHUNK, end - start), start)
        if not chunk:
            raise OSError(f"nothing to read at {start:x}")
        yield chunk
        # What lies across the border of two chunks is seen whole in the second.
        start += len(chunk) if start + len(chunk) >= end else max(1, len(chunk) - overlap)


def number_needles(name: str, number: int) -> dict[str, bytes]:
    """Returns the encodings of a secret number that libraries keep: most and least significant byte first, and text."""
    big = number.to_bytes((number.bit_length() + 7) // 8)
    return {
        f"{name} big-endian": big,
        f"{name} little-endian": big[::-1],
        f"{name} hexadecimal": big.hex().encode(),
    }


def private_key_needles(name: str, private_key_info: bytes) -> dict[str, bytes]:
    """Returns what would give a private key away, given the DER of its PKCS#8 PrivateKeyInfo."""
    key = load_der_private_key(private_key_info, None)
    needles = {f"{name} PKCS#8": private_key_info}
    needles |= line_needles(name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        needles |= number_needles(f"{name} scalar", key.private_numbers().private_value)
    elif isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        for part, number in (("p", numbers.p), ("q", numbers.q), ("d", numbers.d)):
            needles |= number_needles(f"{name} {part}", number)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        needles |= number_needles(f"{name} seed", int.from_bytes(key.private_bytes_raw()))
    return needles


def line_needles(name: str, pem: bytes) -> dict[str, bytes]:
    """Returns what lines of a private key in any PEM would give it away; none for DER.

    What is public stands in the certificate too, whose own lines may break at the same places.
    """
    if not pem.startswith(b"-----"):
        return {}
    load = load_ssh_private_key if pem.startswith(b"-----BEGIN OPENSSH") else load_pem_private_key
    public_key = load(pem, None).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    lines, needles, before = pem.split(b"\n")[1:-2], {}, 0
    for number, line in enumerate(lines):
        # Four characters are three bytes, wherever the lines break.
        part = line[-before % 4 :]
        part = part[: len(part) // 4 * 4]
        before += len(line)
        if len(part) >= _LEAST_OF_A_LINE and base64.b64decode(part) not in public_key:
            needles[f"{name} PEM line {number}"] = part
    return needles
