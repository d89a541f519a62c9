// SPDX-License-Identifier: Apache-2.0
//
// The engine: everything between a job's gradients and the transport, for one group. It owns the tensor
// table, the plan, the memories and the buffers; it asks the method what to send, the compressor how, the
// transport to move it, and puts the results together in rank order, so that all ranks hold the same bits.
//
// Threads: one thread at a time. Collective calls are marked; ranks that disagree get ABORTED with the
// first difference named, on every rank, and the group stays usable. A transport failure in the middle of
// an exchange breaks the group: what had been encoded returns to the residuals, and every later call
// returns the first error.
//
// Life of an exchange: agree (agreement.h) -> per tensor: stage to fp32, method, encode -> exchange/* ->
// decode in rank order, method, stage back. What was sent is kept until Step tells what became of it.
#ifndef TERSE_RUNTIME_ENGINE_ENGINE_H_
#define TERSE_RUNTIME_ENGINE_ENGINE_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compressors/methods/variance_freeze.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "proto/wire/state.h"
#include "runtime/engine/adaptation.h"
#include "runtime/engine/agreement.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/tensor.h"
#include "runtime/engine/trace.h"
#include "runtime/workers/worker_pool.h"
#include "transport/transport.h"

namespace terse::engine {

class Inheritance;
class StateFileReader;
class StateFileWriter;
struct LoadedState;

class Engine {
 public:
  // Takes the group over and compares configurations. `time` outlives the engine. `open_link` is called on
  // rank 0 of a job whose controller is not embedded. Collective.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const wire::Config& config,
                                                      std::unique_ptr<transport::Group> group,
                                                      const TimeSource& time = TimeSource::Machine(),
                                                      const Adaptation::OpenLink& open_link = {});
  ~Engine();

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  uint64_t step() const { return step_; }

  // ALREADY_EXISTS, INVALID_ARGUMENT. Local.
  absl::StatusOr<uint32_t> Register(std::string_view name, wire::DType dtype,
                                    absl::Span<const int64_t> shape);

  // Exchanges the tensors of `calls` (any order, each tensor once). Collective. While requests are
  // outstanding it joins them, so that blocking and asynchronous calls keep one order.
  absl::Status Allreduce(absl::Span<const Call> calls);

  // Asynchronous form. A request is the tensor's id: a tensor has at most one outstanding.
  absl::Status Submit(const Call& call);
  absl::Status Wait(uint32_t tensor);          // collective
  absl::StatusOr<bool> Test(uint32_t tensor);  // does not wait for other ranks to submit

  // Ends the step. Runs what is outstanding first. Collective.
  absl::Status Step(double applied);

  // parameters[i] (fp32) -= learning_rate * (result + decay); then Step. False: skipped, because a result
  // was not finite. Collective.
  absl::StatusOr<bool> OptimizerStep(absl::Span<const Call> gradients, absl::Span<float* const> parameters,
                                     double learning_rate);

  absl::Status SetLossScale(double scale);

  // What the ranks must set alike before their next collective call, and what takes effect in it, once they
  // turn out to have (else ABORTED, and nothing has changed). Between steps; local.
  absl::Status SetGlobalBatch(int64_t samples);
  // Whether every exchange is dense, whatever the plan says, and what waits in residuals drains.
  absl::Status SetExact(bool exact);
  // flags: one byte an element, 0: left out; null: none is.
  absl::Status SetMask(uint32_t tensor, const uint8_t* flags);
  // `steps` gradients of the tensor have been reduced without the group since its last exchange.
  absl::Status SetStepsOutside(uint32_t tensor, int64_t steps);
  // Exchanges in a row that went dense because that is faster, or because the plan has never said otherwise.
  absl::StatusOr<uint64_t> DenseRun(uint32_t tensor) const;

  // Goes over to another plan, of a higher version, for the step under way: nothing of it may have been
  // exchanged. What waits in residuals goes along, or drains if the tensor goes dense; server errors move
  // into their owner's residual. A tensor that is dense because dense is faster stays so where its row is
  // what it was; `dense_when_faster` numbers its changes as plans (plan_version). Local, but to be called by
  // all ranks with the same plan at the same step: the next collective call compares. INVALID_ARGUMENT:
  // nothing has changed.
  absl::Status Adopt(const wire::Plan& plan);
  uint32_t plan_version() const { return plan_version_; }
  // The row by which a registered tensor goes.
  const wire::PlanRow& row(uint32_t tensor) const { return tensors_[tensor]->row; }

  // Saves everything that the group needs to go on, in `directory`, and loads it, as state.h says. Between
  // steps. Collective, and alike on all ranks: an error that one of them meets is returned by all, and then
  // nothing of the group has changed; what was saved before is still there to be loaded.
  //   FAILED_PRECONDITION  in the middle of a step; a file of another version; the system's refusals
  //   NOT_FOUND            nothing that could be loaded
  //   DATA_LOSS            a damaged file, or files of several saves
  //   INVALID_ARGUMENT     the state is of another configuration or other tensors
  absl::Status SaveState(const std::string& directory);
  absl::Status LoadState(const std::string& directory);

  // JSON, see docs/report.md. Local.
  std::string Report() const;

  // Tells the other ranks, so that none waits for this one. Collective unless the group is broken.
  // FAILED_PRECONDITION: requests were outstanding; they are dropped.
  absl::Status Close();

 private:
  Engine(const wire::Config& config, std::unique_ptr<transport::Group> group, const TimeSource& time);

