# SPDX-License-Identifier: Apache-2.0
"""What the checks of the house share: the files of the source tree and the form of a complaint."""

import os
from pathlib import Path
from typing import Iterator, NamedTuple

HEADERS = {".h", ".hpp", ".cuh"}
SOURCES = {".cc", ".c", ".cu"}
TABLES = {".def", ".inc"}

# Folders that hold what was built or downloaded, not what was written.
_NOT_OURS = {".git", ".cache", "results", "node_modules", "__pycache__"}


class Problem(NamedTuple):
    """One complaint: where, what is wrong, and what to do about it."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def files(root: Path) -> Iterator[Path]:
    """Every file of the tree, relative to its root, in a fixed order. Works without git, so that a tree
    unpacked from an archive is checked too."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name not in _NOT_OURS and name != "build" and not name.startswith("build-")
        )
        for name in sorted(names):
            yield (Path(folder) / name).relative_to(root)


def lines(root: Path, path: Path) -> list[str]:
    return (root / path).read_text(encoding="utf-8").splitlines()
