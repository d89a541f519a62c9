// SPDX-License-Identifier: Apache-2.0
//
// An Exchange (exchange.h) over one MPI communicator. What it says to other ranks besides, it says over a
// communicator of its own, made of the same ranks by MPI_Comm_create inside of a call that is collective
// anyway.
#ifndef TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_
#define TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_

#include <mpi.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "runtime/intercept/exchange.h"
#include "runtime/intercept/period.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/traffic.h"

namespace terse::intercept {

// Whether calls are compressed, which a configuration asks for (settings.h). Cheap; any thread.
inline std::atomic<bool> compressing{false};

// An all-reduce as the program calls it.
struct AllReduceCall {
  Binding binding;
  Form form;
  const void* send;  // MPI_IN_PLACE, also for Fortran's
  void* recv;
  int64_t count;
  MPI_Datatype type;
  MPI_Op op;
  MPI_Comm comm;
};

// Not thread-safe.
class Compression {
 public:
  // `comm` outlives it, but for Close.
  Compression(MPI_Comm comm, const CommunicatorFacts& facts);
  Compression(const Compression&) = delete;
  Compression& operator=(const Compression&) = delete;

  // Before a call, and before `learner` takes it.
  Exchange::Outcome Before(const PeriodLearner& learner, const Signature& signature,
                           const AllReduceCall& call);
  // The same of a call that stays exact.
  Exchange::Outcome BeforeExact(const PeriodLearner& learner, const Signature& signature);

  // Collective: the communicator is being freed, or MPI finalized.
  void Close();

  // For the report.
  void Describe(CommunicatorRecord* record) const;
  const std::string& error() const { return exchange_.error(); }

 private:
  terse_group_t* Open(std::string* error) const;
  bool Same(uint64_t value);

  const MPI_Comm comm_;
  const CommunicatorFacts facts_;
  MPI_Comm private_{};
  bool has_private_ = false;
  Exchange exchange_;
  std::string last_report_;  // once closed
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_COMPRESSION_H_
