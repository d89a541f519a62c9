// SPDX-License-Identifier: Apache-2.0
#include "examples/02_fashion_mnist/optimizer.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace terse::examples {
namespace {

size_t Elements(const Parameter& parameter) {
  size_t product = 1;
  for (const int64_t size : parameter.shape) product *= static_cast<size_t>(size);
  return product;
}

// A job that keeps its own optimizer: the mean gradient comes back in place of the local one, and the step
// goes on as it would after MPI_Allreduce.
class OptimizerOnMeanGradient : public JobOptimizer {
 public:
  OptimizerOnMeanGradient(Group* group, const std::vector<Parameter>& parameters) : group_(group) {
    for (const Parameter& parameter : parameters) {
      tensors_.push_back(group->Register(parameter.name, parameter.shape));
      elements_.push_back(Elements(parameter));
    }
  }

  void Step(const std::vector<float*>& gradients, const std::vector<float*>& parameters,
            double learning_rate) override {
    group_->AllreduceMany(tensors_, {gradients.begin(), gradients.end()},
                          {gradients.begin(), gradients.end()});
    for (size_t i = 0; i < tensors_.size(); ++i) {
      Update(i, gradients[i], parameters[i], static_cast<float>(learning_rate));
    }
    group_->Step(1.0);
  }

 protected:
  size_t tensors() const { return tensors_.size(); }
  size_t elements(size_t tensor) const { return elements_[tensor]; }

 private:
  virtual void Update(size_t tensor, const float* gradient, float* parameter, float learning_rate) = 0;

  Group* group_;
  std::vector<TensorId> tensors_;
  std::vector<size_t> elements_;
};

class MomentumSgd : public OptimizerOnMeanGradient {
 public:
  MomentumSgd(Group* group, const std::vector<Parameter>& parameters)
      : OptimizerOnMeanGradient(group, parameters) {
    for (size_t i = 0; i < tensors(); ++i) momentum_.emplace_back(elements(i));
  }

 private:
  void Update(size_t tensor, const float* gradient, float* parameter, float learning_rate) override {
    constexpr float kMomentum = 0.9f;
    float* momentum = momentum_[tensor].data();
    for (size_t i = 0; i < elements(tensor); ++i) {
      momentum[i] = kMomentum * momentum[i] + gradient[i];
      parameter[i] -= learning_rate * momentum[i];
    }
  }

  std::vector<std::vector<float>> momentum_;
};

// Without bias correction, as 1-bit Adam is published, so that the two runs differ in the exchange alone. The
// learning rate's warm-up does what the correction would.
class Adam : public OptimizerOnMeanGradient {
 public:
  Adam(Group* group, const std::vector<Parameter>& parameters) : OptimizerOnMeanGradient(group, parameters) {
    for (size_t i = 0; i < tensors(); ++i) {
      mean_.emplace_back(elements(i));
      variance_.emplace_back(elements(i));
    }
  }

 private:
  void Update(size_t tensor, const float* gradient, float* parameter, float learning_rate) override {
    constexpr float kBeta1 = 0.9f;
    constexpr float kBeta2 = 0.999f;
    constexpr float kEpsilon = 1e-8f;
    float* mean = mean_[tensor].data();
    float* variance = variance_[tensor].data();
    for (size_t i = 0; i < elements(tensor); ++i) {
      mean[i] = kBeta1 * mean[i] + (1 - kBeta1) * gradient[i];
      variance[i] = kBeta2 * variance[i] + (1 - kBeta2) * gradient[i] * gradient[i];
      parameter[i] -= learning_rate * mean[i] / (std::sqrt(variance[i]) + kEpsilon);
    }
  }

  std::vector<std::vector<float>> mean_;
  std::vector<std::vector<float>> variance_;
};

template <typename TerseOptimizer>
class OptimizerOfTerse : public JobOptimizer {
 public:
  OptimizerOfTerse(Group* group, const std::vector<Parameter>& parameters) : optimizer_(group, parameters) {}

  void Step(const std::vector<float*>& gradients, const std::vector<float*>& parameters,
            double learning_rate) override {
    // A step that is skipped for a NaN leaves everything as it was; the trainer sees the NaN in the loss.
    (void)optimizer_.Step({gradients.begin(), gradients.end()}, parameters, learning_rate);
  }

 private:
  TerseOptimizer optimizer_;
};

}  // namespace

std::unique_ptr<JobOptimizer> MakeJobOptimizer(UpdateRule rule, Group* group,
                                               const std::vector<Parameter>& parameters) {
  switch (rule) {
    case UpdateRule::kMomentumSgd:
      return std::make_unique<MomentumSgd>(group, parameters);
    case UpdateRule::kAdam:
      return std::make_unique<Adam>(group, parameters);
    case UpdateRule::kDgc:
      return std::make_unique<OptimizerOfTerse<SgdDgc>>(group, parameters);
    case UpdateRule::kOneBitAdam:
      return std::make_unique<OptimizerOfTerse<OneBitAdam>>(group, parameters);
  }
  throw std::invalid_argument("unknown update rule");
}

}  // namespace terse::examples
