// SPDX-License-Identifier: Apache-2.0
//
// The optimizers of the six runs behind one call. Two belong to the job and work on the gradient that an
// exchange hands back; two belong to Terse and do the exchange themselves.
#ifndef TERSE_EXAMPLES_02_FASHION_MNIST_OPTIMIZER_H_
#define TERSE_EXAMPLES_02_FASHION_MNIST_OPTIMIZER_H_

#include <memory>
#include <terse/terse.hpp>
#include <vector>

#include "examples/02_fashion_mnist/runs.h"

namespace terse::examples {

class JobOptimizer {
 public:
  virtual ~JobOptimizer() = default;
  // Exchanges the gradients (which are overwritten) and updates the parameters. Collective.
  virtual void Step(const std::vector<float*>& gradients, const std::vector<float*>& parameters,
                    double learning_rate) = 0;
};

// Registers the parameters in `group`, which must outlive the optimizer.
std::unique_ptr<JobOptimizer> MakeJobOptimizer(UpdateRule rule, Group* group,
                                               const std::vector<Parameter>& parameters);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_02_FASHION_MNIST_OPTIMIZER_H_
