// SPDX-License-Identifier: Apache-2.0
#include "examples/02_fashion_mnist/runs.h"

#include <algorithm>
#include <stdexcept>

namespace terse::examples {
namespace {

constexpr double kAdamLearningRate = 0.001;

// The ranks share a host, where dense is faster; the runs show what compression does to a training.
const std::string kCompressed = "dense_when_faster: false\n";

// What the dense run does best with in a few epochs; the compressed runs get the same.
double SgdLearningRate(const std::string& network) { return network == "lenet" ? 0.05 : 0.1; }

}  // namespace

const std::vector<std::string>& RunNames() {
  static const std::vector<std::string> names = {"sgd", "topk", "dgc", "quantize", "adam", "onebit_adam"};
  return names;
}

Run MakeRun(const std::string& name, const std::string& network, int64_t steps, int64_t steps_per_epoch) {
  const double sgd_learning_rate = SgdLearningRate(network);
  const std::string dense = "method: allreduce\ncompressor: none\n";
  // The sparse runs send all at first, and what they send for good from here on (docs/results/accuracy.md).
  const int64_t warmup = std::min(steps_per_epoch, steps / 5);
  const std::string warmup_steps = ", warmup_steps: " + std::to_string(warmup) + "}\n";
  if (name == "sgd") return {name, UpdateRule::kMomentumSgd, sgd_learning_rate, dense};
  if (name == "topk") {
    return {name, UpdateRule::kMomentumSgd, sgd_learning_rate,
            kCompressed +
                "method: allreduce\ncompressor: topk\n"
                "topk: {density: 0.01, warmup_density: [1.0, 0.25, 0.0625, 0.03]" +
                warmup_steps,
            warmup};
  }
  if (name == "quantize") {
    return {name, UpdateRule::kMomentumSgd, sgd_learning_rate,
            kCompressed + "method: allreduce\ncompressor: quantize\nquantize: {bits: 4}\n"};
  }
  if (name == "dgc") {
    // Not the published 25 and 6.25 %: factor masking takes the momentum from what is sent in every step,
    // which at such densities is much of the network.
    return {name, UpdateRule::kDgc, sgd_learning_rate,
            kCompressed +
                "method: dgc\ncompressor: topk\n"
                "dgc: {density: 0.001, momentum: 0.9, warmup_density: [1.0, 0.015625, 0.0078, 0.004]" +
                warmup_steps,
            warmup};
  }
  if (name == "adam") return {name, UpdateRule::kAdam, kAdamLearningRate, dense};
  if (name == "onebit_adam") {
    const int64_t freeze = std::max<int64_t>(1, steps / 5);
    return {name, UpdateRule::kOneBitAdam, kAdamLearningRate,
            kCompressed +
                "method: onebit_adam\ncompressor: onebit\n"
                "adam: {beta1: 0.9, beta2: 0.999, eps: 1.0e-8, freeze: " +
                std::to_string(freeze) + "}\n",
            freeze};
  }
  throw std::invalid_argument("no run is called " + name);
}

}  // namespace terse::examples
