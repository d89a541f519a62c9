// SPDX-License-Identifier: Apache-2.0
//
// `terse doctor`, what it says of a job: which MPI its program uses, by which bindings, and what of that can
// be intercepted. The program is read and not run; of a Python script it is Python that is asked where mpi4py
// is.
#ifndef TERSE_RUNTIME_CLI_DOCTOR_PROGRAM_H_
#define TERSE_RUNTIME_CLI_DOCTOR_PROGRAM_H_

#include "runtime/cli/examination.h"
#include "runtime/cli/process.h"

namespace terse::cli {

// Adds the facts of topic `program`. `command` has at least one word. Throws CommandError when its launcher
// is none that is known.
void ExamineProgram(const Words& command, Examination* examination);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_DOCTOR_PROGRAM_H_
