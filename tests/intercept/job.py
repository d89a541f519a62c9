# SPDX-License-Identifier: Apache-2.0
"""The job of a test that CTest starts as 'SCRIPT ARGUMENTS... -- LAUNCHER... PROGRAM...', under either MPI."""

import argparse


def parser(description: str) -> argparse.ArgumentParser:
    """Of what every such script is told."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--mpi", required=True, choices=("openmpi", "mpich"))
    made.add_argument("--library", help="the preload library")
    made.add_argument("--ranks", type=int, required=True)
    made.add_argument("--words", type=int, required=True, help="how many words of the command are the launcher")
    made.add_argument("command", nargs="+")
    return made


def command(arguments: argparse.Namespace, variables: dict[str, str], *options: str) -> list[str]:
    """The job's command line, with options for the launcher. The variables are for the ranks alone: the launcher itself
    needs no library of ours."""
    launcher, program = arguments.command[: arguments.words], arguments.command[arguments.words :]
    forwarded = []
    for name, value in variables.items():
        forwarded += ["-x", f"{name}={value}"] if arguments.mpi == "openmpi" else ["-genv", name, value]
    return [*launcher, *forwarded, *options, "-n", str(arguments.ranks), *program]
