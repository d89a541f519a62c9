// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/recorded_gradients.h"

#include <algorithm>
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

// A tensor of one step, as the header has it.
struct Entry {
  uint64_t begin = 0;  // from the header's end
  uint64_t end = 0;
  std::string step;
  policy::TensorInfo tensor;
};

// Numbers of a list that are whole and not negative, as all are here.
std::vector<uint64_t> Numbers(const nlohmann::json& list) {
  std::vector<uint64_t> numbers;
  for (const nlohmann::json& number : list) {
    if (!number.is_number_unsigned()) throw std::runtime_error("has a number that is none");
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

// Throws what is wrong with it.
Entry EntryOf(const std::string& name, const nlohmann::json& json, uint64_t size) {
  Entry entry;
  const size_t slash = name.find('/');
  if (slash == std::string::npos) throw std::runtime_error("is not called STEP/NAME");
  entry.step = name.substr(0, slash);
  entry.tensor.name = name.substr(slash + 1);
  entry.tensor.elements = 1;
  const std::vector<uint64_t> offsets = Numbers(json.at("data_offsets"));
  if (json.at("dtype") != "F32" || offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > size)
    throw std::runtime_error("is not fp32, or not inside the file, which may have been cut off");
  entry.begin = offsets[0];
  entry.end = offsets[1];
  for (const uint64_t extent : Numbers(json.at("shape"))) {
    if (extent > 0 && entry.tensor.elements > size / extent)
      throw std::runtime_error("has a shape that does not fit the file");
    entry.tensor.elements *= extent;
    entry.tensor.shape.push_back(static_cast<int64_t>(extent));
  }
  if (entry.end - entry.begin != entry.tensor.elements * sizeof(float))
    throw std::runtime_error("has another number of bytes than its shape");
  return entry;
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
  const auto header = nlohmann::json::parse(text, nullptr, false);
  if (!header.is_object()) throw fail("its header is not JSON");
  std::vector<Entry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") continue;
    try {
      entries.push_back(EntryOf(name, json, size - begin));
    } catch (const nlohmann::json::exception& error) {
      throw fail("'" + name + "' is malformed: " + error.what());
    } catch (const std::runtime_error& error) {
      throw fail("'" + name + "' " + error.what());
    }
  }
  if (entries.empty()) throw fail("it has no tensors");
  // In the order of registration, as they were written.
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  for (Entry& entry : entries) {
    if (steps_.empty() || entry.step != steps_.back()) {
      if (!steps_.empty() && offsets_.back().size() != tensors_.size())
        throw fail("step " + steps_.back() + " is not whole");
      steps_.push_back(entry.step);
      offsets_.emplace_back();
    }
    const size_t t = offsets_.back().size();
    offsets_.back().push_back(begin + entry.begin);
    entry.tensor.id = static_cast<uint32_t>(t);
    if (offsets_.size() == 1) {
      tensors_.push_back(std::move(entry.tensor));
    } else if (t >= tensors_.size() || tensors_[t].name != entry.tensor.name ||
               tensors_[t].shape != entry.tensor.shape) {
      throw fail("step " + entry.step + " has other tensors than the first one");
    }
  }
  if (offsets_.back().size() != tensors_.size()) throw fail("step " + steps_.back() + " is not whole");
}

bool RecordedGradients::SameTensors(const RecordedGradients& other) const {
  if (steps_ != other.steps_ || tensors_.size() != other.tensors_.size()) return false;
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
