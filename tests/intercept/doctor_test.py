#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""usage: doctor_test.py TERSE openmpi|mpich LAUNCHER OTHER_LAUNCHER FOLDER

`terse doctor` over the programs of this folder (FOLDER has what was built): what it says of their MPI, bindings and
calls, and that it finds what is wrong: the other MPI's launcher and preload library, a static program, a damaged file,
a bad configuration, a replacement folder that leads nowhere. OTHER_LAUNCHER may be empty.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TERSE, MPI, LAUNCHER, OTHER, FOLDER = sys.argv[1:6]
NAME = {"openmpi": "Open MPI", "mpich": "MPICH"}[MPI]
QUIET = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def require(condition: bool, what: object) -> None:
    if not condition:
        sys.exit(f"doctor_test.py: {what}")


class Doctor:
    """One run with --json; its facts by topic and name."""

    def __init__(self, *job: str, options: tuple[str, ...] = (), **variables: str) -> None:
        command = [TERSE, "doctor", "--json", *options, *(["--", *job] if job else [])]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("TERSE_", "LD_"))} | QUIET | variables
        self.result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
        require(self.result.returncode in (0, 5), self.result)
        answer = json.loads(self.result.stdout)
        self.facts = answer["facts"]
        self.wrong = [fact for fact in self.facts if fact["verdict"] == "wrong"]
        require(answer["wrong"] == len(self.wrong), answer["wrong"])
        require(self.result.returncode == (5 if self.wrong else 0), self.result)
        require(all((fact["advice"] == "") == (fact["verdict"] == "fine") for fact in self.facts), "advice")

    def fact(self, topic: str, name: str, value: str, verdict: str = "fine") -> None:
        found = [fact for fact in self.facts if fact["topic"] == topic and fact["name"] == name]
        require(
            any(value in fact["value"] and fact["verdict"] == verdict for fact in found),
            f"no {verdict} fact {topic}, {name}: {value} among {found or self.facts}",
        )

    def well(self) -> None:
        require(not self.wrong, self.wrong)


def setup() -> None:
    doctor = Doctor()
    doctor.well()
    doctor.fact("terse", "version", ".")
    doctor.fact("terse", f"preload library, {NAME}", f"libterse_mpi_{MPI}.so")
    doctor.fact("terse", f"replacement of {NAME}", f"replace_{MPI}")
    doctor.fact("transports", f"mpi_{MPI}", f"libterse_transport_mpi_{MPI}.so, with /")
    doctor.fact("transports", "inproc", "libterse")
    doctor.fact("kernels", "instruction sets", "SCALAR")
    doctor.fact("configuration", "settings", "all are defaults")
    require([fact for fact in doctor.facts if fact["topic"] == "gpus"], "gpus")

    text = subprocess.run([TERSE, "doctor"], capture_output=True, text=True, timeout=100, check=False, env=os.environ | QUIET)
    require(text.returncode == 0 and "Nothing is wrong." in text.stdout, text)


def wrong_setups(scratch: Path) -> None:
    doctor = Doctor(TERSE_COMPRESSOR="topk", TERSE_SIMD="scalar")
    doctor.well()
    doctor.fact("configuration", "compressor", "topk (environment)")
    doctor.fact("kernels", "in use", "SCALAR (TERSE_SIMD)")

    config = scratch / "bad.yaml"
    config.write_text("topk: {density: 7}\n")
    for doctor in (Doctor(TERSE_CONFIG=str(config)), Doctor(options=("--config", str(config)))):
        doctor.fact("configuration", "settings", "density", "wrong")
        require(len(doctor.wrong) == 1, doctor.wrong)
    Doctor(TERSE_CONFIG=str(scratch / "none.yaml")).fact("configuration", "settings", "none.yaml", "wrong")
    Doctor(TERSE_SIMD="frobnicate").fact("kernels", "in use", "frobnicate", "wrong")
    Doctor(LD_PRELOAD="/nowhere/libx.so").fact("environment", "LD_PRELOAD", "/nowhere/libx.so is not there", "wrong")
    Doctor(TERSE_REPORT="/nowhere/report.json").fact("environment", "TERSE_REPORT", "/nowhere", "wrong")
    Doctor(TERSE_DISABLE="1").fact("environment", "TERSE_DISABLE", "1", "note")

    # Another Terse in front, and an MPI in front of the replacement.
    lib = Path(TERSE).parent.parent / "lib"
    (scratch / "lib").mkdir()
    shutil.copy(lib / "libterse.so.0", scratch / "lib" / "libterse.so.0")
    Doctor(LD_LIBRARY_PATH=str(scratch / "lib")).fact("terse", "libterse", str(scratch), "wrong")
    folder = lib / f"replace_{MPI}"
    before = (folder / "mpi").resolve()
    Doctor(LD_LIBRARY_PATH=f"{before}:{folder}").fact("environment", "LD_LIBRARY_PATH", f"{folder} comes behind {before}", "wrong")
    Doctor(LD_LIBRARY_PATH=str(folder)).well()

    # Plug-ins that are none, and a replacement that leads nowhere.
    (scratch / f"libterse_transport_mpi_{MPI}.so").write_text("no library")
    (scratch / f"libterse_mpi_{MPI}.so").write_text("no library")
    replacement = scratch / f"replace_{MPI}"
    shutil.copytree(folder, replacement, symlinks=True)
    (replacement / "mpi").unlink()
    (replacement / "mpi").symlink_to("/nowhere")
    doctor = Doctor(TERSE_PLUGIN_PATH=str(scratch))
    doctor.fact("transports", f"mpi_{MPI}", "cannot load plug-in", "wrong")
    doctor.fact("terse", f"preload library, {NAME}", "file too short", "wrong")
    doctor.fact("terse", f"replacement of {NAME}", str(replacement), "wrong")
    run = subprocess.run(
        [TERSE, "run", "--replace-mpi", "--mpi", MPI, "--", "true"],
        capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"TERSE_PLUGIN_PATH": str(scratch)},
    )  # fmt: skip
    require(run.returncode == 4 and "ln -sfn" in run.stderr, run)


