// SPDX-License-Identifier: Apache-2.0
//
// Why a call waits, from what the other ranks answered, in one sentence for people. Pure functions.
#ifndef TERSE_RUNTIME_INTERCEPT_HANG_EXPLAIN_H_
#define TERSE_RUNTIME_INTERCEPT_HANG_EXPLAIN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/intercept/hang/channel.h"
#include "runtime/intercept/hang/whereabouts.h"
#include "runtime/intercept/signature.h"

namespace terse::intercept {

struct RankName {
  int rank = 0;
  std::string host;
  int32_t pid = 0;
};

// What another rank of the communicator said, or not.
struct Heard {
  RankName name;
  Reply reply;
};

// "MPI_Iallreduce of 1000 MPI_FLOAT (MPI_SUM)". Indices that the vocabulary lacks are said as such.
std::string Describe(const Signature& signature, const Vocabulary& vocabulary);

// "call 12 of MPI_COMM_WORLD"; "MPI_Finalize".
std::string Describe(const Place& place);

// Whether a rank waits in the same call as `place` (or a later wait for it).
bool WaitsAlike(const Place& place, const Answer& answer, double* seconds);

// `wait` is this rank's, `own` are all of its places, `heard` are all other ranks of the communicator that
// were asked, `unasked` the number of those that could not be.
std::string Explain(const RankName& self, const Place& wait, const std::vector<Place>& own,
                    const std::vector<Heard>& heard, int unasked, const Vocabulary& vocabulary);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_HANG_EXPLAIN_H_
