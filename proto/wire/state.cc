// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/state.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/checksum.h"
#include "proto/wire/text.h"

namespace terse::wire {
namespace {

constexpr char kMagic[] = "TERSTATE";  // 8 bytes; the 0 is not written
constexpr size_t kMagicBytes = 8;
constexpr size_t kHeaderChecksumAt = kStateHeaderBytes - kStateChecksumBytes;

// Bounds of what a file of ours can hold; a count beyond them is none.
constexpr uint32_t kMostText = 1u << 16;
constexpr uint32_t kMostEntries = 64;  // counters or vectors of one tensor
constexpr uint16_t kMostDimensions = 64;

constexpr uint32_t kFrozen = 1;
constexpr uint32_t kHandingOn = 2;
constexpr uint8_t kWasCompressed = 1;

template <typename... Words>
absl::Status Bad(const Words&... words) {
  return absl::DataLossError(absl::StrCat(words...));
}

// Writer of bytes.h over memory that grows.
class Appender {
 public:
  template <WireNumber T>
  void Put(T value) {
    std::byte bytes[sizeof(T)];
    Store(bytes, value);
    PutBytes(bytes);
  }
  template <typename Enum>
  void PutEnum(Enum value) {
    Put(static_cast<uint8_t>(value));
  }
  void PutText(std::string_view text) {
    Put(static_cast<uint32_t>(text.size()));
    PutBytes(absl::MakeSpan(reinterpret_cast<const std::byte*>(text.data()), text.size()));
  }
  void PutBytes(Bytes bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  std::vector<std::byte> Take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

// Reader of bytes.h with the types of a section; failed() names the first thing that was wrong.
class SectionReader {
 public:
  explicit SectionReader(Bytes body) : reader_(body) {}

  template <WireNumber T>
  T Get() {
    return reader_.Get<T>();
  }
  template <typename Enum>
  Enum GetEnum(Enum last, std::string_view what) {
    const auto number = Get<uint8_t>();
    if (number > static_cast<uint8_t>(last)) Fail(absl::StrCat(View(what), " ", number, " is not known"));
    return static_cast<Enum>(number);
  }
  bool GetBool(std::string_view what) { return GetEnum<uint8_t>(1, what) != 0; }
  template <typename T>
  T GetAtMost(T most, std::string_view what) {
    const T count = Get<T>();
    if (count > most) Fail(absl::StrCat(count, " is too much for ", View(what)));
    return reader_.ok() && failure_.empty() ? count : T{0};
  }
  void Expect(uint64_t value, std::string_view what) {
    if (value != 0) Fail(absl::StrCat(View(what), " are not 0"));
  }
  std::string GetText(std::string_view what) {
    const Bytes bytes = reader_.GetBytes(GetAtMost(kMostText, what));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  Bytes GetBytes(uint64_t n) {
    // A number that no memory could have been asked for must not be narrowed into one that could.
    return reader_.GetBytes(static_cast<size_t>(std::min<uint64_t>(n, std::numeric_limits<size_t>::max())));
  }
  void Fail(std::string words) {
    if (failure_.empty()) failure_ = std::move(words);
  }
  bool ok() const { return reader_.ok() && failure_.empty(); }
  // After everything has been read.
  absl::Status Finish(std::string_view section) const {
    if (!failure_.empty()) return Bad("section ", View(section), ": ", failure_);
    if (!reader_.ok()) return Bad("section ", View(section), " ends too early");
    if (reader_.remaining() != 0) {
      return Bad("section ", View(section), " has ", reader_.remaining(), " bytes too many");
    }
    return absl::OkStatus();
  }

 private:
  Reader reader_;
  std::string failure_;
};

void PutRow(const PlanRow& row, Appender* to) {
  const CodecParams& p = row.params;
  to->PutEnum(row.codec);
  to->PutEnum(row.exchange);
  to->PutEnum(row.error_feedback);
  to->PutEnum(p.index);
  to->PutEnum(p.selection);
  to->PutEnum(p.values);
  to->PutEnum(p.rounding);
  to->PutEnum(p.scale);
  to->PutEnum(p.error);
  to->PutEnum(p.span);
  for (int i = 0; i < 2; ++i) to->Put(uint8_t{0});
  to->Put(p.rank);
  to->Put(p.density);
  to->Put(p.bits);
  to->Put(p.block);
  to->PutText(row.reason);
}

PlanRow GetRow(uint32_t tensor, SectionReader* from) {
  PlanRow row;
  row.tensor = tensor;
  CodecParams& p = row.params;
  row.codec = from->GetEnum(Codec::kPowerSgd, "codec");
  row.exchange = from->GetEnum(Exchange::kLowRank, "exchange");
  row.error_feedback = from->GetBool("error feedback");
  p.index = from->GetEnum(IndexCoding::kRice, "index coding");
  p.selection = from->GetEnum(SelectionRule::kSampled, "selection");
  p.values = from->GetEnum(ValueFormat::kBf16, "format of values");
  p.rounding = from->GetEnum(Rounding::kStochastic, "rounding");
  p.scale = from->GetEnum(ScaleNorm::kL1, "scale");
  p.error = from->GetEnum(LowRankError::kLocal, "error of a factor");
  p.span = from->GetEnum(QuantizeSpan::kL2, "span");
  for (int i = 0; i < 2; ++i) from->Expect(from->Get<uint8_t>(), "reserved bytes of a row");
  p.rank = from->Get<uint32_t>();
  p.density = from->Get<double>();
  p.bits = from->Get<uint32_t>();
  p.block = from->Get<uint32_t>();
  row.reason = from->GetText("reason");
  return row;
}

// The elements of a shape, or nothing when there are more than a file could hold.
std::optional<uint64_t> ElementsOf(absl::Span<const int64_t> shape) {
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 16;
  uint64_t elements = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && elements > kMost / static_cast<uint64_t>(extent))) return std::nullopt;
    elements *= static_cast<uint64_t>(extent);
  }
  return elements;
}

bool AllFinite(Bytes floats) {
  uint32_t bad = 0;
  for (size_t at = 0; at < floats.size(); at += sizeof(float)) {
    bad |= std::isfinite(Load<float>(floats.data() + at)) ? 0u : 1u;
  }
  return bad == 0;
}

// An entry is known by its name.
template <typename Entry>
void ExpectNew(const std::vector<Entry>& entries, const std::string& name, SectionReader* from) {
  for (const Entry& entry : entries) {
    if (entry.name == name) from->Fail(absl::StrCat("'", name, "' is there twice"));
  }
}

StateTensor::Vector GetVector(uint64_t elements, SectionReader* from) {
  StateTensor::Vector vector;
  vector.name = from->GetText("the name of a vector");
  vector.role = from->GetEnum(MemoryRole::kShard, "role");
  for (int i = 0; i < 3; ++i) from->Expect(from->Get<uint8_t>(), "reserved bytes of a vector");
  vector.crc = from->Get<uint32_t>();
  vector.begin = from->Get<uint64_t>();
  const auto count = from->Get<uint64_t>();
  if (vector.begin > elements || count > elements - vector.begin) {
    from->Fail(
        absl::StrCat("vector '", vector.name, "' has elements ", vector.begin, "+", count, " of ", elements));
  } else if (vector.begin != 0 && vector.role != MemoryRole::kShard) {
    from->Fail(absl::StrCat("vector '", vector.name, "' is no shard and begins at ", vector.begin));
  }
  if (!from->ok()) return vector;
  vector.values = from->GetBytes(count * sizeof(float));
  if (!from->ok()) return vector;
  if (Crc32c(vector.values) != vector.crc) {
    from->Fail(absl::StrCat("vector '", vector.name, "' has another checksum than it says"));
  } else if (vector.role != MemoryRole::kReplicated && !AllFinite(vector.values)) {
    from->Fail(absl::StrCat("vector '", vector.name, "' holds a NaN or an infinity"));
  }
  return vector;
}

}  // namespace

std::vector<std::byte> EncodeStateHeader(const StateHeader& header) {
  Appender to;
  to.PutBytes(absl::MakeSpan(reinterpret_cast<const std::byte*>(kMagic), kMagicBytes));
  to.Put(kStateVersion);
  to.Put(header.sections);
  to.Put(header.rank);
  to.Put(header.world_size);
  to.Put(header.save);
  to.Put(header.save_id);
  to.Put(header.file_bytes);
  to.Put(header.step);
  to.Put(uint32_t{0});
  std::vector<std::byte> bytes = to.Take();
  bytes.resize(kStateHeaderBytes);
  Store(bytes.data() + kHeaderChecksumAt, Crc32c(Bytes(bytes).first(kHeaderChecksumAt)));
  return bytes;
}

absl::StatusOr<StateHeader> ParseStateHeader(Bytes bytes) {
  if (bytes.size() < kStateHeaderBytes) {
    return Bad("it has ", bytes.size(), " bytes, and the header alone has ", kStateHeaderBytes);
  }
  Reader reader(bytes);
  if (std::memcmp(reader.GetBytes(kMagicBytes).data(), kMagic, kMagicBytes) != 0) {
    return Bad("it does not begin with ", kMagic, ": this is no saved state");
  }
  // Before the checksum, whose place another version may have changed.
  const auto version = reader.Get<uint32_t>();
  if (version != kStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("it has version ", version,
                                                      ", this build reads version ", kStateVersion,
                                                      ": load it with the build that saved it"));
  }
  if (Crc32c(bytes.first(kHeaderChecksumAt)) != Load<uint32_t>(bytes.data() + kHeaderChecksumAt)) {
    return Bad("the checksum of its header does not fit");
  }
  StateHeader header;
  header.sections = reader.Get<uint32_t>();
  header.rank = reader.Get<uint32_t>();
  header.world_size = reader.Get<uint32_t>();
  header.save = reader.Get<uint64_t>();
  header.save_id = reader.Get<uint64_t>();
  header.file_bytes = reader.Get<uint64_t>();
  header.step = reader.Get<uint64_t>();
  if (header.world_size > kMostStateRanks || header.rank >= header.world_size || header.sections < 2 ||
      reader.Get<uint32_t>() != 0) {
    return Bad("its header says rank ", header.rank, " of ", header.world_size, " with ", header.sections,
               " sections");
  }
  return header;
}

