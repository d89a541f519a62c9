// SPDX-License-Identifier: Apache-2.0
//
// A method is the rule that turns local gradients into what the optimizer gets. One TensorMethod holds
// the memory of one tensor (residual; DGC's u and v; 1-bit Adam's m, v and worker error) and applies the
// rule around one exchange. It knows nothing of ranks, payload formats or transports: the engine calls
//
//   WantsDense / Params        what kind of exchange this step needs
//   Before                     local gradient -> vector to send; the engine encodes it with residual()
//   AfterEncode                (gather codecs) which positions were sent
//   AfterExchange              mean (or sum) of what the ranks sent -> what the caller gets
//   Resolve                    was the step applied, skipped or clipped
//
// The momentum of a dense exchange, 1-bit Adam's m and v, and DGC's masks are committed by
// Resolve(applied > 0) and not before, so that a skipped step leaves them where they were.
// No compressed gradient is dropped by a skip: the engine returns the sent payload to residual() when
// ReturnFraction(applied) says so, and then calls Resolve. (A dense exchange has nothing to return: a
// skip drops its gradient, as dense training does. DGC's u is the rank's own history of gradients and
// moves in Before: a skipped step is to it a step in which nothing was selected.)
//
// Once Before has returned a vector for a compressed exchange, the engine encodes it with residual(),
// whatever comes later: the residual is where that gradient is kept if the step fails.
//
// Not thread-safe: one owner. Units: gradients unscaled, fp32.
#ifndef TERSE_COMPRESSORS_METHODS_METHOD_H_
#define TERSE_COMPRESSORS_METHODS_METHOD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/types/span.h"
#include "compressors/kernels/kernels.h"
#include "compressors/memory/large_vector.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"

namespace terse {

// What a method is told of the tensor it serves.
struct TensorFacts {
  size_t elements = 0;
  bool dense = false;  // the plan's row is dense
  bool error_feedback = true;
  bool one_rank = false;  // dense only because there is no other rank: 1-bit Adam freezes v all the same
  int world_size = 1;
};

class TensorMethod {
 public:
  virtual ~TensorMethod() = default;

  // True when this step's exchange of the tensor must be the exact mean (1-bit Adam's warm-up), whatever
  // the plan's row says. `step` counts applied steps from 0.
  virtual bool WantsDense(uint64_t step) const { return false; }

  // The codec's parameters in this step (density warm-up); `planned` are the plan's. A gather codec whose
  // density comes out as 1 has nothing to select, and the engine makes the exchange dense.
  virtual wire::CodecParams Params(uint64_t step, const wire::CodecParams& planned) const { return planned; }

  // DGC's local weight decay is added to the gradient, so Before reads the parameter that the step updates:
  // n elements, set before each Before. Only terse_optimizer_step knows it.
  virtual bool needs_parameter() const { return false; }
  virtual void SetParameter(absl::Span<const float> parameter) {}

  // Turns the local gradient into the vector to send: `gradient` itself, `scratch` (n elements) after
  // writing it, or a vector of the method's own that stays as it is until AfterExchange.
  // `dense`: this step's exchange of the tensor is exact (by plan or by WantsDense); what is not finite is
  // passed on. Otherwise a non-finite element counts as 0, is never stored, and sets *nonfinite (set only,
  // never cleared) where the method itself reads the gradient.
  virtual absl::Span<const float> Before(bool dense, absl::Span<const float> gradient,
                                         absl::Span<float> scratch, bool* nonfinite) = 0;

  // Before, for a compressed exchange by a codec that adds momentum itself (Compressor::adds_momentum). Where
  // the method leaves that to it, *momentum is the rule, good until the codec has encoded, and the input is
  // the gradient; else it is null.
  virtual absl::Span<const float> BeforeMomentum(absl::Span<const float> gradient, absl::Span<float> scratch,
                                                 bool* nonfinite, const kernels::Momentum** momentum) {
    *momentum = nullptr;
    return Before(/*dense=*/false, gradient, scratch, nonfinite);
  }

  // What error feedback reads and replaces while encoding; empty when the method has none.
  virtual absl::Span<float> residual() = 0;

  // Where a part of the result goes that the caller's type cannot hold (fp16), in units of the result; empty:
  // it cannot be kept, and the caller gets Inf.
  virtual absl::Span<float> excess() { return residual(); }

