// SPDX-License-Identifier: Apache-2.0
//
// Reads IDX files, the format of the MNIST family: a big-endian header (magic number, one 32-bit size
// per dimension) followed by unsigned bytes, usually gzipped.
#ifndef TERSE_EXAMPLES_COMMON_IDX_FILE_H_
#define TERSE_EXAMPLES_COMMON_IDX_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace terse::examples {

struct IdxArray {
  std::vector<int64_t> shape;   // outermost dimension first
  std::vector<uint8_t> values;  // row-major; its size is the product of `shape`
};

// Reads a whole file, gzipped or plain. Nothing in it is trusted: a wrong magic number or element type, a
// number of dimensions other than `dimensions`, sizes of zero or beyond 1 GiB, missing or surplus bytes
// and a failed gzip checksum each throw std::runtime_error, which names the file and what was wrong.
IdxArray ReadIdxFile(const std::string& path, int dimensions);

}  // namespace terse::examples

#endif  // TERSE_EXAMPLES_COMMON_IDX_FILE_H_