std::vector<std::byte> SealStateSection(StateSection section, Bytes body) {
  Appender to;
  to.Put(static_cast<uint32_t>(section));
  to.Put(uint32_t{0});
  to.Put(uint64_t{body.size()});
  to.PutBytes(body);
  std::vector<std::byte> bytes = to.Take();
  const uint32_t crc = Crc32c(bytes);
  bytes.resize(bytes.size() + kStateChecksumBytes);
  Store(bytes.data() + bytes.size() - kStateChecksumBytes, crc);
  return bytes;
}

absl::StatusOr<StateSectionHeader> ParseStateSectionHeader(Bytes bytes, uint64_t left) {
  Reader reader(bytes);
  const auto section = reader.Get<uint32_t>();
  const auto reserved = reader.Get<uint32_t>();
  StateSectionHeader header;
  header.body_bytes = reader.Get<uint64_t>();
  if (!reader.ok()) return Bad("it ends where a section was due");
  if (section < static_cast<uint32_t>(StateSection::kConfig) ||
      section > static_cast<uint32_t>(StateSection::kTensor) || reserved != 0) {
    return Bad("section ", section, " is not known");
  }
  header.section = static_cast<StateSection>(section);
  if (left < kStateChecksumBytes || header.body_bytes > left - kStateChecksumBytes) {
    return Bad("a section of ", header.body_bytes, " bytes does not fit into the ", left, " that are left");
  }
  return header;
}

