#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: check.py layers|lengths|licences|links [ROOT]

Runs one check over the source tree, prints each problem as path:line: text, and fails if there is one.
"""

import sys
from pathlib import Path

import files
import layers

CHECKS = {"layers": layers.check, "lengths": files.lengths, "licences": files.licences, "links": files.links}


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[0] not in CHECKS:
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).resolve().parents[2]
    problems = CHECKS[arguments[0]](root)
    for problem in problems:
        print(problem)
    print(f"{arguments[0]}: {len(problems)} problems" if problems else f"{arguments[0]}: nothing to complain of")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
