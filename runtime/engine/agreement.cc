// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/agreement.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace terse::engine {
namespace {

constexpr uint32_t kMagic = 0x41525254;  // "TRRA"
constexpr uint32_t kTesting = 1;
constexpr uint32_t kFreeze = 2;
constexpr uint32_t kTimes = 4;  // their number and they follow the fixed part
constexpr size_t kFixedBytes = 48;
constexpr size_t kMostTimeBytes = 4 + 4 * Announcement::kMostTimes;
constexpr size_t kMostSubmitted = 8192;  // bytes of the bit set: 65,536 tensors
constexpr size_t kMostDescription = size_t{1} << 20;
constexpr size_t kSlot = kFixedBytes + kMostTimeBytes + kMostSubmitted;

bool SameCall(const Announcement& a, const Announcement& b) {
  return a.intent == b.intent && a.step == b.step && a.ordinal == b.ordinal &&
         a.tensor_count == b.tensor_count && a.table_hash == b.table_hash && a.value == b.value;
}

// A time that was taken, or the mark of one that was not.
bool IsTime(float ms) { return (ms >= 0 && std::isfinite(ms)) || ms == Announcement::kNoTime; }

absl::string_view Line(const std::vector<absl::string_view>& lines, size_t i) {
  return i < lines.size() ? lines[i] : absl::string_view("nothing");
}

}  // namespace

std::vector<std::byte> EncodeAnnouncement(const Announcement& a) {
  const size_t time_bytes = a.times.empty() ? 0 : 4 + 4 * a.times.size();
  std::vector<std::byte> bytes(kFixedBytes + time_bytes + a.submitted.size());
  wire::Writer writer(absl::MakeSpan(bytes));
  writer.Put(kMagic);
  writer.Put(static_cast<uint32_t>(a.intent));
  writer.Put(a.step);
  writer.Put(a.ordinal);
  writer.Put(a.table_hash);
  writer.Put(a.value);
  writer.Put(a.tensor_count);
  writer.Put((a.testing ? kTesting : 0) | (a.freeze ? kFreeze : 0) | (a.times.empty() ? 0 : kTimes));
  if (!a.times.empty()) writer.Put(static_cast<uint32_t>(a.times.size()));
  for (const float ms : a.times) writer.Put(std::bit_cast<uint32_t>(ms));
  writer.PutBytes(a.submitted);
  return bytes;
}

absl::StatusOr<Announcement> ParseAnnouncement(wire::Bytes bytes) {
  wire::Reader reader(bytes);
  const auto magic = reader.Get<uint32_t>();
  Announcement a;
  const auto intent = reader.Get<uint32_t>();
  a.intent = static_cast<Intent>(intent);
  a.step = reader.Get<uint64_t>();
  a.ordinal = reader.Get<uint64_t>();
  a.table_hash = reader.Get<uint64_t>();
  a.value = reader.Get<uint64_t>();
  a.tensor_count = reader.Get<uint32_t>();
  const auto flags = reader.Get<uint32_t>();
  a.testing = (flags & kTesting) != 0;
  a.freeze = (flags & kFreeze) != 0;
  const uint32_t times = (flags & kTimes) != 0 ? reader.Get<uint32_t>() : 0;
  bool good = times <= Announcement::kMostTimes && ((flags & kTimes) == 0 || times > 0);
  for (uint32_t i = 0; good && reader.ok() && i < times; ++i) {
    a.times.push_back(std::bit_cast<float>(reader.Get<uint32_t>()));
    good = IsTime(a.times.back());
  }
  if (!good || !reader.ok() || magic != kMagic || intent < static_cast<uint32_t>(Intent::kConfigure) ||
      intent > static_cast<uint32_t>(kLastIntent) || (flags & ~(kTesting | kFreeze | kTimes)) != 0 ||
      reader.remaining() > kMostSubmitted) {
    return absl::DataLossError("a message that is no announcement came where one was due");
  }
  const wire::Bytes rest = reader.GetBytes(reader.remaining());
  a.submitted.assign(rest.begin(), rest.end());
  return a;
}

absl::StatusOr<Announcements> Agreement::Agree(Announcement mine,
                                               const std::function<std::string()>& describe) {
  if (absl::Status status = Start(std::move(mine)); !status.ok()) return status;
  return Finish(describe);
}