  // Gather codecs, after encoding: the positions just sent, ascending.
  virtual void AfterEncode(absl::Span<const uint32_t> sent) {}

  // `out` holds the reduced result of the exchange and is turned into what the caller gets, in place.
  // Values that are not finite are passed on, and then nothing of them is stored. Returns false when there
  // are any; of a compressed result a method may know only what it reads, the payloads' flag says the rest.
  virtual bool AfterExchange(bool dense, absl::Span<float> out) = 0;

  // AfterExchange of a compressed result that is 0 but at `support`, ascending, where it may be. Whoever has
  // up to most_support() such positions at hand calls this one; a result of more is for AfterExchange.
  virtual bool AfterSparse(absl::Span<const uint32_t> support, absl::Span<float> out) {
    return AfterExchange(/*dense=*/false, out);
  }
  virtual size_t most_support() const { return 0; }

  // How much of the payload the rank sent goes back to residual() when the step turned out `applied`
  // (0 skipped, 1 applied, between: clipped).
  virtual double ReturnFraction(double applied) const { return 1.0 - applied; }

  // The step of the last exchange has ended. Called once per exchange, after the return of payloads;
  // does nothing when there was none.
  virtual void Resolve(double applied) = 0;

  // The exchange failed half-way or was flagged non-finite: as Resolve(0) for this tensor, so first the
  // payload returns to residual() by ReturnFraction(0).
  void Skip() { Resolve(0.0); }

  // The job has had `steps` gradients of the tensor reduced without this group, exactly, and applied them;
  // for a method that follows the job's own momentum. Between Resolve and Before.
  virtual void PassExact(uint64_t steps) {}

  // The tensor's row of the plan has changed, between Resolve and Before. The memory stays: what waits in
  // residual() goes out with the new codec, or drains over the next dense steps (residual_drain.h).
  virtual void Replan(const TensorFacts& tensor) = 0;

  // Calls `visit(name, role, values)` for each vector of state, in a fixed order, for reports and saving,
  // between Resolve and Before. It has an element for each of the tensor's, or is empty: not there now. The
  // visitor may replace it by either, so that a fresh method can be filled from what another saved. Roles say
  // what becomes of a vector when the number of ranks changes.
  using Visitor = std::function<void(std::string_view name, wire::MemoryRole role, FloatVector* values)>;
  virtual void VisitState(const Visitor& visit) = 0;

  // The same for counters and flags, which are equal on all ranks: with the vectors they are all there is to
  // continue bit by bit.
  using CounterVisitor = std::function<void(std::string_view name, uint64_t* value)>;
  virtual void VisitCounters(const CounterVisitor& visit) {}

  // --- onebit_adam: the group's warm-up, which ends for all tensors at once (VarianceFreeze). Called between
  // Resolve and Before.

  // The variance is frozen, after a warm-up of `warmup_steps` applied steps.
  virtual void Freeze(uint64_t warmup_steps) {}
  // The variance is to move again. Until the errors of compression have been handed on, by the next dense
  // exchange that is applied, it does not.
  virtual void Unfreeze() {}
  // What this tensor adds to |v^|, with v as it will be when the exchange under way is applied.
  virtual double VarianceNorm() { return 0.0; }
};

// The method of `config.method` for one tensor. Never null. For `onebit_adam` the reduced result must be the
// mean; `dgc` and `allreduce` take a sum as well.
std::unique_ptr<TensorMethod> MakeTensorMethod(const wire::Config& config, const TensorFacts& tensor);

// The rest of the optimizer's step that is equal on all ranks, for terse_optimizer_step:
// w <- w - learning_rate * (out + weight decay by the method's rule), one instance per parameter.
class ParameterUpdate {
 public:
  virtual ~ParameterUpdate() = default;
  virtual void Apply(absl::Span<const float> out, double learning_rate, absl::Span<float> parameter) = 0;
  virtual void VisitState(const TensorMethod::Visitor& visit) = 0;
};
std::unique_ptr<ParameterUpdate> MakeParameterUpdate(const wire::Config& config, size_t elements);

}  // namespace terse

#endif  // TERSE_COMPRESSORS_METHODS_METHOD_H_