absl::StatusOr<Bytes> OpenStateSection(Bytes section) {
  const absl::StatusOr<StateSectionHeader> header =
      ParseStateSectionHeader(section, section.size() - std::min(section.size(), kStateSectionBytes));
  if (!header.ok()) return header.status();
  const size_t sealed = section.size() - kStateChecksumBytes;
  if (header->body_bytes != sealed - kStateSectionBytes) return Bad("a section is longer than it says");
  if (Crc32c(section.first(sealed)) != Load<uint32_t>(section.data() + sealed)) {
    return Bad("the checksum of a section does not fit: bytes were changed");
  }
  return section.subspan(kStateSectionBytes, sealed - kStateSectionBytes);
}

std::vector<std::byte> EncodeStateGroup(const StateGroup& group) {
  Appender to;
  to.Put(group.step);
  to.Put(group.skipped);
  to.Put(group.global_batch);
  to.Put(group.plan_version);
  to.Put(group.tensors);
  to.Put((group.frozen ? kFrozen : 0) | (group.handing_on ? kHandingOn : 0));
  to.Put(uint32_t{0});
  to.Put(group.warmup_steps);
  to.Put(group.frozen_at);
  to.Put(uint64_t{group.history.size()});
  for (const double norm : group.history) to.Put(norm);
  return to.Take();
}

