#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: generate.py --compiler CC [-I FOLDER]... --wrappers FILE.cc --predefined FILE.cc --map FILE.map

Writes what the preload library for one MPI exports, from that MPI's own headers: a wrapper for each function
that is intercepted, in C and under every name that its Fortran bindings have, the version script that
exports those names alone, and the table of predefined types and operations.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

# What is intercepted, and how the wrapper looks. A name that the headers lack is left out: Open MPI 4.1 has
# persistent collectives as MPIX_ only, and no large counts. Everything else follows from the prototype.
INTERCEPTED = {
    "MPI_Allreduce": "blocking",
    "MPI_Allreduce_c": "blocking",
    "MPI_Iallreduce": "nonblocking",
    "MPI_Iallreduce_c": "nonblocking",
    "MPI_Allreduce_init": "persistent",
    "MPI_Allreduce_init_c": "persistent",
    "MPIX_Allreduce_init": "persistent",
    "MPI_Start": "start",
    "MPI_Startall": "startall",
    "MPI_Request_free": "request_free",
    "MPI_Wait": "wait",
    "MPI_Waitall": "wait",
    "MPI_Waitany": "wait",
    "MPI_Waitsome": "wait",
    "MPI_Test": "test",
    "MPI_Testall": "test",
    "MPI_Testany": "test",
    "MPI_Testsome": "test",
    "MPI_Init": "init",
    "MPI_Init_thread": "init",
}
# The exceptions to the pattern:
# - No Fortran name is made of a function with large counts; mpi_f08 has them as <name>_f08ts_large_, with the
#   arguments of the ordinary one but for the width of the count.
# - The Fortran MPI_Init has no argc and argv.
# - MPICH's mpi_f08 passes descriptors of buffers, in its functions with f08ts.
# - Both ways to initialize MPI have a second call, of MPI_Init_thread with MPI_THREAD_MULTIPLE.
NO_FORTRAN_ARGUMENTS = {"argc", "argv"}
REQUIRED = {name for name in INTERCEPTED if not name.endswith(("_c", "_init"))}

# What is the library's own (terse_preload.h).
OWN = "terse_preload_name_next"

PREAMBLE = """#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif
"""


class Argument(NamedTuple):
    type: str  # "const void *"
    name: str
    array: bool

    def declaration(self) -> str:
        return f"{self.type}{'' if self.type.endswith('*') else ' '}{self.name}{'[]' if self.array else ''}"


class Prototype(NamedTuple):
    name: str
    arguments: list[Argument]

    def names(self) -> str:
        return ", ".join(argument.name for argument in self.arguments)


def preprocess(compiler: str, folders: list[str]) -> str:
    command = [compiler, "-E", "-dD", "-P", "-x", "c", *(f"-I{folder}" for folder in folders), "-"]
    return subprocess.run(command, input=PREAMBLE, check=True, capture_output=True, text=True).stdout


def prototypes(text: str) -> list[Prototype]:
    found = []
    for name in INTERCEPTED:
        match = re.search(rf"\bint\s+{name}\s*\(([^)]*)\)", text)
        if match is None:
            if name in REQUIRED:
                sys.exit(f"generate.py: mpi.h declares no {name}")
            continue
        arguments = []
        for part in match[1].split(","):
            pieces = re.fullmatch(r"\s*(.*?[\s*])(\w+)\s*(\[\])?\s*", part, re.DOTALL)
            if pieces is None:
                sys.exit(f"generate.py: cannot read the argument '{part.strip()}' of {name}")
            arguments.append(Argument(" ".join(pieces[1].split()), pieces[2], pieces[3] is not None))
        found.append(Prototype(name, arguments))
    return found


def wrapper(name: str, next_names: list[str], result: str, declarations: str, passed: str, types: str, call: str) -> str:
    """One exported function. `call` is an expression that uses `forward`."""
    fallbacks = ", ".join(f'"{next_name}"' for next_name in next_names)
    return (
        f"TERSE_EXPORT {result} {name}({declarations}) {{\n"
        f"  static constinit Next<{result}({types})> next({fallbacks});\n"
        f"  const auto forward = [&] {{ return next.get()({passed}); }};\n"
        f"  {call}\n"
        f"}}\n"
    )


