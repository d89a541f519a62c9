// SPDX-License-Identifier: Apache-2.0
#include "examples/common/torch_parameters.h"

#include <ATen/Parallel.h>

#include <stdexcept>

#include "examples/common/hash.h"

namespace terse::examples {

TorchParameters::TorchParameters(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters()) {
    if (item.value().scalar_type() != torch::kFloat32 || !item.value().is_contiguous()) {
      throw std::invalid_argument("parameter " + item.key() + " is not contiguous fp32");
    }
    descriptions_.push_back({item.key(), item.value().sizes().vec()});
    tensors_.push_back(item.value());
  }
}

int64_t TorchParameters::elements() const {
  int64_t sum = 0;
  for (const torch::Tensor& tensor : tensors_) sum += tensor.numel();
  return sum;
}

std::vector<float*> TorchParameters::Values() {
  std::vector<float*> out;
  for (const torch::Tensor& tensor : tensors_) out.push_back(tensor.data_ptr<float>());
  return out;
}

std::vector<float*> TorchParameters::Gradients() {
  std::vector<float*> out;
  for (torch::Tensor& tensor : tensors_) {
    torch::Tensor& gradient = tensor.mutable_grad();
    if (gradient.defined() && !gradient.is_contiguous()) gradient = gradient.contiguous();
    out.push_back(gradient.defined() ? gradient.data_ptr<float>() : nullptr);
  }
  return out;
}

void TorchParameters::ClearGradients() {
  // Undefined rather than zero: the next backward pass then moves its result in instead of adding to it.
  for (torch::Tensor& tensor : tensors_) tensor.mutable_grad() = torch::Tensor();
}

void TorchParameters::BroadcastFromRoot(const MpiSession& session) {
  for (torch::Tensor& tensor : tensors_) session.BroadcastFromRoot(tensor.data_ptr<float>(), tensor.nbytes());
}

uint64_t TorchParameters::Hash() const {
  uint64_t hash = kHashSeed;
  for (const torch::Tensor& tensor : tensors_) hash = Fnv1a(tensor.data_ptr<float>(), tensor.nbytes(), hash);
  return hash;
}

void UseOneThread() {
  torch::set_num_threads(1);
  at::set_num_interop_threads(1);
}

}  // namespace terse::examples