absl::StatusOr<StateGroup> ParseStateGroup(Bytes body) {
  SectionReader from(body);
  StateGroup group;
  group.step = from.Get<uint64_t>();
  group.skipped = from.Get<uint64_t>();
  group.global_batch = from.Get<int64_t>();
  if (group.global_batch < 0) from.Fail(absl::StrCat("a global batch of ", group.global_batch));
  group.plan_version = from.Get<uint32_t>();
  group.tensors = from.Get<uint32_t>();
  const auto flags = from.Get<uint32_t>();
  from.Expect(flags & ~(kFrozen | kHandingOn), "unknown flags");
  from.Expect(from.Get<uint32_t>(), "reserved bytes");
  group.frozen = (flags & kFrozen) != 0;
  group.handing_on = (flags & kHandingOn) != 0;
  group.warmup_steps = from.Get<uint64_t>();
  group.frozen_at = from.Get<uint64_t>();
  const auto history = from.GetAtMost<uint64_t>(body.size() / sizeof(double), "the history of the variance");
  for (uint64_t i = 0; i < history; ++i) group.history.push_back(from.Get<double>());
  if (absl::Status status = from.Finish("group"); !status.ok()) return status;
  return group;
}

std::vector<std::byte> EncodeStateTensor(const StateTensor& tensor) {
  Appender to;
  to.Put(tensor.id);
  to.PutEnum(tensor.dtype);
  to.Put(tensor.was_compressed ? kWasCompressed : uint8_t{0});
  to.Put(static_cast<uint16_t>(tensor.shape.size()));
  for (const int64_t extent : tensor.shape) to.Put(extent);
  to.PutText(tensor.name);
  to.Put(tensor.elements);
  to.Put(tensor.mask_hash);
  PutRow(tensor.row, &to);
  PutRow(tensor.configured, &to);
  to.Put(tensor.applied);
  to.Put(tensor.exchanges);
  to.Put(static_cast<uint32_t>(tensor.counters.size()));
  for (const StateTensor::Counter& counter : tensor.counters) {
    to.PutText(counter.name);
    to.Put(counter.value);
  }
  to.Put(static_cast<uint32_t>(tensor.vectors.size()));
  for (const StateTensor::Vector& vector : tensor.vectors) {
    to.PutText(vector.name);
    to.PutEnum(vector.role);
    for (int i = 0; i < 3; ++i) to.Put(uint8_t{0});
    to.Put(Crc32c(vector.values));
    to.Put(vector.begin);
    to.Put(uint64_t{vector.count()});
    to.PutBytes(vector.values);
  }
  for (const Bytes state : {tensor.worker_state, tensor.server_state}) {
    to.Put(uint64_t{state.size()});
    to.PutBytes(state);
  }
  return to.Take();
}

absl::StatusOr<StateTensor> ParseStateTensor(Bytes body) {
  SectionReader from(body);
  StateTensor tensor;
  tensor.id = from.Get<uint32_t>();
  tensor.dtype = from.GetEnum(DType::kBFloat16, "dtype");
  tensor.was_compressed = from.GetBool("flags");
  const auto dimensions = from.GetAtMost(kMostDimensions, "a number of dimensions");
  for (uint16_t i = 0; i < dimensions; ++i) tensor.shape.push_back(from.Get<int64_t>());
  tensor.name = from.GetText("a tensor's name");
  tensor.elements = from.Get<uint64_t>();
  tensor.mask_hash = from.Get<uint64_t>();
  const std::optional<uint64_t> job_elements = ElementsOf(tensor.shape);
  if (!job_elements || tensor.elements > *job_elements) {
    from.Fail(
        absl::StrCat("tensor '", tensor.name, "' has ", tensor.elements, " elements, more than its shape"));
  }
  tensor.row = GetRow(tensor.id, &from);
  tensor.configured = GetRow(tensor.id, &from);
  tensor.applied = from.Get<uint64_t>();
  tensor.exchanges = from.Get<uint64_t>();
  for (uint32_t n = from.GetAtMost(kMostEntries, "a number of counters"); n > 0 && from.ok(); --n) {
    StateTensor::Counter counter;
    counter.name = from.GetText("the name of a counter");
    counter.value = from.Get<uint64_t>();
    ExpectNew(tensor.counters, counter.name, &from);
    tensor.counters.push_back(std::move(counter));
  }
  for (uint32_t n = from.GetAtMost(kMostEntries, "a number of vectors"); n > 0 && from.ok(); --n) {
    StateTensor::Vector vector = GetVector(*job_elements, &from);
    ExpectNew(tensor.vectors, vector.name, &from);
    tensor.vectors.push_back(std::move(vector));
  }
  for (Bytes* const state : {&tensor.worker_state, &tensor.server_state}) {
    *state = from.GetBytes(from.Get<uint64_t>());
  }
  if (absl::Status status = from.Finish("tensor"); !status.ok()) return status;
  return tensor;
}

}  // namespace terse::wire
