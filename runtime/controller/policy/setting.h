// SPDX-License-Identifier: Apache-2.0
//
// What a plan decides of one tensor, in a word: "none", "fp16", "bf16", "onebit", "quantize:4" (bits),
// "topk:0.01" (density), "powersgd:8" (rank). Everything else of a row follows from the job's configuration,
// so that this word and the configuration are a row: plans are written down, sent and asked for in it.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_SETTING_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_SETTING_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/static_policy.h"

namespace terse::policy {

// The word of a row. Numbers in as few digits as give them back exactly.
std::string SettingWord(const wire::PlanRow& row);

// The row that the word asks for. A codec without its number has the configured one. INVALID_ARGUMENT, in
// words that can be shown: no such setting, a number out of its range, or a tensor that stays dense or
// cannot have it (and why).
absl::StatusOr<wire::PlanRow> RowOf(const wire::Config& config, int world_size, const TensorInfo& tensor,
                                    std::string_view word);

// What a policy decides of a row, for people: "quantize, 3 bits", "topk, density 0.005", "powersgd, rank 4",
// "dense".
std::string SettingText(const wire::PlanRow& row);

// The configuration with another compressor; what it says of tensors stays.
wire::Config WithCompressor(const wire::Config& config, wire::Codec codec);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_SETTING_H_
