// SPDX-License-Identifier: Apache-2.0
//
// What an adaptive policy may choose among for each tensor: settings of one or several codecs around the
// configured one, and the bytes that a rank sends for each.
//
//   quantize   2 to 8 bits (reference: lgreco.md; 1 bit is onebit's)
//   topk       the configured density times 1/8 to 8, by factors of the square root of 2
//   powersgd   every rank from half of the configured one to twice it (L-GreCo's gamma 0.5 and beta 2),
//   thinned out
//              beyond 32 of them
//   fp16, bf16, onebit   themselves
//
// A setting that would send as much as dense is left out; dense itself is a candidate, without error.
#ifndef TERSE_RUNTIME_CONTROLLER_POLICY_CANDIDATES_H_
#define TERSE_RUNTIME_CONTROLLER_POLICY_CANDIDATES_H_

#include <cstddef>
#include <string>
#include <vector>

#include "proto/wire/config.h"
#include "proto/wire/plan.h"
#include "runtime/controller/policy/static_policy.h"

namespace terse::policy {

struct Candidate {
  wire::PlanRow row;
  double bytes = 0;  // of an exchange, sent by a rank
};

struct Candidates {
  // Dense first, then by family and growing bytes. Only dense: the tensor is not compressed, and why is in
  // its reason.
  std::vector<Candidate> all;
  size_t uniform = 0;  // the configured setting
  // Accordion's: half and twice of what the configured setting sends, or the nearest there is.
  size_t strong = 0;
  size_t mild = 0;

  bool Fixed() const { return all.size() == 1; }
};

// Of the configured compressor and config.policy.families. Method allreduce only.
Candidates CandidatesOf(const wire::Config& config, int world_size, const TensorInfo& tensor);

// Candidates that are settings of one codec, which are neighbours: one measurement has the errors of all.
struct Family {
  wire::Codec codec = wire::Codec::kNone;
  std::vector<wire::CodecParams> settings;
};
// In the order of candidates.all, every one once.
std::vector<Family> FamiliesOf(const Candidates& candidates);

// Bytes that a rank sends for one exchange by this row.
double BytesOf(const wire::PlanRow& row, int world_size, const TensorInfo& tensor);

}  // namespace terse::policy

#endif  // TERSE_RUNTIME_CONTROLLER_POLICY_CANDIDATES_H_
