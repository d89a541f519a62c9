// SPDX-License-Identifier: Apache-2.0
//
// What the console shows of jobs, tensors and plans, as lines of text. Pure functions; whatever a name holds,
// no control character gets through.
#ifndef TERSE_RUNTIME_CLI_CONSOLE_VIEWS_H_
#define TERSE_RUNTIME_CLI_CONSOLE_VIEWS_H_

#include <string>
#include <string_view>
#include <vector>

#include "proto/terse/v1/controller.pb.h"

namespace terse::cli {

using Lines = std::vector<std::string>;

// By what tensors are sorted: by name, or the largest first.
enum class TensorOrder { kName, kElements, kSent, kError, kResidual, kDense };
inline constexpr TensorOrder kTensorOrders[] = {TensorOrder::kName,     TensorOrder::kElements,
                                                TensorOrder::kSent,     TensorOrder::kError,
                                                TensorOrder::kResidual, TensorOrder::kDense};
std::string_view Name(TensorOrder order);

std::string Printable(std::string_view text);
// 1.2 kB, 34 MB.
std::string BytesText(double bytes);
std::string StateText(v1::JobState state);

// Running jobs first, each by name.
std::vector<v1::Job> Sorted(std::vector<v1::Job> jobs);
std::vector<v1::Tensor> Sorted(std::vector<v1::Tensor> tensors, TensorOrder order);

// Tables: the first line is the head, then a line for each.
Lines JobTable(const std::vector<v1::Job>& jobs);
Lines TensorTable(const std::vector<v1::Tensor>& tensors);
// The facts of one job.
Lines JobHead(const v1::Job& job);

Lines PlanText(const v1::Plan& plan);
// What is other in `after`, by tensor of `before` and then of `after`.
Lines PlanDifference(const v1::Plan& before, const v1::Plan& after);
Lines HistoryText(const std::vector<v1::Plan>& plans);
// As `policy.history` takes it (docs/policies.md), of the plans that a job has taken up.
std::string ReplayText(const std::vector<v1::Plan>& plans);
Lines AuditText(const std::vector<v1::AuditEntry>& entries);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_CONSOLE_VIEWS_H_