def raised(next_names: list[str], declared: str, result: str, types: str, passed: str, parameters: str = "") -> str:
    """The lambda `raised` of a wrapper that initializes MPI: the call of MPI_Init_thread with the highest level."""
    fallbacks = ", ".join(f'"{name}"' for name in next_names)
    return (
        f"static constinit Next<{result}({types})> next_raised({fallbacks});\n"
        f"  const auto raised = [&]({parameters}) {{ {declared}return next_raised.get()({passed}); }};\n  "
    )


def c_raised(prototype: Prototype) -> str:
    if prototype.name == "MPI_Init_thread":
        passed, declared = "argc, argv, MPI_THREAD_MULTIPLE, provided", ""
    else:
        passed, declared = "argc, argv, MPI_THREAD_MULTIPLE, &provided", "int provided = 0; "
    return raised(["MPI_Init_thread", "PMPI_Init_thread"], declared, "int", "int*, char***, int, int*", passed)


def fortran_raised(prototype: Prototype, name: str, profiling: str) -> str:
    names = [name, profiling]
    if prototype.name == "MPI_Init":
        names = [re.sub("init", "init_thread", re.sub("INIT", "INIT_THREAD", one)) for one in names]
    declared = "MPI_Fint level = MPI_THREAD_MULTIPLE; " + ("MPI_Fint provided = 0; " if prototype.name == "MPI_Init" else "")
    passed = f"&level, {'&provided' if prototype.name == 'MPI_Init' else 'provided'}, error"
    return raised(names, declared, "void", "MPI_Fint*, MPI_Fint*, MPI_Fint*", passed, "MPI_Fint* error")


def requests(prototype: Prototype, fortran: bool) -> str:
    """How many requests a function takes, and which."""
    first = prototype.arguments[0].name
    return "1, request" if first == "request" else f"{'*' if fortran else ''}{first}, array_of_requests"


def c_wrapper(prototype: Prototype) -> str:
    kind = INTERCEPTED[prototype.name]
    calls = {
        "persistent": "return AllReduceInit({Binding::kC, Form::kPersistent, sendbuf, recvbuf, count, datatype, op, comm, request}, forward);",
        "start": "return Start(1, request, forward);",
        "startall": "return Start(count, array_of_requests, forward);",
        "request_free": "return RequestFree(request, forward);",
        "wait": f"return Complete(true, {requests(prototype, False)}, forward);",
        "test": f"return Complete(false, {requests(prototype, False)}, forward);",
        "init": f"{c_raised(prototype) if kind == 'init' else ''}return Init(forward, raised);",
        "blocking": "return AllReduce({Binding::kC, Form::kBlocking, sendbuf, recvbuf, count, datatype, op, comm}, forward);",
        "nonblocking": "return AllReduce({Binding::kC, Form::kNonblocking, sendbuf, recvbuf, count, datatype, op, comm, request}, forward);",
    }
    call = calls[kind]
    types = ", ".join(argument.type + ("*" if argument.array else "") for argument in prototype.arguments)
    declarations = ", ".join(argument.declaration() for argument in prototype.arguments)
    return wrapper(prototype.name, [prototype.name, "P" + prototype.name], "int", declarations, prototype.names(), types, call)


def fortran_names(name: str) -> list[tuple[str, str, str, bool]]:
    """(exported name, the same with its P, binding, large count) of every Fortran variant."""
    lower = name.lower()
    names = [(variant, "p" + variant, "kMpifH", False) for variant in (lower + "_", lower, lower + "__")]
    names.append((name.upper(), "P" + name.upper(), "kMpifH", False))
    for suffix in ("_f08_", "_f08ts_", "_f08ts_large_"):
        # Open MPI's profiling names are pmpi_..._f08_, MPICH's pmpir_..._f08ts_.
        profiling = ("p" + lower if suffix == "_f08_" else lower.replace("mpi", "pmpir", 1)) + suffix
        names.append((lower + suffix, profiling, "kMpiF08", suffix == "_f08ts_large_"))
    return names


