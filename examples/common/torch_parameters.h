// SPDX-License-Identifier: Apache-2.0
//
// A libtorch module seen as Terse sees it: named fp32 vectors with a gradient each.
#ifndef TERSE_EXAMPLES_COMMON_TORCH_PARAMETERS_H_
#define TERSE_EXAMPLES_COMMON_TORCH_PARAMETERS_H_

#include <torch/torch.h>

#include <cstdint>
#include <terse/terse.hpp>
#include <vector>

#include "examples/common/mpi_session.h"

namespace terse::examples {

// Refers to the module's own tensors. Pointers stay valid until the next backward pass.
class TorchParameters {
 public:
  explicit TorchParameters(const torch::nn::Module& module);

  const std::vector<Parameter>& descriptions() const { return descriptions_; }
  std::vector<torch::Tensor>& tensors() { return tensors_; }
  int64_t elements() const;

  std::vector<float*> Values();
  // Contiguous; null where a parameter has no gradient.
  std::vector<float*> Gradients();
  void ClearGradients();

  // All ranks start from rank 0's values. Collective.
  void BroadcastFromRoot(const MpiSession& session);
  uint64_t Hash() const;  // of all bytes, in order

 private:
  std::vector<Parameter> descriptions_;
  std::vector<torch::Tensor> tensors_;
};

// One rank is one thread: ranks that share cores would otherwise fight over them.
void UseOneThread();

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_TORCH_PARAMETERS_H_
