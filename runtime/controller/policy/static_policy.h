// SPDX-License-Identifier: Apache-2.0
//
// The policy `static`: one plan from the configuration and the tensors' facts, the same on all ranks.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_STATIC_POLICY_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_STATIC_POLICY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "proto/wire/config.h"
#include "proto/wire/plan.h"

namespace terse::policy {

// What a policy knows of a tensor before any gradient has come.
struct TensorInfo {
  uint32_t id = 0;
  std::string name;
  wire::DType dtype = wire::DType::kFloat32;
  uint64_t elements = 0;
  std::vector<int64_t> shape;
};

// The row of one tensor: dense when it is small, excluded, alone, when compression is off or when powersgd's
// factors would not be smaller, else the configured codec (dgc: topk, onebit_adam: onebit). topk goes by
// all-gather or sparse reduce, as configured or by the cost model; dense when both would send more than dense
// and take longer. `reason` says which, with the numbers.
wire::PlanRow StaticRow(const wire::Config& config, int world_size, const TensorInfo& tensor);

// The row of a tensor that goes dense.
wire::PlanRow DenseRow(const wire::Config& config, uint32_t tensor, std::string reason);

// The codec of tensors that are compressed: what the method always uses, or for allreduce the configured one.
wire::Codec CodecOf(const wire::Config& config);

// Shell pattern over the whole name: '*' any run, '?' any one character, nothing else is special.
bool GlobMatch(std::string_view pattern, std::string_view name);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_STATIC_POLICY_H_
