#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: exports.py LIBRARY HEADER | exports.py LIBRARY --only NAME | exports.py LIBRARY --matching PATTERN

A shared library exports exactly the functions that a header marks TERSE_API, or one name, or some names that
all fit a pattern (without regard to case): nothing of ours or of a library inside may meet a symbol of the
job's own by accident.
"""

import re
import subprocess
import sys
from pathlib import Path

_DECLARATION = re.compile(r"^TERSE_API\s[^;(]*?(\w+)\(", re.MULTILINE)


def exported(library: str) -> set[str]:
    listing = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--format=posix", library], check=True, capture_output=True, text=True
    )
    return {line.split()[0] for line in listing.stdout.splitlines()}


def main(arguments: list[str]) -> int:
    if len(arguments) == 3 and arguments[1] == "--only":
        wanted = {arguments[2]}
    elif len(arguments) == 3 and arguments[1] == "--matching":
        wanted = {name for name in exported(arguments[0]) if re.fullmatch(arguments[2], name, re.IGNORECASE)}
        if not wanted:
            print(f"{arguments[0]} exports nothing that fits {arguments[2]}")
            return 1
    elif len(arguments) == 2:
        wanted = set(_DECLARATION.findall(Path(arguments[1]).read_text(encoding="utf-8")))
        if not wanted:
            print(f"found no TERSE_API function in {arguments[1]}")
            return 1
    else:
        print(__doc__, file=sys.stderr)
        return 2
    found = exported(arguments[0])
    for name in sorted(found - wanted):
        print(f"{arguments[0]} exports {name}, which is none of its interface")
    for name in sorted(wanted - found):
        print(f"{arguments[0]} does not export {name}")
    print(f"{len(found)} symbols exported, {len(wanted)} wanted")
    return 0 if found == wanted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
