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
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/engine/agreement.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/tensor.h"
#include "transport/transport.h"

namespace terse::engine {

class Engine {
 public:
  // Takes the group over and compares configurations. Collective.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const wire::Config& config,
                                                      std::unique_ptr<transport::Group> group);
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

  // Goes over to another plan, of a higher version, for the step under way: nothing of it may have been
  // exchanged. What waits in residuals goes along, or drains if the tensor goes dense; server errors move
  // into their owner's residual. Local, but to be called by all ranks with the same plan at the same step:
  // the next collective call compares. INVALID_ARGUMENT: nothing has changed.
  absl::Status Adopt(const wire::Plan& plan);
  // The plan's row of a registered tensor.
  const wire::PlanRow& row(uint32_t tensor) const { return tensors_[tensor]->row; }

  // JSON, see docs/report.md. Local.
  std::string Report() const;

  // Tells the other ranks, so that none waits for this one. Collective unless the group is broken.
  // FAILED_PRECONDITION: requests were outstanding; they are dropped.
  absl::Status Close();

 private:
  Engine(const wire::Config& config, std::unique_ptr<transport::Group> group);

  absl::Status CheckCall(const Call& call) const;
  // Overlapping buffers among `calls` and what is outstanding.
  absl::Status CheckBuffers(absl::Span<const Call> calls) const;
  // Whether this engine can exchange the tensor by `row`.
  absl::Status CheckRow(const Tensor& tensor, const wire::PlanRow& row) const;
  absl::Status Switch(const wire::PlanRow& row, Tensor* tensor);
  // Remembers a failure that leaves the group unusable; passes `status` on.
  absl::Status Note(absl::Status status);

  Announcement Announce(Intent intent, double value) const;
  // This rank's situation, one fact a line; `doing` names the public call it is in.
  std::string Describe(std::string_view doing) const;
  std::string NameOf(uint32_t tensor) const;
  std::string PlanText() const;

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
  std::unique_ptr<BatchRunner> runner_;
  std::vector<std::unique_ptr<Tensor>> tensors_;
  std::map<std::string, uint32_t, std::less<>> by_name_;
  uint64_t table_hash_;
  std::map<uint32_t, Call> outstanding_;
  std::map<uint32_t, absl::Status> done_;  // requests that have ended and were not collected
  absl::Status broken_;
  uint32_t plan_version_ = 0;  // 0: what StaticRow gave at registration
  uint64_t plan_hash_ = 0;     // of an adopted plan
  double loss_scale_ = 1.0;
  uint64_t step_ = 0;     // applied steps
  uint64_t skipped_ = 0;  // steps ended with applied == 0
};

}  // namespace terse::engine

#endif  // TERSE_RUNTIME_ENGINE_ENGINE_H_
