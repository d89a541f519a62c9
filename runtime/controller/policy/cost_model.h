// SPDX-License-Identifier: Apache-2.0
//
// What an exchange of one tensor costs by each schedule: the bytes that a rank sends and the time it takes,
// as pure functions. The policy chooses between schedules by it, and benchmarks/scaling carries it to worlds
// that nobody here has; the formulas are in this place alone.
//
// The time is that of the wire (latency, the processor's work on each message, bytes over rate; what a rank
// sends and what it receives pass each other) and of the kernels, in times of a memcpy of the gradient: one
// after the other, but for the rounds of scatter-reduce, which take the longer of the two, and for what
// all-gather tells early. It knows nothing of congestion and stragglers, so it is for comparing, not for
// predicting to a few percent; docs/results/scaling.md holds it against measurements.
//
// No function of libm that may differ in a last bit is used: ranks that compare costs must agree.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_COST_MODEL_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_COST_MODEL_H_

#include <cstdint>

#include "proto/wire/plan.h"

namespace terse::policy {

// A rank's link, and the processor behind it.
struct Machine {
  double bytes_per_s = 125e6;          // of the link, each way
  double latency_s = 50e-6;            // of a message
  double message_s = 5e-6;             // of the processor, for each message sent and received
  double memcpy_bytes_per_s = 13.6e9;  // bytes of gradient copied, on one core
  double entry_s = 5e-9;               // to decode or add up an entry of a sparse payload
};

// What is exchanged: n fp32 elements by N ranks.
struct Workload {
  double elements = 0;
  double ranks = 1;
};

// What a codec's kernels take, with what surrounds them in an exchange, in times of a memcpy of the gradient:
// as measured with two hosts (docs/results/scaling.md).
struct Kernels {
  double encode = 0;
  double decode = 0;
};
inline constexpr Kernels kTopKKernels{1.7, 0.6};  // entries are counted apart
inline constexpr Kernels kDgcKernels{2.1, 0.4};
inline constexpr Kernels kOneBitKernels{1.3, 0.7};
inline constexpr Kernels kQuantize4Kernels{1.7, 0.8};
inline constexpr Kernels kPowerSgdKernels{2.7, 0.7};

// Entries of a gather codec: density, and bytes of one.
struct Entries {
  double density = 0.01;
  double bytes = 8;      // of a selected entry
  double sum_bytes = 8;  // of a sum, whose value is fp32
};
Entries EntriesOf(const wire::CodecParams& params);

struct Cost {
  double bytes = 0;     // that a rank sends
  double overhead = 0;  // of these, headers and what else does not grow with the tensor
  double seconds = 0;
};

// The best dense all-reduce: 2 (N - 1) / N of the gradient, in as few messages as recursive halving needs.
Cost DenseCost(const Machine& machine, const Workload& load);
Cost AllGatherCost(const Machine& machine, const Workload& load, const Kernels& kernels,
                   const Entries& entries);
Cost SparseReduceCost(const Machine& machine, const Workload& load, const Kernels& kernels,
                      const Entries& entries);
// `bits` an element.
Cost ScatterReduceCost(const Machine& machine, const Workload& load, const Kernels& kernels, double bits);
// Factors of `rank` columns of a square matrix.
Cost LowRankCost(const Machine& machine, const Workload& load, const Kernels& kernels, double rank);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_COST_MODEL_H_
