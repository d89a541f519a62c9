// SPDX-License-Identifier: Apache-2.0
#include "examples/02_fashion_mnist/network.h"

#include <stdexcept>

namespace terse::examples {
namespace {

namespace nn = torch::nn;

class LeNet : public Network {
 public:
  torch::Tensor forward(torch::Tensor x) override {
    x = torch::max_pool2d(torch::relu(conv1_(x)), 2);
    x = torch::max_pool2d(torch::relu(conv2_(x)), 2);
    x = torch::relu(fc1_(x.flatten(1)));
    return fc3_(torch::relu(fc2_(x)));
  }

 private:
  nn::Conv2d conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(1, 6, 5).padding(2)));
  nn::Conv2d conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(6, 16, 5)));
  nn::Linear fc1_ = register_module("fc1", nn::Linear(16 * 5 * 5, 120));
  nn::Linear fc2_ = register_module("fc2", nn::Linear(120, 84));
  nn::Linear fc3_ = register_module("fc3", nn::Linear(84, 10));
};

class Cnn : public Network {
 public:
  torch::Tensor forward(torch::Tensor x) override {
    x = torch::relu(conv1_(x));
    x = torch::relu(conv2_(x));
    x = torch::relu(fc1_(x.flatten(1)));
    return fc2_(x);
  }

 private:
  nn::Conv2d conv1_ = register_module("conv1", nn::Conv2d(nn::Conv2dOptions(1, 16, 5).padding(2).stride(2)));
  nn::Conv2d conv2_ = register_module("conv2", nn::Conv2d(nn::Conv2dOptions(16, 32, 5).padding(2).stride(2)));
  nn::Linear fc1_ = register_module("fc1", nn::Linear(32 * 7 * 7, 416));
  nn::Linear fc2_ = register_module("fc2", nn::Linear(416, 10));
};

}  // namespace

std::shared_ptr<Network> MakeNetwork(const std::string& name) {
  if (name == "lenet") return std::make_shared<LeNet>();
  if (name == "cnn") return std::make_shared<Cnn>();
  throw std::invalid_argument("no network is called " + name + "; there are lenet and cnn");
}

}  // namespace terse::examples
