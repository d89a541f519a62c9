// SPDX-License-Identifier: Apache-2.0
//
// The two networks. Input: [batch, 1, 28, 28]; output: [batch, 10] logits.
//
//   lenet   the classic LeNet-5 with ReLU and max pooling, 61,706 parameters
//   cnn     two strided convolutions and two wide layers, 670,122 parameters, 0.13 % of them in tensors of
//           fewer than 4,096 elements, which stay dense: what compression does to it is what it does to a
//           large network
#ifndef TERSE_EXAMPLES_02_FASHION_MNIST_NETWORK_H_
#define TERSE_EXAMPLES_02_FASHION_MNIST_NETWORK_H_

#include <torch/torch.h>

#include <memory>
#include <string>

namespace terse::examples {

class Network : public torch::nn::Module {
 public:
  virtual torch::Tensor forward(torch::Tensor images) = 0;
};

// The initial weights follow torch's random generator. Throws std::invalid_argument for another name.
std::shared_ptr<Network> MakeNetwork(const std::string& name);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_02_FASHION_MNIST_NETWORK_H_
