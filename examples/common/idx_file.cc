// SPDX-License-Identifier: Apache-2.0
#include "examples/common/idx_file.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace terse::examples {
namespace {

constexpr uint8_t kUnsignedByte = 0x08;      // IDX's code of the only element type read here
constexpr int64_t kMaxElements = 1LL << 30;  // far above any data set of this format
constexpr size_t kChunk = size_t{1} << 20;   // memory grows with what was read, not with what was claimed

class GzipFile {
 public:
  explicit GzipFile(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rb")) {
    if (file_ == nullptr) Fail(std::string("cannot be opened: ") + std::strerror(errno));
  }
  ~GzipFile() { (void)gzclose_r(file_); }
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  // Up to `size` bytes; fewer only at the end of the file.
  size_t Read(uint8_t* to, size_t size) {
    const int got = gzread(file_, to, static_cast<unsigned>(size));
    int error = Z_OK;
    const char* detail = gzerror(file_, &error);
    // Z_BUF_ERROR is zlib's word for a gzip stream that breaks off.
    if (error == Z_BUF_ERROR) Fail("the gzip stream is cut off");
    if (got < 0 || error < 0) Fail(std::string("cannot be read: ") + detail);
    return static_cast<size_t>(got);
  }

  [[noreturn]] void Fail(const std::string& what) const { throw std::runtime_error(path_ + ": " + what); }

 private:
  std::string path_;
  gzFile file_;
};

uint32_t BigEndian32(const uint8_t* bytes) {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

}  // namespace

IdxArray ReadIdxFile(const std::string& path, int dimensions) {
  GzipFile file(path);
  std::array<uint8_t, 4> word;
  if (file.Read(word.data(), 4) != 4) file.Fail("ends within the magic number");
  if (word[0] != 0 || word[1] != 0) file.Fail("is no IDX file: it does not begin with two zero bytes");
  if (word[2] != kUnsignedByte) {
    file.Fail("has element type " + std::to_string(word[2]) + "; only unsigned bytes (8) are read");
  }
  if (word[3] != dimensions) {
    file.Fail("has " + std::to_string(word[3]) + " dimensions, expected " + std::to_string(dimensions));
  }

  IdxArray array;
  int64_t elements = 1;
  for (int d = 0; d < dimensions; ++d) {
    if (file.Read(word.data(), 4) != 4) file.Fail("ends within the header");
    const int64_t size = BigEndian32(word.data());
    if (size == 0 || size > kMaxElements / elements) {
      file.Fail("has an impossible size " + std::to_string(size) + " in dimension " + std::to_string(d));
    }
    elements *= size;
    array.shape.push_back(size);
  }

  const size_t expected = static_cast<size_t>(elements);
  while (array.values.size() < expected) {
    const size_t begin = array.values.size();
    const size_t want = std::min(kChunk, expected - begin);
    array.values.resize(begin + want);
    if (file.Read(array.values.data() + begin, want) != want) {
      file.Fail("ends before its " + std::to_string(expected) + " elements");
    }
  }
  // Also makes zlib check the checksum behind the data.
  uint8_t surplus = 0;
  if (file.Read(&surplus, 1) != 0) file.Fail("goes on after its " + std::to_string(expected) + " elements");
  return array;
}

}  // namespace terse::examples
