// SPDX-License-Identifier: Apache-2.0
//
// A user's program in C++17: the mean over one rank is the gradient itself, and a wrong key is an exception
// that names it.
#include <iostream>
#include <string>
#include <terse/terse.hpp>
#include <vector>

int main() {
  const std::string config = "compressor: none\ntransport: {name: inproc}\nrank: 0\nworld_size: 1\n";
  const std::vector<float> gradient = {1.0f, -2.0f, 0.5f, 0.0f};
  std::vector<float> result(gradient.size());

  terse::Group group(config);
  const terse::TensorId tensor = group.Register("weight", {2, 2});
  group.Allreduce(tensor, gradient.data(), result.data());
  group.Step();
  group.Close();
  if (result != gradient) {
    std::cerr << "the all-reduce over one rank changed the gradient\n";
    return 1;
  }

  try {
    terse::Group refused(config + "compresor: none\n");
    std::cerr << "a misspelt key was accepted\n";
    return 1;
  } catch (const terse::Error& error) {
    if (error.status() != TERSE_CONFIG_INVALID ||
        std::string(error.what()).find("compresor") == std::string::npos) {
      std::cerr << "a misspelt key gave: " << error.what() << "\n";
      return 1;
    }
  }
  std::cout << "consumer in C++: fine\n";
  return 0;
}