def programs() -> None:
    job = (LAUNCHER, "-n", "2")
    doctor = Doctor(*job, f"{FOLDER}/intercept_life_{MPI}", "training")
    doctor.well()
    doctor.fact("program", "launcher", NAME)
    doctor.fact("program", "MPI", f"{NAME}, /")
    doctor.fact("program", "bindings", "C (in intercept_life")
    doctor.fact("program", "intercepted", "MPI_Allreduce, MPI_Iallreduce")
    doctor.fact("program", "not intercepted", "PMPI_Allreduce", "note")

    doctor = Doctor(*job, "env", "A=1", f"{FOLDER}/intercept_handle_{MPI}", "libmpi.so.40", "local")
    doctor.well()
    doctor.fact("program", "MPI", "opens libraries", "note")
    require("--replace-mpi" in doctor.result.stdout, doctor.result.stdout)

    for source, binding, name in (("surface77", "mpif.h", "mpi_allreduce_"), ("surface08", "mpi_f08", "mpi_allreduce_f08")):
        program = Path(FOLDER).parent / "tests" / "intercept" / f"{source}_{MPI}"
        if program.exists():
            doctor = Doctor(*job, str(program))
            doctor.well()
            doctor.fact("program", "bindings", binding)
            doctor.fact("program", "intercepted", name)

    life = f"{FOLDER}/intercept_life_{MPI}"
    if OTHER:
        Doctor(OTHER, "-n", "2", life).fact("program", "launcher", f"the program is linked to {NAME}", "wrong")
        other = next(mpi for mpi in ("openmpi", "mpich") if mpi != MPI)
        preload = str(Path(TERSE).parent.parent / "lib" / f"libterse_mpi_{other}.so")
        Doctor(*job, life, LD_PRELOAD=preload).fact("program", "LD_PRELOAD", preload, "wrong")


def odd_files(scratch: Path) -> None:
    whole = Path(f"{FOLDER}/intercept_life_{MPI}").read_bytes()
    program = scratch / "program"

    def write(content: bytes) -> str:
        program.write_bytes(content)
        program.chmod(0o755)
        return str(program)

    # tests/cli/elf_file_test.cc damages one in every way; here it is what comes of that.
    for cut in (17, 200, len(whole) // 2):
        doctor = Doctor(write(whole[:cut]))
        doctor.fact("program", "kind", "damaged: ", "wrong")
    Doctor(write(whole[:18] + b"\xf3\x00" + whole[20:])).fact("program", "kind", "another machine", "wrong")
    Doctor(write(b"")).fact("program", "kind", "neither a program", "wrong")
    Doctor(write(b"#!/bin/sh\nexec ./train\n")).fact("program", "kind", "a script, run by /bin/sh", "note")
    Doctor(write(b"#!/nowhere/python3\n")).fact("program", "kind", "Python (/nowhere/python3), without mpi4py", "note")
    Doctor(str(scratch / "none")).fact("program", "file", "is not there", "wrong")

    def build(text: str, *flags: str) -> bool:
        compiler, source = shutil.which("cc") or shutil.which("gcc"), scratch / "source.c"
        source.write_text(text)
        return compiler is not None and subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=False).returncode == 0

    nothing, own = "int main(void) { return 0; }\n", "int PMPI_Allreduce(void) { return 0; }\nint main(void) { return PMPI_Allreduce(); }\n"
    if build(nothing, "-static"):
        doctor = Doctor(str(program))
        doctor.fact("program", "kind", "a static program")
        doctor.fact("program", "MPI", "none in it", "note")
    if build(nothing, "-static", "-s"):
        Doctor(str(program)).fact("program", "MPI", "not to be seen", "wrong")
    for flags in ((), ("-static",)):
        if build(own, *flags):
            Doctor(str(program)).fact("program", "MPI", "linked in statically", "wrong")
    if build(nothing, "-Wl,--disable-new-dtags", "-Wl,-rpath,/nowhere"):
        Doctor(str(program)).fact("program", "DT_RPATH", "/nowhere", "note")
    if build(nothing):
        program.chmod(0o4755)
        Doctor(str(program)).fact("program", "privileges", "setuid", "note")
    Doctor("/bin/sh", "-c", "true").fact("program", "MPI", "linked to none", "note")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="terse_doctor_") as name:
        setup()
        programs()
        odd_files(Path(name))
        wrong_setups(Path(name))


if __name__ == "__main__":
    main()
