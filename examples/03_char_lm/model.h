// SPDX-License-Identifier: Apache-2.0
//
// A character transformer: learned positions, pre-norm blocks of causal self-attention and a two-layer
// perceptron.
#ifndef TERSE_EXAMPLES_03_CHAR_LM_MODEL_H_
#define TERSE_EXAMPLES_03_CHAR_LM_MODEL_H_

#include <torch/torch.h>

#include <cstdint>
#include <vector>

namespace terse::examples {

struct ModelShape {
  int64_t symbols = 0;
  int64_t context = 64;
  int64_t width = 128;
  int64_t heads = 4;
  int64_t blocks = 2;
};

class CharModel : public torch::nn::Module {
 public:
  explicit CharModel(const ModelShape& shape);
  // [batch, time] symbols, time <= context -> [batch, time, symbols] logits of the symbol that follows.
  torch::Tensor forward(const torch::Tensor& symbols);

 private:
  class Block;

  torch::nn::Embedding symbol_{nullptr};
  torch::nn::Embedding position_{nullptr};
  std::vector<std::shared_ptr<Block>> blocks_;
  torch::nn::LayerNorm norm_{nullptr};
  torch::nn::Linear head_{nullptr};
};

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_03_CHAR_LM_MODEL_H_
