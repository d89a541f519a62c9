// SPDX-License-Identifier: Apache-2.0
//
// Reading topk's payloads: bytes of unknown origin in, entries out (docs/wire_format_payloads.md). For
// topk.cc alone.
#ifndef TERSE_COMPRESSORS_TOPK_ENTRIES_H_
#define TERSE_COMPRESSORS_TOPK_ENTRIES_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "compressors/kernels/floats.h"
#include "compressors/rice.h"
#include "proto/wire/bytes.h"
#include "proto/wire/plan.h"

namespace terse::topk {

inline constexpr size_t kHeaderBytes = 8;

inline size_t ValueBytes(wire::ValueFormat format) { return format == wire::ValueFormat::kFp32 ? 4 : 2; }

// The value of entry i; NaN for every pattern that is no number.
inline float LoadValue(wire::ValueFormat format, const std::byte* values, size_t i) {
  if (format == wire::ValueFormat::kFp32) return wire::Load<float>(values + i * sizeof(float));
  const auto bits = wire::Load<uint16_t>(values + i * sizeof(uint16_t));
  if (format == wire::ValueFormat::kBf16) return kernels::FromBf16(bits);
  constexpr uint16_t kExponent = 0x7c00;
  if ((bits & kExponent) == kExponent) return std::numeric_limits<float>::quiet_NaN();
  return kernels::FromFp16(bits);
}

// The entries of a payload of unknown origin, one after the other. Whatever is wrong with it ends the
// entries, and status() says what it was.
class Entries {
 public:
  static constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();

  Entries() = default;

  // Stands at the first entry afterwards.
  void Open(wire::Bytes payload, size_t n) {
    n_ = n;
    if (n == 0) {
      if (!payload.empty()) Fail("topk payload of no elements has bytes");
      return;
    }
    if (!ReadHeader(payload)) return;
    Advance();
  }

  uint64_t position() const { return position_; }  // kEnd behind the last
  float value() const { return value_; }
  size_t count() const { return count_; }
  const absl::Status& status() const { return status_; }

  void Advance() {
    if (taken_ == count_) return Finish();
    uint64_t gap = 0;
    if (rice_) {
      if (!reader_.Next(&gap)) return Fail(absl::StrCat("topk position of entry ", taken_, " is cut off"));
    } else {
      // Wraps around, and so is refused, when positions do not ascend.
      gap = uint64_t{wire::Load<uint32_t>(positions_.data() + taken_ * sizeof(uint32_t))} - next_;
    }
    if (gap >= n_ - next_) {
      return Fail(absl::StrCat("topk position of entry ", taken_, " is not in [", next_, ", ", n_, ")"));
    }
    position_ = next_ + gap;
    next_ = position_ + 1;
    value_ = LoadValue(format_, values_.data(), taken_);
    if (!std::isfinite(value_)) return Fail(absl::StrCat("topk value of entry ", taken_, " is ", value_));
    ++taken_;
  }

 private:
  bool ReadHeader(wire::Bytes payload) {
    wire::Reader reader(payload);
    const uint32_t count = reader.Get<uint32_t>();
    const uint8_t coding = reader.Get<uint8_t>();
    const uint8_t parameter = reader.Get<uint8_t>();
    const uint8_t format = reader.Get<uint8_t>();
    const uint8_t reserved = reader.Get<uint8_t>();
    if (!reader.ok()) {
      Fail("topk payload is shorter than its header");
      return false;
    }
    rice_ = coding == static_cast<uint8_t>(wire::IndexCoding::kRice);
    if (coding > static_cast<uint8_t>(wire::IndexCoding::kRice) || reserved != 0 ||
        parameter > (rice_ ? kMaxRiceParameter : 0) ||
        format > static_cast<uint8_t>(wire::ValueFormat::kBf16)) {
      Fail(absl::StrCat("topk payload has index coding ", coding, " with parameter ", parameter,
                        ", value format ", format, " and ", reserved, " where 0 belongs"));
      return false;
    }
    format_ = static_cast<wire::ValueFormat>(format);
    const size_t values = count * ValueBytes(format_);
    if (count > n_ || values > reader.remaining()) {
      Fail(absl::StrCat("topk payload of ", payload.size(), " bytes says it has ", count, " of ", n_,
                        " elements"));
      return false;
    }
    count_ = count;
    positions_ = reader.GetBytes(reader.remaining() - values);
    values_ = reader.GetBytes(reader.remaining());
    reader_ = RiceReader(positions_, parameter);
    const size_t unit =
        rice_ ? positions_.size() % sizeof(uint32_t) : positions_.size() - count_ * sizeof(uint32_t);
    if (unit != 0) {
      Fail(absl::StrCat("topk payload has ", positions_.size(), " bytes for ", count_, " positions"));
      return false;
    }
    return true;
  }

  void Finish() {
    position_ = kEnd;
    if (rice_ && !reader_.AtEnd()) Fail("topk payload has bytes behind its last position");
  }

  void Fail(absl::string_view what) {
    position_ = kEnd;
    taken_ = count_;
    rice_ = false;
    status_ = absl::DataLossError(what);
  }

  size_t n_ = 0;
  size_t count_ = 0;
  size_t taken_ = 0;  // entries read, with the current one
  wire::Bytes positions_;
  wire::Bytes values_;
  RiceReader reader_;
  uint64_t next_ = 0;  // the least position that the next entry can have
  uint64_t position_ = kEnd;
  absl::Status status_;
  float value_ = 0.0f;
  bool rice_ = false;
  wire::ValueFormat format_ = wire::ValueFormat::kFp32;
};

// All entries, in order: positions into `positions`, values to put(entry, value).
template <typename Put>
absl::StatusOr<size_t> ReadEntries(wire::Bytes payload, size_t n, absl::Span<uint32_t> positions,
                                   const Put& put) {
  Entries entries;
  entries.Open(payload, n);
  if (entries.count() > positions.size()) {
    return absl::DataLossError(absl::StrCat("topk payload has ", entries.count(),
                                            " positions, more than the ", positions.size(),
                                            " that its density allows"));
  }
  uint32_t* const to = positions.data();
  for (size_t i = 0; entries.position() != Entries::kEnd; ++i, entries.Advance()) {
    to[i] = static_cast<uint32_t>(entries.position());
    put(i, entries.value());
  }
  if (!entries.status().ok()) return entries.status();
  return entries.count();
}

}  // namespace terse::topk

#endif  // TERSE_COMPRESSORS_TOPK_ENTRIES_H_
