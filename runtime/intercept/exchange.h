// SPDX-License-Identifier: Apache-2.0
//
// A compressed all-reduce in place of MPI's, for the calls of one communicator that are gradients.
//
// A call has no name, and error feedback needs to know which tensor it is. So nothing is compressed before
// the communicator's calls have a period (period.h) and all ranks have found the same one. From the period's
// next begin on, a call's tensor is its signature and how many calls of that signature came before it in the
// period. A call that does not fit goes exact, and so do all until a period is learned again. What waits in
// residuals meanwhile goes along with the calls of the same signature and number, counted on from the last
// begin of the period: these are exact sums of the group then (terse_group_set_exact), to which each rank
// adds a share.
//
// A gradient that goes exact all the same is momentum in the job's buffer: under `dgc.job_momentum` the group
// is told, tensor by tensor, how many there were. Which tensor an exact call was is counted from the next
// begin of the period back, by signatures: the last of them had the last number.
//
// A call that the program has named is the tensor of that name, in a period or not.
//
// A tensor that the group has found to be faster dense goes as the program called it, but for one exchange in
// many, by which the group sees whether that still holds (`dense_when_faster`).
//
// The step ends where the next period begins, or where a tensor comes again. If a compressed result of it was
// not finite the job is taken to have skipped the step, as loss scalers do, and what was sent returns to the
// residuals.
//
// Everything is decided from the sequence of signatures, which is the same on all ranks, so ranks decide
// alike. Knows nothing of MPI. Not thread-safe: MPI asks programs to order the calls of one communicator.
#ifndef TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_
#define TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/intercept/period.h"
#include "runtime/intercept/signature.h"
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
  // Where a call stands in the learned period.
  struct Place {
    int32_t position = -1;                          // -1: outside of it
    const std::vector<uint64_t>* period = nullptr;  // looked at at position 0, and where a begin is due
  };
  // Of a call that `learner` has not yet taken.
  static Place PlaceOf(const PeriodLearner& learner, uint64_t signature) {
    const int32_t position = learner.next_position();
    const bool fits = position >= 0 && learner.period()[static_cast<size_t>(position)] == signature;
    return {fits ? position : -1, &learner.period()};
  }

  // What the ranks must have configured alike.
  struct Settings {
    uint64_t hash = 0;
    // What waits goes along with exact calls. Not under dgc, whose memory is that of one tensor: there exact
    // calls are only counted.
    bool drains = true;
  };
  // A call that is about to be made.
  struct Call {
    uint64_t signature = 0;
    bool eligible = false;  // a sum of floats that may be compressed
    bool may_wait = true;   // for the other ranks; false of the start of a call that does not block
    const char* type = "";  // the name of its elements' type
    Form form = Form::kBlocking;
    bool is_double = false;
    std::string_view name = {};  // as the program gave it; empty: the period says which tensor it is
    int64_t count = 0;
    const void* send = nullptr;  // recv for a call in place
    void* recv = nullptr;
  };
  enum class Outcome {
    kPass,    // the call is to be made as it is
    kDone,    // `recv` holds the sum
    kFailed,  // error() says why; every later call fails alike
  };

  // `api` is null, with `error`, where
  // libterse cannot be loaded or the configuration is wrong: nothing is compressed then, on any rank.
  Exchange(const TerseApi* api, std::string error, Settings settings, Ranks ranks);
  // Without closing: only close when all ranks do.
  ~Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Before each call of the communicator. One that may not wait passes: what is due then, the end of a step
  // or an agreement, is made up for by the next that may.
  Outcome Before(const Place& place, const Call& call);

  // Ends the step under way and closes the group, whose last report it gives. Collective.
  std::string Close();

  // Empty while all is well: why nothing is compressed (any more).
  const std::string& error() const { return error_; }
  int64_t compressed_calls() const { return compressed_calls_; }
  // Exact ones of the group, with what waited.
  int64_t drained_calls() const { return drained_calls_; }
  // Calls of tensors that are faster dense, made as they were called.
  int64_t rested_calls() const { return rested_calls_; }
  // Whether calls follow the period, all ranks have agreed, and so eligible calls are compressed.
  bool running() const { return running_; }
  // The group's report (docs/report.md); empty before the first exchange.
  std::string Report() const;

 private:
  bool Start(const std::vector<uint64_t>& period);
  // Once all ranks have given the same hash; false where they have not, or it cannot be opened.
  bool OpenGroup(uint64_t hash);
  // -1 when that failed.
  terse_tensor_t Register(const std::string& name, const Call& call);
  Outcome RunNamed(const Call& call);
  bool SetExact(bool exact);
  // The tensor that a call outside of the period is taken for; -1: none.
  terse_tensor_t KnownAs(uint64_t signature, int32_t number) const;
  Outcome RunTensor(terse_tensor_t tensor, const Call& call);
  Outcome Decide(const Place& place, const Call& call);
  bool EndStep();
  Outcome Run(size_t position, const Call& call);
  Outcome Fail(const std::string& doing);

  const TerseApi* api_;
  std::string error_;
  const Settings settings_;
  Ranks ranks_;
  terse_group_t* group_ = nullptr;
  struct Named {
    uint64_t signature = 0;
    terse_tensor_t tensor = -1;
  };
  std::map<std::string, Named, std::less<>> named_;
  bool off_ = false;     // for good: the ranks do not agree, or the group could not be opened
  bool broken_ = false;  // an exchange failed
  bool running_ = false;
  bool begin_due_ = false;        // a period has begun, with a call that may not wait
  bool end_due_ = false;          // a step has ended, with such a call
  std::vector<int32_t> numbers_;  // of each position: calls of the same signature before it in the period
  // Calls of each signature since the last begin of the period, and the numbers that its tensors have.
  std::map<uint64_t, int32_t> seen_;
  std::map<uint64_t, int32_t> known_;
  bool exact_ = false;  // the group's exchanges are
  bool within_step_ = false;
  std::set<terse_tensor_t> exchanged_;  // in the step under way
  bool nonfinite_ = false;
  struct Tensor {
    terse_tensor_t id = -1;
    int64_t steps_outside = 0;  // gradients that went exact since the last exchange; the group is told next
    int64_t compressed = 0;     // exchanges since it last rested
    int64_t rest = 0;           // calls that pass before the group has the next
  };
  // By signature and number within the period.
  std::map<std::pair<uint64_t, int32_t>, Tensor> tensors_;
  std::map<uint64_t, int64_t> exact_calls_;  // of signatures that have tensors, until a period has them
  int64_t compressed_calls_ = 0;
  int64_t drained_calls_ = 0;
  int64_t rested_calls_ = 0;
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_EXCHANGE_H_
