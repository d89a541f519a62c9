// SPDX-License-Identifier: Apache-2.0
//
// `terse doctor`, what it says without a job: of this machine and of this Terse. Libraries are loaded and
// called in children, never in this process. Call while the process has one thread.
#ifndef TERSE_RUNTIME_CLI_DOCTOR_SETUP_H_
#define TERSE_RUNTIME_CLI_DOCTOR_SETUP_H_

#include <string>

#include "runtime/cli/examination.h"

namespace terse::cli {

// Adds the facts of all topics: terse, mpi, transports, kernels, gpus, configuration, environment. `config`
// is a file, or empty for what TERSE_CONFIG names.
void ExamineSetup(const std::string& config, Examination* examination);

// "openmpi" or "mpich" of a library's symbols: of a file called libmpi... . Empty: of neither.
std::string FamilyOfLibrary(const std::string& path);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_DOCTOR_SETUP_H_
