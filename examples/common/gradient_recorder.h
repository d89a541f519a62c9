// SPDX-License-Identifier: Apache-2.0
//
// Writes down a rank's gradients of some steps, as they are before any exchange: what benchmarks/plan_study
// compares policies on, and what one may look at in other tools. The format is safetensors: eight bytes with
// the length of a JSON header, the header, then the values; a tensor is called STEP/NAME.
#ifndef TERSE_EXAMPLES_COMMON_GRADIENT_RECORDER_H_
#define TERSE_EXAMPLES_COMMON_GRADIENT_RECORDER_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <terse/terse.hpp>
#include <vector>

namespace terse::examples {

struct RecordOptions {
  std::string folder;  // empty: nothing is written
  int64_t from = 100;  // the first step that is, from 0
  int64_t steps = 20;  // how many
};

// --record, --record-from and --record-steps.
void AddRecordOptions(CLI::App* app, RecordOptions* options);

// One per rank; FOLDER/rankN.safetensors. Throws std::runtime_error with the path when that cannot be
// written.
class GradientRecorder {
 public:
  // A training of fewer steps than are to be recorded is an error.
  GradientRecorder(const RecordOptions& options, int64_t steps, int rank, std::vector<Parameter> parameters);

  bool Wants(int64_t step) const { return file_ != nullptr && step >= options_.from; }
  // The gradients of a step that is wanted, as TorchParameters::Gradients gives them; in order of steps.
  void Add(const std::vector<float*>& gradients);

 private:
  void WriteHeader();
  void Write(const void* data, size_t size);

  RecordOptions options_;
  std::vector<Parameter> parameters_;
  std::string path_;
  int64_t added_ = 0;  // steps
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_GRADIENT_RECORDER_H_
