// SPDX-License-Identifier: Apache-2.0
#include "examples/common/gradient_recorder.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace terse::examples {
namespace {

uint64_t Elements(const Parameter& parameter) {
  return std::accumulate(
      parameter.shape.begin(), parameter.shape.end(), uint64_t{1},
      [](uint64_t product, int64_t size) { return product * static_cast<uint64_t>(size); });
}

}  // namespace

void AddRecordOptions(CLI::App* app, RecordOptions* options) {
  app->add_option("--record", options->folder, "folder to write each rank's gradients to, as safetensors");
  app->add_option("--record-from", options->from, "the first step whose gradients are recorded")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  app->add_option("--record-steps", options->steps, "steps whose gradients are recorded")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
}

GradientRecorder::GradientRecorder(const RecordOptions& options, int64_t steps, int rank,
                                   std::vector<Parameter> parameters)
    : options_(options), parameters_(std::move(parameters)), file_(nullptr, &std::fclose) {
  if (options.folder.empty()) return;
  if (options.from + options.steps > steps) {
    throw std::runtime_error("--record-from " + std::to_string(options.from) + " and --record-steps " +
                             std::to_string(options.steps) + " go beyond the training's " +
                             std::to_string(steps) + " steps");
  }
  std::error_code ignored;  // fopen says it with the path
  std::filesystem::create_directories(options.folder, ignored);
  path_ = options.folder + "/rank" + std::to_string(rank) + ".safetensors";
  file_.reset(std::fopen(path_.c_str(), "wb"));
  if (file_ == nullptr) throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
  WriteHeader();
}

void GradientRecorder::WriteHeader() {
  nlohmann::json header;  // by name: readers go by the offsets
  header["__metadata__"] = {{"from", std::to_string(options_.from)},
                            {"steps", std::to_string(options_.steps)}};
  uint64_t at = 0;
  for (int64_t step = options_.from; step < options_.from + options_.steps; ++step) {
    for (const Parameter& parameter : parameters_) {
      const uint64_t end = at + Elements(parameter) * sizeof(float);
      header[std::to_string(step) + "/" + parameter.name] = {
          {"dtype", "F32"}, {"shape", parameter.shape}, {"data_offsets", {at, end}}};
      at = end;
    }
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the values are aligned
  const uint64_t size = text.size();            // this program runs where bytes are little-endian
  Write(&size, sizeof(size));
  Write(text.data(), text.size());
}

void GradientRecorder::Add(const std::vector<float*>& gradients) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const uint64_t elements = Elements(parameters_[i]);
    const std::vector<float> zeros(gradients[i] == nullptr ? elements : 0);
    Write(gradients[i] == nullptr ? zeros.data() : gradients[i], elements * sizeof(float));
  }
  if (++added_ < options_.steps) return;
  if (std::fclose(file_.release()) != 0)
    throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
}

void GradientRecorder::Write(const void* data, size_t size) {
  if (std::fwrite(data, 1, size, file_.get()) != size)
    throw std::runtime_error("cannot write " + path_ + ": " + std::strerror(errno));
}

}  // namespace terse::examples