def fortran_wrappers(prototype: Prototype) -> list[tuple[str, str]]:
    if prototype.name.endswith("_c"):
        return []
    kind = INTERCEPTED[prototype.name]
    arguments = [argument.name for argument in prototype.arguments if argument.name not in NO_FORTRAN_ARGUMENTS]
    wrappers = []
    for name, profiling, binding, large in fortran_names(prototype.name):
        if large and "count" not in arguments:
            continue
        types = ["MPI_Count*" if large and argument == "count" else "void*" if argument.endswith("buf") else "MPI_Fint*" for argument in arguments]
        declarations = [f"{kind_} {argument}" for kind_, argument in zip(types, arguments)]
        described = "true" if "_f08ts_" in name else "false"
        reduced = f"Binding::{binding}, {{sendbuf, {described}}}, {{recvbuf, {described}}}, *count, *datatype, *op, *comm"
        calls = {
            "persistent": f"FortranAllReduceInit({reduced}, request, ierror, forward);",
            "start": "FortranStart(1, request, ierror, forward);",
            "startall": "FortranStart(*count, array_of_requests, ierror, forward);",
            "request_free": "FortranRequestFree(request, ierror, forward);",
            "init": f"{fortran_raised(prototype, name, profiling) if kind == 'init' else ''}FortranInit(ierror, forward, raised);",
            "wait": f"FortranComplete(true, {requests(prototype, True)}, ierror, forward);",
            "test": f"FortranComplete(false, {requests(prototype, True)}, ierror, forward);",
            "blocking": f"FortranAllReduce({reduced}, nullptr, ierror, forward);",
            "nonblocking": f"FortranAllReduce({reduced}, request, ierror, forward);",
        }
        call = calls[kind]
        # `ierror` may be missing (mpi_f08): the forwarding lambda gets a place of its own for it then.
        text = wrapper(
            name,
            [name, profiling],
            "void",
            ", ".join([*declarations, "MPI_Fint* ierror"]),
            ", ".join([*arguments, "error"]),
            ", ".join([*types, "MPI_Fint*"]),
            call,
        ).replace("[&] {", "[&](MPI_Fint* error) {")
        wrappers.append((name, text))
    return wrappers


def handles(text: str, kind: str) -> list[tuple[str, str, str]]:
    """(name, symbol, constant) of the predefined handles of a C type, in the order of the header. Open MPI's
    are addresses of symbols, MPICH's are numbers."""
    found = []
    for name, value in re.findall(r"^#define (MPIX?_\w+) (.*)$", text, re.MULTILINE):
        if name.endswith(("_NULL", "_FN")):
            continue
        symbol = re.search(rf"OMPI_PREDEFINED_GLOBAL\(\s*{kind}\s*,\s*(\w+)\s*\)", value)
        number = re.search(rf"\({kind}\)\s*\(?(0x[0-9a-fA-F]+)", value)
        if symbol:
            found.append((name, symbol[1], "0"))
        elif number:
            found.append((name, "", number[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("-I", dest="folders", action="append", default=[])
    parser.add_argument("--wrappers", type=Path, required=True)
    parser.add_argument("--predefined", type=Path, required=True)
    parser.add_argument("--map", type=Path, required=True)
    arguments = parser.parse_args()
    text = preprocess(arguments.compiler, arguments.folders)

    exported = []
    source = [
        "// SPDX-License-Identifier: Apache-2.0",
        "// Generated by runtime/intercept/generate.py; not to be edited.",
        '#include "runtime/intercept/wrapper.h"',
        "",
        "using namespace terse::intercept;  // NOLINT",
        "",
    ]
    for prototype in prototypes(text):
        exported.append(prototype.name)
        source.append(c_wrapper(prototype))
        for name, code in fortran_wrappers(prototype):
            exported.append(name)
            source.append(code)
    arguments.wrappers.write_text("\n".join(source), encoding="utf-8")

    source = [
        "// SPDX-License-Identifier: Apache-2.0",
        "// Generated by runtime/intercept/generate.py; not to be edited.",
        '#include "runtime/intercept/predefined.h"',
        "namespace terse::intercept {",
    ]
    tables = {"Types": ("MPI_Datatype",), "Ops": ("MPI_Op",), "Others": ("MPI_Comm", "MPI_Errhandler")}
    for name, kinds in tables.items():
        rows = [handle for kind in kinds for handle in handles(text, kind)]
        if not rows:
            sys.exit(f"generate.py: found no predefined {kinds[0]} in mpi.h")
        source.append(f"static constexpr PredefinedHandle k{name}[] = {{")
        source += [f'  {{"{handle}", "{symbol}", {number}}},' for handle, symbol, number in rows]
        source += ["};", f"std::span<const PredefinedHandle> Predefined{name}() {{ return k{name}; }}"]
    source.append("}  // namespace terse::intercept")
    arguments.predefined.write_text("\n".join(source) + "\n", encoding="utf-8")
    exported.append(OWN)
    names = "\n".join(f"    {name};" for name in exported)
    arguments.map.write_text(f"{{\n  global:\n{names}\n  local: *;\n}};\n", encoding="utf-8")


if __name__ == "__main__":
    main()
