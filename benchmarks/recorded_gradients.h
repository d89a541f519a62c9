// SPDX-License-Identifier: Apache-2.0
//
// A rank's gradients of some steps, as the examples' --record writes them: safetensors with tensors STEP/NAME
// of fp32. Nothing in the file is trusted. Errors are std::runtime_error with the path.
#ifndef TERSE_BENCHMARKS_RECORDED_GRADIENTS_H_
#define TERSE_BENCHMARKS_RECORDED_GRADIENTS_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "runtime/controller/policy/static_policy.h"

namespace terse::benchmarks {

class RecordedGradients {
 public:
  explicit RecordedGradients(std::string path);

  const std::string& path() const { return path_; }
  // In the order of their values in the file, which is that of registration; the same in every step.
  const std::vector<policy::TensorInfo>& tensors() const { return tensors_; }
  int64_t steps() const { return static_cast<int64_t>(offsets_.size()); }
  bool SameTensors(const RecordedGradients& other) const;  // of the same steps

  // The step-th recorded gradient of a tensor.
  void Read(int64_t step, size_t tensor, std::vector<float>* gradient) const;

 private:
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::vector<policy::TensorInfo> tensors_;
  std::vector<std::string> steps_;
  std::vector<std::vector<uint64_t>> offsets_;  // in the file, by step and tensor
};

}  // namespace terse::benchmarks

#endif  // TERSE_BENCHMARKS_RECORDED_GRADIENTS_H_
