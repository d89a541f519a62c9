#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: replace_mpi_test.py TERSE HANDLE SONAME -- LAUNCHER...

`--replace-mpi` over `handle`, which loads MPI by dlopen: `terse advise` sees its calls with it and nothing without it,
`terse run` compresses them; and a launcher that would put its own MPI in front is told from others.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def terse(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, timeout=100, check=False)


def require(condition: bool, what: object) -> None:
    if not condition:
        sys.exit(f"replace_mpi_test.py: {what}")


def main() -> None:
    launcher = sys.argv[sys.argv.index("--") + 1 :]
    program = ["-n", "2", sys.argv[2], sys.argv[3], "local"]
    job = ["--", *launcher, *program]
    with tempfile.TemporaryDirectory(prefix="terse_replace_") as name:
        folder = Path(name)
        report = folder / "report.json"
        seen = terse("advise", "--replace-mpi", "--report", str(report), *job)
        require(seen.returncode == 0, seen)
        require(json.loads(report.read_text())["intercepted"]["C"] == 2 * 40, report.read_text())
        unseen = terse("advise", *job)
        require(unseen.returncode == 1 and "needs --replace-mpi" in unseen.stderr, unseen)

        report.unlink()
        run = terse("run", "--replace-mpi", "--compressor", "none", "--dense", "deterministic", "--report", str(report), *job)
        require(run.returncode == 0, run)
        (world,) = json.loads(report.read_text())["communicators"]
        require(world["compressed_calls"] == 37, world)

        # An Open MPI elsewhere, started by its path.
        if "libmpi.so" in sys.argv[3]:
            for part in ("bin", "lib"):
                (folder / part).mkdir()
            (folder / "bin" / "mpirun").symlink_to(launcher[0])
            (folder / "lib" / sys.argv[3]).touch()
            refused = terse("run", "--replace-mpi", "--", str(folder / "bin" / "mpirun"), *program)
            require(refused.returncode == 4 and "start it by name" in refused.stderr, refused)
            refused = terse("run", "--replace-mpi", "--", launcher[0], "--prefix", name, *program)
            require(refused.returncode == 4 and "start it by name" in refused.stderr, refused)


if __name__ == "__main__":
    main()
