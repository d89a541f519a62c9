// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/state_show.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/wire/text.h"
#include "runtime/engine/state_files.h"

namespace terse::engine {
namespace {

using Json = nlohmann::ordered_json;

// Of one memory of one tensor, over the files.
struct Memory {
  std::string name;
  wire::MemoryRole role = wire::MemoryRole::kOwn;
  uint64_t elements = 0;
  double squares = 0;
};

double SumOfSquares(const wire::StateTensor::Vector& vector) {
  double sum = 0;
  for (size_t i = 0; i < vector.count(); ++i) {
    const double x = wire::Load<float>(vector.values.data() + i * sizeof(float));
    sum += x * x;
  }
  return sum;
}

void Add(const wire::StateTensor::Vector& vector, std::vector<Memory>* memories) {
  auto found = std::find_if(memories->begin(), memories->end(),
                            [&](const Memory& memory) { return memory.name == vector.name; });
  if (found == memories->end()) {
    found = memories->insert(found, {.name = vector.name, .role = vector.role, .elements = 0, .squares = 0});
  } else if (vector.role == wire::MemoryRole::kReplicated) {
    return;
  }
  found->elements += vector.count();
  found->squares += SumOfSquares(vector);
}

Json ToJson(const wire::StateTensor& tensor, const std::vector<Memory>& memories) {
  Json list = Json::array();
  for (const Memory& memory : memories) {
    list.push_back({{"name", memory.name},
                    {"role", wire::Name(memory.role)},
                    {"elements", memory.elements},
                    {"norm", std::sqrt(memory.squares)}});
  }
  return {{"name", tensor.name},
          {"dtype", wire::Name(tensor.dtype)},
          {"shape", tensor.shape},
          {"elements", tensor.elements},
          {"codec", wire::Name(tensor.row.codec)},
          {"exchange", wire::Name(tensor.row.exchange)},
          {"reason", tensor.row.reason},
          {"applied", tensor.applied},
          {"exchanges", tensor.exchanges},
          {"memories", std::move(list)}};
}

// The tensor's section of every file.
absl::StatusOr<Json> ShowTensor(absl::Span<const std::unique_ptr<StateFileReader>> files) {
  std::vector<Memory> memories;
  Json json;
  for (const std::unique_ptr<StateFileReader>& file : files) {
    const absl::StatusOr<wire::Bytes> body = file->Next(wire::StateSection::kTensor);
    if (!body.ok()) return body.status();
    const absl::StatusOr<wire::StateTensor> tensor = wire::ParseStateTensor(*body);
    if (!tensor.ok()) return file->Named(tensor.status());
    for (const wire::StateTensor::Vector& vector : tensor->vectors) Add(vector, &memories);
    json = ToJson(*tensor, memories);
  }
  return json;
}

Json ShowConfig(wire::Bytes body) {
  const absl::string_view text(reinterpret_cast<const char*>(body.data()), body.size());
  Json config = Json::object();
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(" = ", 1));
    config[parts.first] = parts.second;
  }
  return config;
}

// The newest save that is whole, else the newest with any file of one world size.
absl::StatusOr<StateSave> ChooseSave(const std::string& directory) {
  const absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  if (!saves.ok()) return saves.status();
  for (const bool whole : {true, false}) {
    for (const StateSave& save : *saves) {
      if (whole ? save.whole() : save.world_size > 0) return save;
    }
  }
  return absl::NotFoundError(absl::StrCat(directory, ": it holds no saved state"));
}

}  // namespace

absl::StatusOr<std::string> ShowState(const std::string& directory) {
  const absl::StatusOr<StateSave> save = ChooseSave(directory);
  if (!save.ok()) return save.status();
  std::vector<std::unique_ptr<StateFileReader>> files;
  Json config;
  wire::StateGroup group;
  uint64_t bytes = 0;
  for (const uint32_t rank : save->ranks) {
    auto file = StateFileReader::Open(directory, save->number, rank, save->world_size);
    if (!file.ok()) return file.status();
    absl::StatusOr<wire::Bytes> body = (*file)->Next(wire::StateSection::kConfig);
    if (!body.ok()) return body.status();
    config = ShowConfig(*body);
    body = (*file)->Next(wire::StateSection::kGroup);
    if (!body.ok()) return body.status();
    absl::StatusOr<wire::StateGroup> parsed = wire::ParseStateGroup(*body);
    if (!parsed.ok()) return (*file)->Named(parsed.status());
    const uint64_t id = (*file)->header().save_id;
    if (!files.empty() && (id != files.front()->header().save_id || *parsed != group)) {
      return (*file)->Named(absl::DataLossError(
          absl::StrCat("it is of save ", absl::Hex(id), ", and ", files.front()->path(), " of save ",
                       absl::Hex(files.front()->header().save_id), "; take all files from one")));
    }
    group = *std::move(parsed);
    bytes += (*file)->header().file_bytes;
    files.push_back(*std::move(file));
  }
  Json tensors = Json::array();
  for (uint32_t i = 0; i < group.tensors; ++i) {
    absl::StatusOr<Json> tensor = ShowTensor(files);
    if (!tensor.ok()) return tensor.status();
    tensors.push_back(*std::move(tensor));
  }
  for (const std::unique_ptr<StateFileReader>& file : files) {
    if (absl::Status status = file->End(); !status.ok()) return status;
  }
  Json json{{"directory", directory},
            {"save", save->number},
            {"save_id", absl::StrCat(absl::Hex(files.front()->header().save_id, absl::kZeroPad16))},
            {"version", wire::kStateVersion},
            {"method", config.value("method", "")},
            {"step", group.step},
            {"skipped_steps", group.skipped},
            {"world_size", save->world_size},
            {"ranks", save->ranks},
            {"whole", save->whole()},
            {"bytes", bytes},
            {"plan_version", group.plan_version},
            {"global_batch", group.global_batch}};
  if (json["method"] == wire::Name(wire::Method::kOneBitAdam)) {
    json["variance"] = {{"frozen", group.frozen},
                        {"frozen_at_step", group.frozen ? Json(group.frozen_at) : Json()},
                        {"warmup_steps", group.warmup_steps}};
  }
  json["config"] = std::move(config);
  json["tensors"] = std::move(tensors);
  // Names are the job's bytes, perhaps no UTF-8: replaced rather than thrown about.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace terse::engine
