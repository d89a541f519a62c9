// SPDX-License-Identifier: Apache-2.0
//
// The predefined handles that this MPI's mpi.h names, in its order: tables that generate.py writes.
#ifndef TERSE_RUNTIME_INTERCEPT_PREDEFINED_H_
#define TERSE_RUNTIME_INTERCEPT_PREDEFINED_H_

#include <cstdint>
#include <span>

namespace terse::intercept {

struct PredefinedHandle {
  const char* name;    // "MPI_FLOAT"
  const char* symbol;  // whose address the handle is (Open MPI); empty: it is `number` (MPICH)
  uintptr_t number;
};

std::span<const PredefinedHandle> PredefinedTypes();
std::span<const PredefinedHandle> PredefinedOps();
// Communicators and error handlers.
std::span<const PredefinedHandle> PredefinedOthers();

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_PREDEFINED_H_