absl::Status Agreement::Start(Announcement mine) {
  mine.ordinal = ordinal_++;
  own_ = EncodeAnnouncement(mine);
  const auto ranks = static_cast<size_t>(group_->size());
  const absl::Span<std::byte> memory = slots_.Get(ranks * kSlot);
  std::vector<transport::Buffer> to(ranks);
  for (size_t r = 0; r < ranks; ++r) to[r] = {.data = memory.data() + r * kSlot, .bytes = kSlot};
  lengths_.assign(ranks, 0);
  transport::OperationOr operation =
      group_->Allgatherv({.data = own_.data(), .bytes = own_.size()}, to, absl::MakeSpan(lengths_), {});
  if (!operation.ok()) return operation.status();
  operation_ = *std::move(operation);
  return absl::OkStatus();
}

absl::StatusOr<bool> Agreement::Poll() { return operation_->Test(); }

absl::StatusOr<Announcements> Agreement::Finish(const std::function<std::string()>& describe) {
  double waited_ms = 0;
  Timed agree({.trace = trace_}, "agree", &waited_ms);
  const absl::Status status = operation_->Wait(patience_);
  agree.Stop();
  operation_.reset();
  if (!status.ok()) return status;
  Announcements all;
  const auto ranks = static_cast<size_t>(group_->size());
  const absl::Span<std::byte> memory = slots_.Get(ranks * kSlot);
  for (size_t r = 0; r < ranks; ++r) {
    absl::StatusOr<Announcement> a = ParseAnnouncement(memory.subspan(r * kSlot, lengths_[r]));
    if (!a.ok()) {
      return absl::DataLossError(
          absl::StrCat(group_->Describe(static_cast<int>(r)), ": ", a.status().message()));
    }
    all.push_back(*std::move(a));
  }
  // The same bytes are compared on every rank, so all ranks take the same branch.
  for (size_t r = 1; r < ranks; ++r) {
    if (!SameCall(all[0], all[r])) return NameDifference(describe);
  }
  return all;
}

absl::Status Agreement::NameDifference(const std::function<std::string()>& describe) {
  const absl::StatusOr<std::vector<std::string>> texts = GatherTexts(describe(), kMostDescription);
  if (!texts.ok()) return texts.status();
  const std::vector<absl::string_view> first = absl::StrSplit(texts->front(), '\n');
  for (size_t r = 1; r < texts->size(); ++r) {
    const std::vector<absl::string_view> other = absl::StrSplit((*texts)[r], '\n');
    for (size_t i = 0; i < std::max(first.size(), other.size()); ++i) {
      if (Line(first, i) == Line(other, i)) continue;
      return absl::AbortedError(absl::StrCat(
          "ranks disagree: rank 0 has \"", Line(first, i), "\", rank ", r, " has \"", Line(other, i),
          "\". All ranks must use the same configuration, register the same "
          "tensors and make the same calls in the same order"));
    }
  }
  return absl::AbortedError("ranks disagree, though they describe the same situation; please report this");
}

absl::StatusOr<std::vector<std::string>> Agreement::Share(const absl::StatusOr<std::string>& mine,
                                                          absl::Status* failed) {
  // The first character is the status code.
  std::string text(1, static_cast<char>(mine.status().code()));
  text += mine.ok() ? *mine : std::string(mine.status().message());
  absl::StatusOr<std::vector<std::string>> texts = GatherTexts(std::move(text), kMostShared + 1);
  if (!texts.ok()) return texts.status();
  for (size_t r = 0; r < texts->size(); ++r) {
    std::string& other = (*texts)[r];
    const auto code = static_cast<absl::StatusCode>(other.empty() ? '\0' : other[0]);
    other.erase(0, 1);
    if (code == absl::StatusCode::kOk) continue;
    *failed = absl::Status(code, absl::StrCat("rank ", r, ": ", other));
    break;
  }
  return texts;
}

absl::StatusOr<std::vector<std::string>> Agreement::GatherTexts(std::string text, size_t most) {
  text.resize(std::min(text.size(), most));
  std::vector<std::byte> memory(static_cast<size_t>(group_->size()) * most);
  std::vector<transport::Buffer> to;
  for (int r = 0; r < group_->size(); ++r) {
    to.push_back({.data = memory.data() + static_cast<size_t>(r) * most, .bytes = most});
  }
  std::vector<size_t> lengths(to.size(), 0);
  transport::OperationOr operation =
      group_->Allgatherv({.data = text.data(), .bytes = text.size()}, to, absl::MakeSpan(lengths), {});
  if (!operation.ok()) return operation.status();
  if (absl::Status status = (*operation)->Wait(patience_); !status.ok()) return status;
  std::vector<std::string> texts;
  for (size_t r = 0; r < to.size(); ++r) texts.emplace_back(static_cast<const char*>(to[r].data), lengths[r]);
  return texts;
}

}  // namespace terse::engine
