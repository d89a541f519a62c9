# SPDX-License-Identifier: Apache-2.0
"""Holds every #include of the tree against the layer table of docs/architecture.md.

The table is the one place where the rules are written. Its columns:

  layer        a number; a unit may name only units of smaller numbers, so no cycle can arise
  unit         a folder, or one file of it; the longest row that fits a file is its row
  may include  units (or files of them) that it may include besides its own
  libraries    the foreign libraries that it may include; the standard library is free to all

"anything" in the last two columns allows everything.
"""

import re
from pathlib import Path
from typing import NamedTuple, Optional

import tree
from tree import Problem

TABLE = Path("docs/architecture.md")
ANYTHING = "anything"

# Which header belongs to which library of the table: prefixes of the name between the quotes. Only the
# standard library of C and C++ may be missing here.
LIBRARIES = {
    "Abseil": ("absl/",),
    "CLI11": ("CLI/",),
    "Gloo": ("gloo/",),
    "GoogleTest": ("gtest/", "gmock/"),
    "Highway": ("hwy/",),
    "MPI": ("mpi.h", "mpi-ext.h"),
    "POSIX": (
        "arpa/", "dirent.h", "dlfcn.h", "elf.h", "fnmatch.h", "fcntl.h", "ifaddrs.h", "link.h", "net/", "netdb.h", "netinet/", "poll.h", "pthread.h", "sched.h", "spawn.h", "strings.h",
        "sys/", "termios.h", "unistd.h",
    ),
    "libtorch": ("torch/", "ATen/", "c10/"),
    "Protobuf": ("google/protobuf/",),
    "SQLite": ("sqlite3.h",),
    "gRPC": ("grpc/", "grpcpp/"),
    "nlohmann-json": ("nlohmann/",),
    "processor": ("cpuid.h", "immintrin.h", "nmmintrin.h", "x86intrin.h", "arm_acle.h", "arm_neon.h"),
    "spdlog": ("spdlog/",),
    "yaml-cpp": ("yaml-cpp/",),
    "zlib": ("zlib.h",),
}

_C_STANDARD = {
    "assert.h", "ctype.h", "errno.h", "float.h", "inttypes.h", "limits.h", "math.h", "signal.h", "stdarg.h",
    "stdbool.h", "stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h", "time.h",
}  # fmt: skip
_CXX_STANDARD = re.compile(r"[a-z_0-9]+")
_INCLUDE = re.compile(r'\s*#\s*include\s*[<"]([^>"]+)[>"]')
# Public headers are included as their users do, <terse/...>.
_PUBLIC = "runtime/client/include/"
# A schema's code is generated beside it, as far as includes tell.
_GENERATED = re.compile(r"(\.grpc)?\.pb\.h$")


class Row(NamedTuple):
    layer: int
    unit: str
    may_include: list[str]
    libraries: list[str]
    line: int


def _inside(path: str, unit: str) -> bool:
    return path == unit or path.startswith(unit + "/")


def _row_of(table: list[Row], path: str) -> Optional[Row]:
    fitting = [row for row in table if _inside(path, row.unit)]
    return max(fitting, key=lambda row: len(row.unit), default=None)


def read_table(root: Path) -> tuple[list[Row], list[Problem]]:
    """The rows of the table and what is wrong with the table itself."""
    table: list[Row] = []
    problems: list[Problem] = []
    inside = False
    for number, line in enumerate(tree.lines(root, TABLE), start=1):
        if line.startswith("| layer |"):
            inside = True
            continue
        if not line.startswith("|"):
            inside = False
        if not inside or line.startswith("|---"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not cells[0].isdigit():
            problems.append(Problem(str(TABLE), number, "a row of the layer table needs a number and three more cells"))
            continue
        unit = cells[1].strip("`")
        lists = [[word.strip().strip("`") for word in cell.split(",") if word.strip()] for cell in cells[2:]]
        table.append(Row(int(cells[0]), unit, lists[0], lists[1], number))
    if not table:
        problems.append(Problem(str(TABLE), 1, 'found no layer table (a line that begins with "| layer |")'))
    for row in table:
        for name in row.libraries:
            if name != ANYTHING and name not in LIBRARIES:
                problems.append(Problem(str(TABLE), row.line, f"unknown library '{name}': add it to LIBRARIES of layers.py"))
        for target in row.may_include:
            if target == ANYTHING:
                continue
            other = _row_of(table, target)
            if other is None:
                problems.append(Problem(str(TABLE), row.line, f"'{target}' is inside no unit of the table"))
            elif other.layer >= row.layer:
                problems.append(
                    Problem(str(TABLE), row.line, f"'{row.unit}' may not name '{target}': layer {other.layer} is not below {row.layer}")
                )
    return table, problems


def _library_of(name: str) -> Optional[str]:
    for library, prefixes in LIBRARIES.items():
        for prefix in prefixes:
            if name == prefix or (prefix.endswith("/") and name.startswith(prefix)):
                return library
    return None


def _fault(root: Path, table: list[Row], row: Row, name: str) -> Optional[str]:
    """What is wrong with including `name` from a file of `row`; None when it is allowed."""
    library = _library_of(name)
    if library is not None:
        if ANYTHING in row.libraries or library in row.libraries:
            return None
        return f"'{row.unit}' may not use {library}"
    path = _PUBLIC + name if name.startswith("terse/") else _GENERATED.sub(".proto", name)
    if (root / path).is_file():
        target = _row_of(table, path)
        if target is None:
            return f"'{path}' is inside no unit of the table: add a row"
        if target is row or ANYTHING in row.may_include:
            return None
        for allowed in row.may_include:
            # A longer row inside an allowed folder has its own rules: naming the folder does not name it.
            if _inside(path, allowed) and len(allowed) >= len(target.unit):
                return None
        return f"'{row.unit}' may not include '{target.unit}'"
    if name in _C_STANDARD or _CXX_STANDARD.fullmatch(name):
        return None
    return "neither a file of the tree (by path from its root) nor a library of LIBRARIES in layers.py"


def check(root: Path) -> list[Problem]:
    table, problems = read_table(root)
    if problems:
        return problems
    for path in tree.files(root):
        if path.suffix not in tree.HEADERS | tree.SOURCES | tree.TABLES:
            continue
        row = _row_of(table, path.as_posix())
        if row is None:
            problems.append(Problem(str(path), 1, f"belongs to no unit of the layer table: add a row to {TABLE}"))
            continue
        for number, line in enumerate(tree.lines(root, path), start=1):
            include = _INCLUDE.match(line)
            fault = include and _fault(root, table, row, include[1])
            if fault:
                problems.append(Problem(str(path), number, f'#include "{include[1]}": {fault} ({TABLE})'))
    return problems
