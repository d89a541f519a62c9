// SPDX-License-Identifier: Apache-2.0
//
// Files of saved state and their sections, as they came and with all checksums made right, without which
// almost nothing would get past them; and what a group makes of a tensor that was parsed. Inputs begin with
//   u8 part      modulo 4: a whole file, or the body of a section: group, tensor, configuration
//   u8 choices   tensor: bits 0 and 1 method, 2 and 3 ranks that saved less 1, 4 and 5 ranks that load less
//                1, 6 and 7 rank
#include "proto/wire/state.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "compressors/methods/variance_freeze.h"
#include "compressors/registry.h"
#include "proto/wire/checksum.h"
#include "runtime/engine/state.h"
#include "tests/fuzz/fuzz.h"

namespace {

size_t allocated = 0;  // bytes, by new, since the process began

}  // namespace

void* operator new(size_t size) {
  allocated += size;
  if (void* const memory = std::malloc(std::max<size_t>(size, 1))) return memory;
  std::abort();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace terse::fuzz {
namespace {

constexpr size_t kMostElements = 4096;  // of tensors that are taken over
constexpr size_t kMostEntries = 64;     // dimensions, counters, vectors
constexpr char kMagic[] = "TERSTATE";

// Layout of docs/state_format.md. Stops where the body is no tensor's.
void RepairVectors(wire::MutableBytes body) {
  wire::Reader reader(body);
  const auto skip_text = [&reader] { reader.GetBytes(reader.Get<uint32_t>()); };
  reader.GetBytes(6);  // id, dtype, flags
  reader.GetBytes(reader.Get<uint16_t>() * sizeof(int64_t));
  skip_text();
  reader.GetBytes(16);  // elements, mask
  for (int row = 0; row < 2; ++row) {
    reader.GetBytes(32);
    skip_text();
  }
  reader.GetBytes(16);  // applied, exchanges
  for (auto counters = reader.Get<uint32_t>(); counters > 0 && reader.ok(); --counters) {
    skip_text();
    reader.GetBytes(sizeof(uint64_t));
  }
  for (auto vectors = reader.Get<uint32_t>(); vectors > 0 && reader.ok(); --vectors) {
    skip_text();
    reader.GetBytes(4);  // role
    std::byte* const checksum = body.data() + (body.size() - reader.remaining());
    reader.GetBytes(sizeof(uint32_t) + sizeof(uint64_t));  // checksum, begin
    const auto count = reader.Get<uint64_t>();
    if (count > reader.remaining() / sizeof(float)) return;
    const wire::Bytes values = reader.GetBytes(count * sizeof(float));
    if (reader.ok()) wire::Store(checksum, wire::Crc32c(values));
  }
}

std::vector<std::byte> RepairedFile(wire::Bytes bytes) {
  std::vector<std::byte> file(bytes.begin(), bytes.end());
  if (file.size() < wire::kStateHeaderBytes) return file;
  std::memcpy(file.data(), kMagic, sizeof(kMagic) - 1);
  wire::Store(file.data() + 8, wire::kStateVersion);
  wire::Store(file.data() + 60, wire::Crc32c(wire::Bytes(file).first(60)));
  constexpr size_t kLeast = wire::kStateSectionBytes + wire::kStateChecksumBytes;
  wire::MutableBytes left = absl::MakeSpan(file).subspan(wire::kStateHeaderBytes);
  while (left.size() >= kLeast) {
    const uint64_t size = std::min<uint64_t>(wire::Load<uint64_t>(left.data() + 8), left.size() - kLeast);
    wire::Store(left.data() + 8, size);
    const size_t sealed = wire::kStateSectionBytes + size;
    RepairVectors(left.subspan(wire::kStateSectionBytes, size));
    wire::Store(left.data() + sealed, wire::Crc32c(left.first(sealed)));
    left.remove_prefix(sealed + wire::kStateChecksumBytes);
  }
  return file;
}

void RequireRefused(const absl::Status& status, absl::StatusCode code) {
  Require(status.code() == code || status.code() == absl::StatusCode::kDataLoss, "a refusal has its code");
  Require(!status.message().empty(), "a refusal says why");
}

// What `parse` returns; it may not ask for more memory than there are bytes to fill it.
template <typename Parse>
auto Parsed(wire::Bytes bytes, const Parse& parse) {
  const size_t before = allocated;
  auto parsed = parse(bytes);
  Require(allocated - before <= 8 * bytes.size() + 32768, "memory is bounded by what was given");
  if (!parsed.ok()) RequireRefused(parsed.status(), absl::StatusCode::kDataLoss);
  return parsed;
}

bool AllFinite(wire::Bytes floats) {
  for (size_t at = 0; at < floats.size(); at += sizeof(float)) {
    if (!std::isfinite(wire::Load<float>(floats.data() + at))) return false;
  }
  return true;
}

template <typename Entry>
void RequireNames(const std::vector<Entry>& entries) {
  Require(entries.size() <= kMostEntries, "counters and vectors are few");
  for (size_t i = 0; i < entries.size(); ++i) {
    for (size_t j = 0; j < i; ++j) Require(entries[i].name != entries[j].name, "names differ");
  }
}

void RequireSound(const wire::StateTensor& tensor) {
  Require(IsNamed(tensor.dtype), "a tensor has a type");
  for (const wire::PlanRow* row : {&tensor.row, &tensor.configured}) {
    Require(IsNamed(row->codec) && IsNamed(row->exchange), "a row names codec and exchange");
  }
  Require(tensor.shape.size() <= kMostEntries, "dimensions are few");
  double elements = 1;  // exact as long as it matters
  for (const int64_t extent : tensor.shape) {
    Require(extent >= 0, "extents are not negative");
    elements *= static_cast<double>(extent);
  }
  Require(elements < 0x1p60 && static_cast<double>(tensor.elements) <= elements, "elements are the shape's");
  RequireNames(tensor.counters);
  RequireNames(tensor.vectors);
  for (const wire::StateTensor::Vector& vector : tensor.vectors) {
    const double end = static_cast<double>(vector.begin) + static_cast<double>(vector.count());
    Require(IsNamed(vector.role), "a vector has a role");
    Require(end <= elements, "a vector lies within its tensor");
    Require(vector.begin == 0 || vector.role == wire::MemoryRole::kShard, "none but shards begin later");
    Require(vector.role == wire::MemoryRole::kReplicated || AllFinite(vector.values), "memories are finite");
  }
}

wire::Config ConfigOf(wire::Method method) {
  wire::Config config;
  config.method = method;
  config.dgc.weight_decay = 0.01;  // a vector more
  return config;
}

engine::Tensor Registered(const wire::StateTensor& saved, size_t job_elements, size_t size) {
  engine::Tensor tensor;
  tensor.id = saved.id;
  tensor.name = saved.name;
  tensor.dtype = saved.dtype;
  tensor.shape = saved.shape;
  tensor.job_elements = tensor.elements = job_elements;
  tensor.world_size = static_cast<int>(size);
  return tensor;
}

// As the file of that rank has it: a shard that spans the tensor stands for those of all ranks.
wire::StateTensor OfRank(wire::StateTensor saved, uint32_t rank, uint32_t size, engine::Tensor* tensor) {
  tensor->SetRow(saved.row);
  const Shard own = tensor->ShardOf(saved.row.params, static_cast<int>(rank), static_cast<int>(size));
  for (wire::StateTensor::Vector& vector : saved.vectors) {
    if (vector.role != wire::MemoryRole::kShard || vector.count() != tensor->elements) continue;
    vector.begin = own.begin;
    vector.values = vector.values.subspan(own.begin * sizeof(float), (own.end - own.begin) * sizeof(float));
  }
  return saved;
}

// The memory that the engine goes on with.
void RequireFits(int rank, int size, engine::Tensor* tensor) {
  tensor->method->VisitState([&](std::string_view, wire::MemoryRole, FloatVector* values) {
    Require(values->empty() || values->size() == tensor->elements, "a memory has the tensor's elements");
  });
  const Shard own = tensor->ShardOf(tensor->row.params, rank, size);
  Require(tensor->server_residual.empty() || tensor->server_residual.size() == own.end - own.begin,
          "an owner's error has the shard's elements");
}

void RequireKept(const wire::StateTensor& saved, const wire::StateTensor& kept) {
  for (const wire::StateTensor::Vector& was : saved.vectors) {
    const auto is = std::find_if(kept.vectors.begin(), kept.vectors.end(),
                                 [&was](const auto& vector) { return vector.name == was.name; });
    if (was.values.empty()) continue;
    Require(is != kept.vectors.end() && is->role == was.role && is->begin == was.begin &&
                is->values == was.values,
            "a group of the same size takes every vector over bit by bit");
  }
  Require(kept.worker_state == saved.worker_state && kept.server_state == saved.server_state,
          "a group of the same size takes the codec's state over");
  Require(kept.counters.size() == saved.counters.size(), "counters are the method's");
}

void TakeOver(uint8_t choices, const wire::StateTensor& saved) {
  uint64_t job_elements = 1;  // the parser has refused products that overflow
  for (const int64_t extent : saved.shape) job_elements *= static_cast<uint64_t>(extent);
  const Compressor* const codec = FindCompressor(saved.row.codec);
  // Engine::CheckRow comes before.
  if (job_elements > kMostElements || codec == nullptr || !codec->CheckParams(saved.row.params).ok()) return;

  const wire::Config config = ConfigOf(static_cast<wire::Method>((choices & 3) % 3));
  const uint32_t old_size = (choices >> 2 & 3) + 1u;
  const int size = (choices >> 4 & 3) + 1;
  const int rank = (choices >> 6 & 3) % size;
  const engine::Inheritance from(old_size, size, rank, config.reduce);
  engine::Tensor now = Registered(saved, job_elements, static_cast<size_t>(size));
  engine::TensorInheritance inheritance(config, from, now);
  if (const absl::Status status = inheritance.CheckTensor(saved); !status.ok()) {
    return RequireRefused(status, absl::StatusCode::kInvalidArgument);
  }
  wire::StateTensor last;
  for (const uint32_t source : from.Sources()) {
    last = OfRank(saved, source, old_size, &now);
    const absl::Status status = inheritance.Add(source, last);
    if (!status.ok()) return RequireRefused(status, absl::StatusCode::kDataLoss);
  }
  const absl::StatusOr<std::unique_ptr<engine::Tensor>> tensor = inheritance.Finish();
  if (!tensor.ok()) return RequireRefused(tensor.status(), absl::StatusCode::kInvalidArgument);
  RequireFits(rank, size, tensor->get());

  const std::vector<std::byte> bytes = engine::SaveTensor(saved.configured, rank, size, tensor->get());
  const absl::StatusOr<wire::StateTensor> kept = wire::ParseStateTensor(bytes);
  Require(kept.ok(), "what was taken over can be saved and parsed again");
  if (from.Sources().size() == 1 && old_size == static_cast<uint32_t>(size)) RequireKept(last, *kept);
}

void TakeTensor(uint8_t choices, wire::Bytes body) {
  const absl::StatusOr<wire::StateTensor> tensor = Parsed(body, wire::ParseStateTensor);
  if (!tensor.ok()) return;
  RequireSound(*tensor);
  Require(wire::Bytes(wire::EncodeStateTensor(*tensor)) == body,
          "a tensor that was taken encodes to the same bytes");
  TakeOver(choices, *tensor);
}

void TakeGroup(wire::Bytes body) {
  const absl::StatusOr<wire::StateGroup> group = Parsed(body, wire::ParseStateGroup);
  if (!group.ok()) return;
  Require(wire::Bytes(wire::EncodeStateGroup(*group)) == body,
          "a group that was taken encodes to the same bytes");
  VarianceFreeze freeze{wire::Config::Adam{}};
  freeze.Restore({.frozen = group->frozen,
                  .handing_on = group->handing_on,
                  .warmup_steps = group->warmup_steps,
                  .frozen_at = group->frozen_at,
                  .history = group->history});
  freeze.Advance(1.0, freeze.Settled(1.0), group->step);
}

void TakeConfig(wire::Bytes body) {
  const std::string_view text(reinterpret_cast<const char*>(body.data()), body.size());
  const absl::Status status = engine::CheckSavedConfig(wire::Config(), text);
  if (!status.ok()) RequireRefused(status, absl::StatusCode::kInvalidArgument);
}

void TakeFile(wire::Bytes left) {
  const absl::StatusOr<wire::StateHeader> header = wire::ParseStateHeader(left);
  if (!header.ok()) return RequireRefused(header.status(), absl::StatusCode::kFailedPrecondition);
  Require(header->rank < header->world_size && header->world_size <= wire::kMostStateRanks,
          "a rank is one of its group");
  Require(wire::Bytes(wire::EncodeStateHeader(*header)) == left.first(wire::kStateHeaderBytes),
          "a header that was taken encodes to the same bytes");
  left.remove_prefix(wire::kStateHeaderBytes);
  for (uint32_t i = 0; i < header->sections; ++i) {
    const size_t behind = left.size() - std::min(left.size(), wire::kStateSectionBytes);
    const absl::StatusOr<wire::StateSectionHeader> head = wire::ParseStateSectionHeader(left, behind);
    if (!head.ok()) return RequireRefused(head.status(), absl::StatusCode::kDataLoss);
    Require(behind >= wire::kStateChecksumBytes && head->body_bytes <= behind - wire::kStateChecksumBytes,
            "a section ends within its file");
    const wire::Bytes section =
        left.first(wire::kStateSectionBytes + head->body_bytes + wire::kStateChecksumBytes);
    left.remove_prefix(section.size());
    const absl::StatusOr<wire::Bytes> body = Parsed(section, wire::OpenStateSection);
    if (!body.ok()) return;
    Require(body->size() == head->body_bytes, "a section has the bytes that it says");
    Require(wire::Bytes(wire::SealStateSection(head->section, *body)) == section,
            "a section that was taken seals to the same bytes");
    switch (head->section) {
      case wire::StateSection::kConfig:
        TakeConfig(*body);
        break;
      case wire::StateSection::kGroup:
        TakeGroup(*body);
        break;
      case wire::StateSection::kTensor:
        TakeTensor(0, *body);
        break;
    }
  }
}

void TakeState(wire::Bytes bytes) {
  wire::Reader reader(bytes);
  const auto part = reader.Get<uint8_t>();
  const auto choices = reader.Get<uint8_t>();
  const wire::Bytes rest = reader.GetBytes(reader.remaining());
  switch (part % 4) {
    case 0:
      TakeFile(rest);
      return TakeFile(RepairedFile(rest));
    case 1:
      return TakeGroup(rest);
    case 2: {
      TakeTensor(choices, rest);
      std::vector<std::byte> repaired(rest.begin(), rest.end());
      RepairVectors(absl::MakeSpan(repaired));
      return TakeTensor(choices, repaired);
    }
    default:
      return TakeConfig(rest);
  }
}

}  // namespace
}  // namespace terse::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  terse::fuzz::TakeState(terse::fuzz::AsBytes(data, size));
  return 0;
}
