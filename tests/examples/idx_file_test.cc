// SPDX-License-Identifier: Apache-2.0
//
// The reader of the data files: what it reads, and that no damage to a file goes unnoticed.
#include "examples/common/idx_file.h"

#include <gmock/gmock.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace terse::examples {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Two images of 2 x 3.
const std::string kImages = std::string("\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x03", 16) +
                            std::string("\0\x01\x02\x03\x04\xff", 6) + "abcdef";

class IdxFileTest : public testing::Test {
 protected:
  ~IdxFileTest() override { std::remove(path_.c_str()); }

  const std::string& WritePlain(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return path_;
  }

  const std::string& WriteGzip(const std::string& bytes) {
    const gzFile file = gzopen(path_.c_str(), "wb");
    EXPECT_EQ(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())),
              static_cast<int>(bytes.size()));
    EXPECT_EQ(gzclose(file), Z_OK);
    return path_;
  }

  std::string ReadBack() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string path_ = testing::TempDir() + "idx_file_test_" + std::to_string(getpid());
};

void ExpectRefused(const std::string& path, const std::string& because, int dimensions = 3) {
  EXPECT_THAT([&] { ReadIdxFile(path, dimensions); },
              ThrowsMessage<std::runtime_error>(testing::AllOf(HasSubstr(path), HasSubstr(because))));
}

TEST_F(IdxFileTest, ReadsGzippedAndPlainFiles) {
  for (const std::string& path : {WriteGzip(kImages), WritePlain(kImages)}) {
    const IdxArray array = ReadIdxFile(path, 3);
    EXPECT_THAT(array.shape, ElementsAre(2, 2, 3));
    EXPECT_THAT(array.values, ElementsAre(0, 1, 2, 3, 4, 255, 'a', 'b', 'c', 'd', 'e', 'f'));
  }
}

TEST_F(IdxFileTest, ReadsMoreThanOneChunk) {
  std::string bytes("\0\0\x08\x01\0\x20\0\x01", 8);  // 2 MiB and a byte
  bytes.append(size_t{2} << 20, 'x');
  bytes += 'y';
  const IdxArray array = ReadIdxFile(WriteGzip(bytes), 1);
  EXPECT_EQ(array.values.size(), (size_t{2} << 20) + 1);
  EXPECT_EQ(array.values.front(), 'x');
  EXPECT_EQ(array.values.back(), 'y');
}

TEST_F(IdxFileTest, RefusesAFileThatIsNotThere) { ExpectRefused(path_, "cannot be opened"); }

TEST_F(IdxFileTest, RefusesEveryTruncation) {
  for (size_t length = 0; length < kImages.size(); ++length) {
    ExpectRefused(WritePlain(kImages.substr(0, length)), "ends ");
  }
}

TEST_F(IdxFileTest, RefusesSurplusBytes) {
  ExpectRefused(WriteGzip(kImages + "g"), "goes on after its 12 elements");
}

TEST_F(IdxFileTest, RefusesAnotherMagicNumber) {
  std::string bytes = kImages;
  bytes[1] = 'P';
  ExpectRefused(WriteGzip(bytes), "is no IDX file");
}

TEST_F(IdxFileTest, RefusesAnotherElementType) {
  std::string bytes = kImages;
  bytes[2] = 0x0d;
  ExpectRefused(WriteGzip(bytes), "has element type 13");
}

TEST_F(IdxFileTest, RefusesAnotherNumberOfDimensions) {
  ExpectRefused(WriteGzip(kImages), "has 3 dimensions, expected 1", 1);
}

TEST_F(IdxFileTest, RefusesImpossibleSizesWithoutAllocatingThem) {
  std::string zero = kImages;
  zero[11] = 0;
  ExpectRefused(WriteGzip(zero), "impossible size 0 in dimension 1");
  // 2^31 * 2^31 elements: the product would overflow.
  std::string huge = kImages;
  huge[4] = huge[8] = '\x80';
  ExpectRefused(WriteGzip(huge), "impossible size");
}

TEST_F(IdxFileTest, RefusesEveryTruncationOfTheGzipStream) {
  WriteGzip(kImages);
  const std::string packed = ReadBack();
  // Shorter files lose the mark by which zlib knows gzip, and are refused as plain files.
  for (size_t length = 0; length < packed.size(); ++length) {
    EXPECT_THROW(ReadIdxFile(WritePlain(packed.substr(0, length)), 3), std::runtime_error) << length;
  }
}

TEST_F(IdxFileTest, RefusesAFailedChecksum) {
  WriteGzip(kImages);
  std::string packed = ReadBack();
  packed[packed.size() - 8] ^= 1;
  ExpectRefused(WritePlain(packed), "cannot be read");
}

}  // namespace
}  // namespace terse::examples
