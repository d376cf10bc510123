"""The blocks of the README, which are what the tests run."""

import re
from collections.abc import Mapping
from pathlib import Path

_README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(r"```[a-z]+\n# (?P<title>[^\n]+)\n(?P<text>.*?)```\n", re.DOTALL)
AGENT = "/etc/certd-agent/agent.toml"


def block(title: str) -> str:
    """Returns the block of the section Recipes that begins with this comment."""
    section = _README.read_text().partition("\n## Recipes\n")[2].partition("\n## ")[0]
    found = [each["text"] for each in _BLOCK.finditer(section) if each["title"] == title]
    assert len(found) == 1, f"the README has {len(found)} blocks {title}"
    return found[0]


def adapted(text: str, changes: Mapping[str, str]) -> str:
    """Returns a block with other ports, folders and users, each of which it must have."""
    for old, new in changes.items():
        assert old in text, f"the README has no {old} in:\n{text}"
        text = text.replace(old, new)
    return text
