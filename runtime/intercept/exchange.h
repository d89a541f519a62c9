// SPDX-License-Identifier: Apache-2.0
//
// A compressed all-reduce in place of MPI's, for the calls of one communicator that are gradients.
//
// A call has no name, and error feedback needs to know which tensor it is. So nothing is compressed before
// the communicator's calls have a period (period.h) and all ranks have found the same one. From the period's
// next begin on, a call's tensor is its signature and how many calls of that signature came before it in the
// period. A call that does not fit goes exact, and so do all until a period is learned again; what waits in
// the residuals meanwhile joins the exchange of the tensor of the same signature and number, if the new
// period has one.
//
// A gradient that goes exact all the same is momentum in the job's buffer: under `dgc.job_momentum` the group
// is told, tensor by tensor, how many there were. Which tensor an exact call was is counted from the next
// begin of the period back, by signatures: the last of them had the last number.
//
// The step ends where the next period begins. If a compressed result of it was not finite the job is taken to
// have skipped the step, as loss scalers do, and what was sent returns to the residuals.
//
// Everything is decided from the sequence of signatures, which is the same on all ranks, so ranks decide
// alike. Knows nothing of MPI. Not thread-safe: MPI asks programs to order the calls of one communicator.
#ifndef TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_
#define TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/intercept/period.h"
#include "runtime/intercept/terse_api.h"

namespace terse::intercept {

class Exchange {
 public:
  struct Ranks {
    // Opens a group over the communicator; null and *error when that failed. Collective.
    std::function<terse_group_t*(std::string* error)> open;
    // Whether all ranks gave the same value. Collective.
    std::function<bool(uint64_t value)> same;
  };
  // A call that is about to be made. `type` is the name of its elements' type, in messages and tensors'
  // names.
  struct Call {
    uint64_t signature = 0;
    bool eligible = false;  // a sum of floats that may be compressed
    const char* type = "";
    int64_t count = 0;
    const void* send = nullptr;  // recv for a call in place
    void* recv = nullptr;
  };
  enum class Outcome {
    kPass,    // the call is to be made as it is
    kDone,    // `recv` holds the sum
    kFailed,  // error() says why; every later call fails alike
  };

  // `settings` is a hash of what the ranks must have configured alike. `api` is null, with `error`, where
  // libterse cannot be loaded or the configuration is wrong: nothing is compressed then, on any rank.
  Exchange(const TerseApi* api, std::string error, uint64_t settings, Ranks ranks);
  // Without closing: only close when all ranks do.
  ~Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Before each call of the communicator, and before `learner` has taken it.
  Outcome Before(const PeriodLearner& learner, const Call& call);

  // Ends the step under way and closes the group, whose last report it gives. Collective.
  std::string Close();

  // Empty while all is well: why nothing is compressed (any more).
  const std::string& error() const { return error_; }
  int64_t compressed_calls() const { return compressed_calls_; }
  // The group's report (docs/report.md); empty before the first exchange.
  std::string Report() const;

 private:
  Outcome Decide(const PeriodLearner& learner, const Call& call);
  bool Start(const PeriodLearner& learner);
  bool EndStep();
  Outcome Run(size_t position, const Call& call);
  Outcome Fail(const std::string& doing);

  const TerseApi* api_;
  std::string error_;
  const uint64_t settings_;
  Ranks ranks_;
  terse_group_t* group_ = nullptr;
  bool off_ = false;              // for good: the ranks do not agree, or the group could not be opened
  bool broken_ = false;           // an exchange failed
  bool running_ = false;          // calls follow the period, and the next has the learner's next position
  std::vector<int32_t> numbers_;  // of each position: calls of the same signature before it in the period
  bool within_step_ = false;
  bool nonfinite_ = false;
  struct Tensor {
    terse_tensor_t id = -1;
    int64_t exact_steps = 0;  // gradients that went exact since the last exchange, before the group was told
  };
  // By signature and number within the period.
  std::map<std::pair<uint64_t, int32_t>, Tensor> tensors_;
  std::map<uint64_t, int64_t> exact_calls_;  // of signatures that have tensors, until a period has them
  int64_t compressed_calls_ = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_
