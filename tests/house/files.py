# SPDX-License-Identifier: Apache-2.0
"""Checks of single files: length, licence line, links of the documents."""

import re
from pathlib import Path
from typing import Iterator

import tree
from tree import Problem

HEADER_LINES = 250
SOURCE_LINES = 600
LICENCE = "SPDX-License-Identifier: Apache-2.0"

_WITH_LICENCE = tree.HEADERS | tree.SOURCES | tree.TABLES | {".py", ".sh", ".cmake", ".supp"}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FOREIGN_LINK = re.compile(r"[a-z]+:")
# A document that a comment or a message refers its reader to; "docs/decisions/0004" may leave out the rest.
_MENTION = re.compile(r"\bdocs/[\w/.-]*\w")
# In documents: `tests/methods/dgc_test.cc` `Suite.Name`, `Suite.Other`
_QUOTED = re.compile(r"`([^`]+)`")
_TEST_FILE = re.compile(r"tests/[\w/]+\.cc")
_TEST_NAME = re.compile(r"([A-Z]\w*)\.([A-Z]\w*)")


def lengths(root: Path) -> list[Problem]:
    """Headers of at most 250 lines, sources of at most 600."""
    problems = []
    for path in tree.files(root):
        if path.suffix in tree.HEADERS:
            limit = HEADER_LINES
        elif path.suffix in tree.SOURCES | {".py", ".sh"}:
            limit = SOURCE_LINES
        else:
            continue
        count = len(tree.lines(root, path))
        if count > limit:
            problems.append(Problem(str(path), count, f"{count} lines; {limit} is the limit: split it by what it does"))
    return problems


def licences(root: Path) -> list[Problem]:
    """The licence is named in the first line, or in the second when the first says who runs the script."""
    problems = []
    for path in tree.files(root):
        named = path.suffix in _WITH_LICENCE or path.name == "CMakeLists.txt"
        if not named and path.suffix:
            continue
        if not named and (root / path).read_bytes()[:2] != b"#!":
            continue
        top = tree.lines(root, path)[:2]
        first = top[1:] if top and top[0].startswith("#!") else top[:1]
        if not first or LICENCE not in first[0]:
            problems.append(Problem(str(path), 1, f'the first line must say "{LICENCE}"'))
    return problems


def links(root: Path) -> list[Problem]:
    """Every relative link of a document, every test that it names after its file, and every document that a
    source mentions, is there."""
    problems = []
    for path in tree.files(root):
        if path.suffix == ".md":
            problems += _dead_links(root, path)
            problems += _missing_tests(root, path)
        elif path.suffix in tree.HEADERS | tree.SOURCES | tree.TABLES | {".cmake", ".sh"}:
            problems += _dead_mentions(root, path)
    return problems


def _dead_links(root: Path, path: Path) -> Iterator[Problem]:
    fenced = False
    for number, line in enumerate(tree.lines(root, path), start=1):
        fenced ^= line.lstrip().startswith("```")
        if fenced:
            continue
        for target in _LINK.findall(line):
            where = target.split("#")[0]
            if where and not _FOREIGN_LINK.match(where) and not (root / path.parent / where).exists():
                yield Problem(str(path), number, f"the link to '{target}' leads nowhere")


def _missing_tests(root: Path, path: Path) -> Iterator[Problem]:
    for number, line in enumerate(tree.lines(root, path), start=1):
        source = None
        for quoted in _QUOTED.findall(line):
            if _TEST_FILE.fullmatch(quoted):
                file = root / quoted
                source = file.read_text(encoding="utf-8") if file.exists() else None
                if source is None:
                    yield Problem(str(path), number, f"'{quoted}' is not there")
            elif source is not None and (name := _TEST_NAME.fullmatch(quoted)):
                if not re.search(rf"^TEST(_F|_P)?\({name[1]}, {name[2]}\)", source, re.MULTILINE):
                    yield Problem(str(path), number, f"there is no test '{quoted}' in the file named before it")


def _dead_mentions(root: Path, path: Path) -> Iterator[Problem]:
    for number, line in enumerate(tree.lines(root, path), start=1):
        for mention in _MENTION.findall(line):
            if not (root / mention).exists() and not any(root.glob(mention + "-*")):
                yield Problem(str(path), number, f"'{mention}' is not there to be read")
