// SPDX-License-Identifier: Apache-2.0
//
// What identifies an all-reduce to all ranks alike: how many elements of what type, summed by what, and in
// which form it was called. Nothing in it may differ between the ranks of a call, so everything that is
// decided from signatures is decided alike everywhere. Addresses, MPI_IN_PLACE and the language's binding
// may differ, so they are no part of it.
#ifndef TERSE_RUNTIME_INTERCEPT_SIGNATURE_H_
#define TERSE_RUNTIME_INTERCEPT_SIGNATURE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace terse::intercept {

enum class Form : uint8_t { kBlocking, kNonblocking, kPersistent };
// Which interface the program called: C (also C++ and Python), mpif.h and `use mpi`, or `use mpi_f08`.
enum class Binding : uint8_t { kC, kMpifH, kMpiF08 };

inline constexpr int16_t kNotPredefined = -1;

struct Signature {
  int64_t count = 0;
  int32_t type_size = 0;          // bytes of data in one element
  int16_t type = kNotPredefined;  // index into Vocabulary::types
  int16_t op = kNotPredefined;    // index into Vocabulary::ops
  Form form = Form::kBlocking;

  friend bool operator==(const Signature&, const Signature&) = default;

  int64_t bytes() const { return count * type_size; }

  // The same on every rank; never a pointer or a handle. Without the size of a derived type, which MPI is not
  // asked for before it has taken the call.
  uint64_t Hash() const {
    const int32_t known_size = type == kNotPredefined ? 0 : type_size;
    uint64_t hash = static_cast<uint64_t>(count) * 0x9e3779b97f4a7c15u;
    hash ^= (static_cast<uint64_t>(static_cast<uint32_t>(known_size)) << 32) |
            (static_cast<uint64_t>(static_cast<uint16_t>(type)) << 16) | static_cast<uint16_t>(op);
    hash = (hash ^ (hash >> 29)) * 0xbf58476d1ce4e5b9u + static_cast<uint64_t>(form);
    return hash ^ (hash >> 32);
  }
};

// The name of the tensor that a call is: the name of its type, its elements, and how many calls of the same
// signature come before it in the period.
inline std::string TensorName(const std::string& type, int64_t count, Form form, int32_t number) {
  return type + "." + std::to_string(count) + "." +
         (form == Form::kBlocking     ? ""
          : form == Form::kPersistent ? "persistent."
                                      : "nonblocking.") +
         std::to_string(number);
}

// The names of an MPI's predefined types and operations, in the order of its mpi.h.
struct Vocabulary {
  // kReal: one IEEE number of 4 or 8 bytes; kHalf: one of 2
  enum class TypeKind : uint8_t { kReal, kHalf, kOther };
  struct Type {
    std::string name;
    TypeKind kind = TypeKind::kOther;
  };
  std::vector<Type> types;
  std::vector<std::string> ops;
  int16_t sum = kNotPredefined;  // the index of MPI_SUM
};

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_SIGNATURE_H_
