// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/elf_file.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace terse::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string Bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A file of these bytes, read.
ElfFile ReadBytes(const std::string& bytes) {
  const std::string path = ::testing::TempDir() + "terse_elf_" + std::to_string(getpid());
  std::ofstream(path, std::ios::binary) << bytes;
  ElfFile elf = ReadElf(path);
  std::filesystem::remove(path);
  return elf;
}

TEST(ElfFile, ReadsWhatTheLoaderReads) {
  const ElfFile elf = ReadElf("/proc/self/exe");
  ASSERT_EQ(elf.state, ElfState::kRead) << elf.error;
  EXPECT_TRUE(elf.dynamic);
  EXPECT_THAT(elf.interpreter, HasSubstr("ld-linux"));
  EXPECT_THAT(elf.needed, Contains(HasSubstr("libc.so")));
  EXPECT_THAT(elf.undefined, Contains("close"));
  EXPECT_THAT(elf.undefined, Contains("pread"));
  EXPECT_THAT(elf.rpath + elf.runpath, Not(IsEmpty()));
  EXPECT_THAT(elf.soname, IsEmpty());
}

TEST(ElfFile, ReadsLibraries) {
  const ElfFile elf = ReadElf(TERSE_BINARY_DIR "/lib/libterse.so");
  ASSERT_EQ(elf.state, ElfState::kRead) << elf.error;
  EXPECT_THAT(elf.interpreter, IsEmpty());
  EXPECT_EQ(elf.soname, "libterse.so.0");
  EXPECT_THAT(elf.defined, Contains("terse_version"));
  EXPECT_THAT(elf.undefined, Contains("malloc"));
}

TEST(ElfFile, TellsWhatIsNone) {
  EXPECT_EQ(ReadElf("/nowhere/at/all").state, ElfState::kUnreadable);
  EXPECT_EQ(ReadElf("/dev/null").state, ElfState::kNoElf);
  EXPECT_NE(ReadElf("/tmp").state, ElfState::kRead);
  EXPECT_EQ(ReadBytes("").state, ElfState::kNoElf);
  EXPECT_EQ(ReadBytes("#!/bin/sh\n").state, ElfState::kNoElf);
  // A pipe without a writer does not keep it waiting.
  const std::string pipe = ::testing::TempDir() + "terse_pipe_" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(ReadElf(pipe).state, ElfState::kNoElf);
  std::filesystem::remove(pipe);
}

// A small library, so that all of it can be tried.
std::string Small() { return Bytes(TERSE_SMALL_ELF); }

TEST(ElfFile, CutAnywhereIsDamaged) {
  const std::string whole = Small();
  ASSERT_EQ(ReadBytes(whole).state, ElfState::kRead);
  for (size_t size = SELFMAG; size < whole.size(); size += size < 1024 ? 1 : 257) {
    const ElfFile elf = ReadBytes(whole.substr(0, size));
    EXPECT_EQ(elf.state, ElfState::kDamaged) << "cut at " << size;
    EXPECT_THAT(elf.error, Not(IsEmpty()));
  }
}

// Whatever any eight bytes of it say: an answer, no crash and no memory without bound.
TEST(ElfFile, AnyNumberInItMayBeWrong) {
  const std::string whole = Small();
  for (const uint64_t value : {~uint64_t{0}, uint64_t{1} << 63, uint64_t{0x7ffffffffffffff0},
                               uint64_t{0x40000000}, uint64_t{whole.size() - 1}, uint64_t{0}}) {
    for (size_t at = SELFMAG; at + 8 <= whole.size(); at += 8) {
      std::string wrong = whole;
      std::memcpy(wrong.data() + at, &value, sizeof(value));
      const ElfFile elf = ReadBytes(wrong);
      EXPECT_LT(elf.needed.size() + elf.defined.size() + elf.undefined.size(), whole.size()) << at;
    }
  }
}

TEST(ElfFile, OtherMachinesAreNamed) {
  std::string other = Small();
  other[18] = 8;  // MIPS
  other[19] = 0;
  EXPECT_EQ(ReadBytes(other).state, ElfState::kForeign);
  EXPECT_THAT(ReadBytes(other).error, HasSubstr("another machine"));
  other = Small();
  other[EI_CLASS] = ELFCLASS32;
  EXPECT_EQ(ReadBytes(other).state, ElfState::kForeign);
}

}  // namespace
}  // namespace terse::cli
