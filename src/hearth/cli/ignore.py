"""Which files are not part of a function: `.hearthignore`, `.gitignore`, and leftovers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ALWAYS = """\
.git
.hg
.svn
__pycache__
*.py[co]
.venv
venv
.mypy_cache
.pytest_cache
.ruff_cache
.DS_Store
/.hearthignore
/.gitignore
"""


class Rule(NamedTuple):
    """One line of an ignore file."""

    pattern: re.Pattern[str]
    folders_only: bool
    keep: bool


class Ignore:
    """Decides by the last rule that matches, as git does; a left-out folder is not looked into."""

    def __init__(self, text: str) -> None:
        """Read rules from the lines of `text`."""
        self._rules = [rule for line in text.splitlines() if (rule := _rule(line))]

    @classmethod
    def of(cls, folder: Path) -> Ignore:
        """Read the rules of `folder`: the built-in ones, `.gitignore`, then `.hearthignore`."""
        files = [folder / ".gitignore", folder / ".hearthignore"]
        return cls("\n".join([ALWAYS, *(f.read_text() for f in files if f.is_file())]))

    def leaves_out(self, path: str, *, is_folder: bool) -> bool:
        """Tell whether `path` (with `/`, relative to the folder) is left out."""
        left_out = False
        for rule in self._rules:
            if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                left_out = not rule.keep
        return left_out


def _rule(line: str) -> Rule | None:
    text = line.rstrip()
    if not text or text.startswith("#"):
        return None
    keep = text.startswith("!")
    text = text.removeprefix("!").removeprefix("\\")
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    prefix = "" if anchored else "(?:.*/)?"
    return Rule(re.compile(prefix + _regex(text.lstrip("/"))), folders_only, keep)


def _regex(glob: str) -> str:
    token = re.compile(r"/\*\*/|^\*\*/|/\*\*$|\*+|\?|\[!?[^\]]+\]|.", re.DOTALL)
    return "".join(_translate(match[0]) for match in token.finditer(glob))


def _translate(token: str) -> str:
    fixed = {"/**/": "/(?:.*/)?", "**/": "(?:.*/)?", "/**": "/.*", "?": "[^/]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("*"):
        return "[^/]*"
    if len(token) > 1:  # a class of characters
        return token.replace("[!", "[^").replace("\\", "\\\\")
    return re.escape(token)
