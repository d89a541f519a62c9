// SPDX-License-Identifier: Apache-2.0
//
// The six runs of the quickstart. `topk`, `dgc` and `quantize` are to be compared with `sgd`,
// `onebit_adam` with `adam`.
#ifndef TERSE_EXAMPLES_02_FASHION_MNIST_RUNS_H_
#define TERSE_EXAMPLES_02_FASHION_MNIST_RUNS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace terse::examples {

// How a step's gradients become an update.
enum class UpdateRule {
  kMomentumSgd,  // the job's own momentum SGD on the exchanged gradient
  kAdam,         // the job's own Adam on the exchanged gradient
  kDgc,          // terse::SgdDgc
  kOneBitAdam,   // terse::OneBitAdam
};

struct Run {
  std::string name;
  UpdateRule rule = UpdateRule::kMomentumSgd;
  double learning_rate = 0;  // after its own warm-up, before the cosine
  std::string config;        // of the Terse group, YAML
  int64_t warmup_steps = 0;  // steps until the method compresses as it will for the rest of the run
};

const std::vector<std::string>& RunNames();

// The run called `name` (one of RunNames) for `steps` steps of `network`. The methods' warm-ups scale with
// them: DGC reaches its final density after one epoch or a fifth of the run, whichever is less; 1-bit Adam
// freezes its variance after a fifth of the run.
Run MakeRun(const std::string& name, const std::string& network, int64_t steps, int64_t steps_per_epoch);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_02_FASHION_MNIST_RUNS_H_
