// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/recorded_gradients.h"

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "nlohmann/json.hpp"

namespace terse::benchmarks {
namespace {

constexpr uint64_t kMostHeader = uint64_t{100} << 20;

uint64_t FileSize(std::FILE* file) {
  if (fseeko(file, 0, SEEK_END) != 0) return 0;
  const off_t end = ftello(file);
  std::rewind(file);
  return end < 0 ? 0 : static_cast<uint64_t>(end);
}

}  // namespace

RecordedGradients::RecordedGradients(std::string path)
    : path_(std::move(path)), file_(std::fopen(path_.c_str(), "rb"), &std::fclose) {
  const auto fail = [this](const std::string& what) -> std::runtime_error {
    return std::runtime_error(path_ + ": " + what);
  };
  if (file_ == nullptr) throw fail(std::strerror(errno));
  const uint64_t size = FileSize(file_.get());
  uint64_t header_size = 0;
  if (std::fread(&header_size, sizeof(header_size), 1, file_.get()) != 1 || header_size > kMostHeader ||
      header_size > size - sizeof(header_size)) {
    throw fail("not a safetensors file");
  }
  std::string text(header_size, '\0');
  if (std::fread(text.data(), 1, text.size(), file_.get()) != text.size()) throw fail("cannot be read");
  const uint64_t begin = sizeof(header_size) + header_size;
  const auto header = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!header.is_object()) throw fail("its header is not JSON");

  std::string step_of_last;
  try {
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      const size_t slash = name.find('/');
      if (slash == std::string::npos) throw fail("'" + name + "' is not called STEP/NAME");
      const std::string step = name.substr(0, slash);
      if (offsets_.empty() || step != step_of_last) {
        if (!offsets_.empty() && offsets_.back().size() != tensors_.size())
          throw fail("step " + step_of_last + " is not whole");
        offsets_.emplace_back();
      }
      step_of_last = step;

      policy::TensorInfo tensor;
      tensor.id = static_cast<uint32_t>(offsets_.back().size());
      tensor.name = name.substr(slash + 1);
      tensor.shape = entry.at("shape").get<std::vector<int64_t>>();
      const auto offsets = entry.at("data_offsets").get<std::vector<uint64_t>>();
      if (entry.at("dtype") != "F32" || offsets.size() != 2 || offsets[0] > offsets[1] ||
          offsets[1] > size - begin) {
        throw fail("'" + name + "' is not fp32, or not inside the file; it may have been cut off");
      }
      tensor.elements = 1;
      for (const int64_t extent : tensor.shape) {
        if (extent < 0 || (extent > 0 && tensor.elements > size / static_cast<uint64_t>(extent)))
          throw fail("'" + name + "' has a shape that does not fit the file");
        tensor.elements *= static_cast<uint64_t>(extent);
      }
      if ((offsets[1] - offsets[0]) != tensor.elements * sizeof(float))
        throw fail("'" + name + "' has another number of bytes than its shape");
      offsets_.back().push_back(begin + offsets[0]);
      const size_t t = offsets_.back().size() - 1;
      if (offsets_.size() == 1) {
        tensors_.push_back(std::move(tensor));
      } else if (t >= tensors_.size() || tensors_[t].name != tensor.name ||
                 tensors_[t].shape != tensor.shape) {
        throw fail("step " + step + " has other tensors than the first one");
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw fail(std::string("its header is malformed: ") + error.what());
  }
  if (tensors_.empty()) throw fail("it has no tensors");
  if (offsets_.back().size() != tensors_.size()) throw fail("step " + step_of_last + " is not whole");
}

bool RecordedGradients::SameTensors(const RecordedGradients& other) const {
  if (steps() != other.steps() || tensors_.size() != other.tensors_.size()) return false;
  for (size_t t = 0; t < tensors_.size(); ++t) {
    if (tensors_[t].name != other.tensors_[t].name || tensors_[t].shape != other.tensors_[t].shape)
      return false;
  }
  return true;
}

void RecordedGradients::Read(int64_t step, size_t tensor, std::vector<float>* gradient) const {
  gradient->resize(tensors_[tensor].elements);
  const auto offset = static_cast<off_t>(offsets_[static_cast<size_t>(step)][tensor]);
  if (fseeko(file_.get(), offset, SEEK_SET) != 0 ||
      std::fread(gradient->data(), sizeof(float), gradient->size(), file_.get()) != gradient->size()) {
    throw std::runtime_error(path_ + ": cannot be read: " + std::strerror(errno));
  }
}

}  // namespace terse::benchmarks
