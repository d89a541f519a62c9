// SPDX-License-Identifier: Apache-2.0
//
// Little-endian coding of fixed-width numbers into caller-owned memory. Nothing of ours is ever sent as
// a C++ struct: every field of every frame, payload and file goes through these.
//
// Reader is for bytes that nobody vouches for (a socket, a file): it never reads past its end; once it
// has run out it stays failed and yields zeros, so a parser can read a whole record and check ok() once
// before it uses anything.
#ifndef TERSE_PROTO_WIRE_BYTES_H_
#define TERSE_PROTO_WIRE_BYTES_H_

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace terse::wire {

static_assert(std::endian::native == std::endian::little,
              "terse runs on little-endian machines; a big-endian port swaps bytes here");

using Bytes = absl::Span<const std::byte>;
using MutableBytes = absl::Span<std::byte>;

template <typename T>
concept WireNumber = std::integral<T> || std::floating_point<T>;

// Unaligned load and store of one number. The caller vouches for the room.
template <WireNumber T>
inline T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
template <WireNumber T>
inline void Store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(value));
}

// Appends numbers to a buffer of fixed capacity. Overflow does not write; it makes ok() false.
class Writer {
 public:
  explicit Writer(MutableBytes out) : out_(out) {}

  template <WireNumber T>
  void Put(T value) {
    if (std::byte* to = Take(sizeof(T))) Store(to, value);
  }
  void PutBytes(Bytes bytes) {
    if (std::byte* to = Take(bytes.size())) {
      if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    }
  }
  bool ok() const { return ok_; }
  size_t size() const { return at_; }

 private:
  std::byte* Take(size_t n) {
    if (!ok_ || n > out_.size() - at_) {
      ok_ = false;
      return nullptr;
    }
    std::byte* to = out_.data() + at_;
    at_ += n;
    return to;
  }

  MutableBytes out_;
  size_t at_ = 0;
  bool ok_ = true;
};

// Takes numbers from bytes of unknown origin.
class Reader {
 public:
  explicit Reader(Bytes in) : in_(in) {}

  template <WireNumber T>
  T Get() {
    const Bytes bytes = GetBytes(sizeof(T));
    return ok_ ? Load<T>(bytes.data()) : T{};
  }
  // The next n bytes, or an empty span (and ok() false) when fewer are left.
  Bytes GetBytes(size_t n) {
    if (!ok_ || n > remaining()) {
      ok_ = false;
      return {};
    }
    const Bytes out = in_.subspan(at_, n);
    at_ += n;
    return out;
  }
  size_t remaining() const { return in_.size() - at_; }
  bool ok() const { return ok_; }

 private:
  Bytes in_;
  size_t at_ = 0;
  bool ok_ = true;
};

}  // namespace terse::wire

#endif  // TERSE_PROTO_WIRE_BYTES_H_
