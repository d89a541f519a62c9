// SPDX-License-Identifier: Apache-2.0
//
// The cost model (cost_model.h) fitted to what a job has measured, for policies whose objective is time. The
// model says how many latencies, how many bytes and how much of the processor an exchange takes; the job says
// how long its exchanges took, by tensor, on the wire and in codecs. Least squares give the latency and the
// rate of the link, and a factor for the processor; where measurements do not tell them apart (all tensors
// alike, say), the configured latency stays and the rate alone is fitted.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_CALIBRATION_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_CALIBRATION_H_

#include <vector>

#include "absl/types/span.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/cost_model.h"
#include "runtime/controller/policy/static_policy.h"

namespace terse::policy {

// Of an exchange of one tensor by the row in force: means over exchanges and ranks. 0: not measured.
struct ExchangeTimes {
  double wire_ms = 0;   // waiting for the transport
  double codec_ms = 0;  // encoding and decoding
};

// What the model says of an exchange by this row.
Cost CostOf(const wire::PlanRow& row, const Machine& machine, int world_size, const TensorInfo& tensor);

// Rows and times by tensor.
Machine Calibrated(const wire::Config& config, int world_size, absl::Span<const TensorInfo> tensors,
                   absl::Span<const wire::PlanRow> rows, absl::Span<const ExchangeTimes> times);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_CALIBRATION_H_
