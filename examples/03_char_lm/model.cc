// SPDX-License-Identifier: Apache-2.0
#include "examples/03_char_lm/model.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>

namespace terse::examples {

namespace nn = torch::nn;

class CharModel::Block : public nn::Module {
 public:
  explicit Block(const ModelShape& shape) : heads_(shape.heads) {
    const int64_t width = shape.width;
    norm1_ = register_module("norm1", nn::LayerNorm(nn::LayerNormOptions({width})));
    attention_ = register_module("attention", nn::Linear(width, 3 * width));
    merge_ = register_module("merge", nn::Linear(width, width));
    norm2_ = register_module("norm2", nn::LayerNorm(nn::LayerNormOptions({width})));
    up_ = register_module("up", nn::Linear(width, 4 * width));
    down_ = register_module("down", nn::Linear(4 * width, width));
  }

  torch::Tensor forward(torch::Tensor x, const torch::Tensor& future) {
    x = x + Attend(norm1_(x), future);
    return x + down_(torch::gelu(up_(norm2_(x))));
  }

 private:
  // `future` is true where a position would look ahead.
  torch::Tensor Attend(const torch::Tensor& x, const torch::Tensor& future) {
    const int64_t batch = x.size(0), time = x.size(1), width = x.size(2), depth = width / heads_;
    const auto parts = attention_(x).view({batch, time, 3, heads_, depth}).permute({2, 0, 3, 1, 4});
    const torch::Tensor scores =
        parts[0].matmul(parts[1].transpose(-2, -1)) / std::sqrt(static_cast<double>(depth));
    const torch::Tensor weights =
        scores.masked_fill(future, -std::numeric_limits<float>::infinity()).softmax(-1);
    return merge_(weights.matmul(parts[2]).transpose(1, 2).reshape({batch, time, width}));
  }

  int64_t heads_;
  nn::LayerNorm norm1_{nullptr}, norm2_{nullptr};
  nn::Linear attention_{nullptr}, merge_{nullptr}, up_{nullptr}, down_{nullptr};
};

CharModel::CharModel(const ModelShape& shape) {
  symbol_ = register_module("symbol", nn::Embedding(shape.symbols, shape.width));
  position_ = register_module("position", nn::Embedding(shape.context, shape.width));
  for (int64_t i = 0; i < shape.blocks; ++i) {
    blocks_.push_back(register_module("block" + std::to_string(i), std::make_shared<Block>(shape)));
  }
  norm_ = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({shape.width})));
  head_ = register_module("head", nn::Linear(shape.width, shape.symbols));
  // torch's default deviation of 1 would drown the blocks' contributions.
  const torch::NoGradGuard no_gradients;
  symbol_->weight.mul_(0.02);
  position_->weight.mul_(0.02);
}

torch::Tensor CharModel::forward(const torch::Tensor& symbols) {
  const int64_t time = symbols.size(1);
  const torch::Tensor future = torch::ones({time, time}, torch::kBool).triu(1);
  torch::Tensor x = symbol_(symbols) + position_(torch::arange(time));
  for (const auto& block : blocks_) x = block->forward(x, future);
  return head_(norm_(x));
}

}  // namespace terse::examples