  absl::Status CheckCall(const Call& call) const;
  // Overlapping buffers among `calls` and what is outstanding.
  absl::Status CheckBuffers(absl::Span<const Call> calls) const;
  // Whether this engine can exchange the tensor by `row`.
  absl::Status CheckRow(const Tensor& tensor, const wire::PlanRow& row) const;
  absl::Status Switch(const wire::PlanRow& row, Tensor* tensor);
  // Remembers a failure that leaves the group unusable; passes `status` on.
  absl::Status Note(absl::Status status);

  // What the configuration says of the tensor in a group of so many ranks.
  wire::PlanRow ConfiguredRow(const Tensor& tensor, int world_size) const;
  // Of one tensor, by its plan row and its elements.
  std::unique_ptr<TensorMethod> MakeMethod(const Tensor& tensor) const;
  // Puts masks, steps outside and the global batch in force that all ranks have been found to have set alike.
  void ApplySettings();
  void ApplyMask(Tensor* tensor);
  void Unfreeze();
  // Makes the residual plain; the owner's error of the second compression moves into it.
  void FoldServerError(Tensor* tensor);
  // The variance after the step that is ending, if it is applied.
  double VarianceNorm() const;

  // path_times.cc: `dense_when_faster`. What ranks do here follows from agreed batches and from times that
  // all of them have been told, so all do the same.
  void StartTiming(Tensor* tensor);                        // its planned row is new
  void CountExchanges(absl::Span<Tensor* const> tensors);  // that have just been exchanged
  // This rank's times for the round that is about to begin, and what to make of those of all ranks.
  std::vector<float> TimesToTell() const;
  absl::Status HearTimes(const Announcements& all);
  // Puts decisions into force, for tensors that are between two steps.
  absl::Status TakePaths(absl::Span<Tensor* const> tensors);

  // plan_switch.cc
  absl::Status AdoptRows(uint32_t version, absl::Span<const wire::PlanRow> rows);
  // The policy's decision at a step that is divisible by its interval.
  absl::Status Adapt();

  // save_load.cc
  absl::Status BeginState(Intent intent, std::string_view doing);
  // Texts of all ranks, or the error of the first that has one.
  absl::StatusOr<std::vector<std::string>> Share(const absl::StatusOr<std::string>& mine);
  absl::Status ShareStatus(const absl::Status& mine);
  absl::Status WriteSections(StateFileWriter* file);
  absl::StatusOr<uint64_t> ChooseSave(const std::string& directory);
  absl::StatusOr<LoadedState> ReadState(const std::string& directory, uint64_t save) const;
  absl::Status ReadGroup(StateFileReader* file, wire::StateGroup* group) const;
  absl::StatusOr<std::unique_ptr<Tensor>> ReadTensor(const Tensor& now, const Inheritance& from,
                                                     absl::Span<const std::unique_ptr<StateFileReader>> files,
                                                     wire::PlanRow* next) const;
  absl::Status AdoptState(LoadedState state);

  Announcement Announce(Intent intent, double value) const;
  // This rank's situation, one fact a line; `doing` names the public call it is in.
  std::string Describe(std::string_view doing) const;
  std::string NameOf(uint32_t tensor) const;
  std::string PlanText() const;
  uint64_t PlanHash() const;

  // One round of "exchange what all ranks have submitted". OK does not mean that anything was.
  absl::Status Settle(std::string_view doing);
  absl::Status StartSettling(bool testing);
  absl::Status FinishSettling(std::string_view doing);
  absl::Status RunSettled(absl::Span<const Call> calls);
  absl::Status SettleAll(std::string_view doing);

  const wire::Config config_;
  std::unique_ptr<transport::Group> group_;
  std::chrono::milliseconds patience_;
  // What the transport reads and writes lies in these two; see the destructor.
  std::unique_ptr<Agreement> agreement_;
  std::unique_ptr<Trace> trace_;         // null: none was asked for
  std::unique_ptr<WorkerPool> workers_;  // null: one thread
  std::unique_ptr<BatchRunner> runner_;
  std::unique_ptr<Adaptation> adaptation_;  // null: policy static
  std::vector<std::unique_ptr<Tensor>> tensors_;
  std::map<std::string, uint32_t, std::less<>> by_name_;
  uint64_t table_hash_;
  std::map<uint32_t, Call> outstanding_;
  std::map<uint32_t, absl::Status> done_;  // requests that have ended and were not collected
  absl::Status broken_;
  uint32_t plan_version_ = 0;  // 0: what StaticRow gave at registration
  uint64_t plan_hash_ = 0;     // of an adopted plan
  double loss_scale_ = 1.0;
  int64_t global_batch_ = 0;                // in force; 0: never set
  int64_t next_global_batch_ = 0;           // what the job asked for last
  bool exact_ = false;                      // in force
  bool next_exact_ = false;                 // what the job asked for last
  uint64_t masks_hash_ = 0;                 // of all next_mask
  uint64_t outside_hash_ = 0;               // of all steps_outside
  std::unique_ptr<VarianceFreeze> freeze_;  // onebit_adam only
  struct Untold {
    uint32_t tensor = 0;
    policy::PathTimes times;
  };
  std::deque<Untold> untold_;  // times that the next rounds are to tell
  struct PathEvent {
    uint64_t step = 0;
    uint64_t exchange = 0;  // of the tensor
    uint32_t tensor = 0;
    policy::PathDecision decision;
  };
  std::deque<PathEvent> path_events_;  // the last of them
  uint64_t path_decisions_ = 0;
  uint64_t step_ = 0;     // applied steps
  uint64_t skipped_ = 0;  // steps ended with applied == 0
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_ENGINE_H_
