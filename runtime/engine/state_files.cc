// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/state_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/wire/checksum.h"

namespace terse::engine {
namespace {

namespace fs = std::filesystem;

constexpr char kSavePrefix[] = "save-";
constexpr char kRankPrefix[] = "rank-";
constexpr char kSuffix[] = ".terse";
constexpr char kTemporary[] = ".tmp";

absl::Status SystemError(const std::string& path, absl::string_view doing, int error) {
  const std::string text = absl::StrCat(path, ": cannot ", doing, " it: ", std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(text) : absl::FailedPreconditionError(text);
}

// A decimal number as we write it, without signs, spaces or leading zeros.
template <typename Number>
bool ParseNumber(absl::string_view text, Number* number) {
  return absl::SimpleAtoi(text, number) && absl::StrCat(*number) == text;
}

struct FileName {
  uint32_t rank = 0;
  uint32_t world_size = 0;
};

bool ParseFileName(absl::string_view name, FileName* parsed) {
  if (!absl::ConsumePrefix(&name, kRankPrefix) || !absl::ConsumeSuffix(&name, kSuffix)) return false;
  const std::vector<absl::string_view> parts = absl::StrSplit(name, "-of-");
  return parts.size() == 2 && ParseNumber(parts[0], &parsed->rank) &&
         ParseNumber(parts[1], &parsed->world_size) && parsed->world_size <= wire::kMostStateRanks &&
         parsed->rank < parsed->world_size;
}

bool ParseSaveName(absl::string_view name, uint64_t* number) {
  return absl::ConsumePrefix(&name, kSavePrefix) && ParseNumber(name, number);
}

std::string SavePath(const std::string& directory, uint64_t number) {
  return absl::StrCat(directory, "/", kSavePrefix, number);
}

// What a folder's own content says, a file that was renamed in it, say, becomes durable with it.
absl::Status SyncFolder(const std::string& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return SystemError(path, "open", errno);
  const int error = fsync(folder) == 0 ? 0 : errno;
  close(folder);
  return error == 0 ? absl::OkStatus() : SystemError(path, "make durable", error);
}

StateSave ReadSave(const fs::path& folder, uint64_t number) {
  StateSave save{.number = number, .world_size = 0, .ranks = {}};
  std::error_code error;
  bool mixed = false;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    FileName file;
    if (!ParseFileName(it->path().filename().string(), &file)) continue;
    mixed |= save.world_size != 0 && save.world_size != file.world_size;
    save.world_size = file.world_size;
    save.ranks.push_back(file.rank);
  }
  if (mixed) save.world_size = 0;
  std::sort(save.ranks.begin(), save.ranks.end());
  return save;
}

}  // namespace

bool StateSave::Has(uint32_t rank) const { return std::binary_search(ranks.begin(), ranks.end(), rank); }

absl::StatusOr<std::vector<StateSave>> ListSaves(const std::string& directory) {
  std::vector<StateSave> saves;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    uint64_t number = 0;
    if (ParseSaveName(it->path().filename().string(), &number)) saves.push_back(ReadSave(it->path(), number));
  }
  if (error) return SystemError(directory, "list", error.value());
  std::sort(saves.begin(), saves.end(),
            [](const StateSave& a, const StateSave& b) { return a.number > b.number; });
  return saves;
}

absl::Status MakeSave(const std::string& directory, uint64_t number) {
  const std::string folder = SavePath(directory, number);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return SystemError(folder, "make", error.value());
  return SyncFolder(directory);
}

void RemoveOtherSaves(const std::string& directory, uint64_t number) {
  const absl::StatusOr<std::vector<StateSave>> saves = ListSaves(directory);
  if (!saves.ok()) return;
  for (const StateSave& save : *saves) {
    std::error_code ignored;  // another rank may be at it as well
    if (save.number != number) fs::remove_all(SavePath(directory, save.number), ignored);
  }
}

std::string StateFilePath(const std::string& directory, uint64_t number, uint32_t rank, uint32_t world_size) {
  return absl::StrCat(SavePath(directory, number), "/", kRankPrefix, rank, "-of-", world_size, kSuffix);
}

StateFileWriter::StateFileWriter(std::string path, int file)
    : path_(std::move(path)), temporary_(path_ + kTemporary), file_(file), hash_(wire::Fnv1a({})) {}

absl::StatusOr<std::unique_ptr<StateFileWriter>> StateFileWriter::Create(const std::string& path) {
  const std::string temporary = path + kTemporary;
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file < 0) return SystemError(temporary, "create", errno);
  return std::unique_ptr<StateFileWriter>(new StateFileWriter(path, file));
}

StateFileWriter::~StateFileWriter() {
  if (file_ < 0) return;
  close(file_);
  unlink(temporary_.c_str());
}

absl::Status StateFileWriter::Write(wire::Bytes bytes, uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return SystemError(temporary_, "write", errno);
    bytes.remove_prefix(static_cast<size_t>(written));
    at += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

absl::Status StateFileWriter::Append(wire::StateSection section, wire::Bytes body) {
  const std::vector<std::byte> sealed = wire::SealStateSection(section, body);
  if (absl::Status status = Write(sealed, bytes_); !status.ok()) return status;
  ++sections_;
  bytes_ += sealed.size();
  // The checksum stands for the section.
  hash_ = wire::Fnv1a(wire::Bytes(sealed).last(wire::kStateChecksumBytes), hash_);
  return absl::OkStatus();
}

absl::Status StateFileWriter::Seal(wire::StateHeader header) {
  header.sections = sections_;
  header.file_bytes = bytes_;
  if (absl::Status status = Write(wire::EncodeStateHeader(header), 0); !status.ok()) return status;
  return fsync(file_) == 0 ? absl::OkStatus() : SystemError(temporary_, "make durable", errno);
}

absl::Status StateFileWriter::Publish() {
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return SystemError(temporary_, "rename", errno);
  close(std::exchange(file_, -1));
  return SyncFolder(fs::path(path_).parent_path().string());
}

StateFileReader::StateFileReader(std::string path, int file) : path_(std::move(path)), file_(file) {}

StateFileReader::~StateFileReader() { close(file_); }

absl::Status StateFileReader::Named(const absl::Status& status) const {
  return {status.code(), absl::StrCat(path_, ": ", status.message())};
}

absl::StatusOr<std::unique_ptr<StateFileReader>> StateFileReader::Open(const std::string& directory,
                                                                       uint64_t save, uint32_t rank,
                                                                       uint32_t world_size) {
  const std::string path = StateFilePath(directory, save, rank, world_size);
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return SystemError(path, "open", errno);
  std::unique_ptr<StateFileReader> reader(new StateFileReader(path, file));
  struct stat facts {};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": it is no plain file"));
  }
  const auto bytes = static_cast<uint64_t>(facts.st_size);
  std::vector<std::byte> head(std::min<uint64_t>(bytes, wire::kStateHeaderBytes));
  if (absl::Status status = reader->Read(absl::MakeSpan(head)); !status.ok()) return status;
  const absl::StatusOr<wire::StateHeader> header = wire::ParseStateHeader(head);
  if (!header.ok()) return reader->Named(header.status());
  const auto bad = [&](auto... words) { return reader->Named(absl::DataLossError(absl::StrCat(words...))); };
  if (header->file_bytes != bytes) {
    return bad("it has ", bytes, " bytes, its header says ", header->file_bytes,
               ": it was cut off or added to");
  }
  if (header->save != save || header->rank != rank || header->world_size != world_size) {
    return bad("it is the file of rank ", header->rank, " of ", header->world_size, " in save ", header->save,
               ": put it back there");
  }
  reader->header_ = *header;
  return reader;
}

absl::Status StateFileReader::Read(wire::MutableBytes to) {
  while (!to.empty()) {
    const ssize_t got = pread(file_, to.data(), to.size(), static_cast<off_t>(at_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path_, "read", errno);
    if (got == 0) return Named(absl::DataLossError("it became shorter while it was read"));
    to.remove_prefix(static_cast<size_t>(got));
    at_ += static_cast<uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<wire::Bytes> StateFileReader::Next(wire::StateSection section) {
  section_.resize(std::min<uint64_t>(header_.file_bytes - at_, wire::kStateSectionBytes));
  if (absl::Status status = Read(absl::MakeSpan(section_)); !status.ok()) return status;
  const absl::StatusOr<wire::StateSectionHeader> head =
      wire::ParseStateSectionHeader(section_, header_.file_bytes - at_);
  if (!head.ok()) return Named(head.status());
  if (head->section != section) {
    return Named(
        absl::DataLossError(absl::StrCat("section ", static_cast<uint32_t>(head->section), " where section ",
                                         static_cast<uint32_t>(section), " was due")));
  }
  // Not more than the file has left, so that no number in it can ask for more memory than that.
  section_.resize(wire::kStateSectionBytes + head->body_bytes + wire::kStateChecksumBytes);
  if (absl::Status status = Read(absl::MakeSpan(section_).subspan(wire::kStateSectionBytes)); !status.ok()) {
    return status;
  }
  ++sections_;
  const absl::StatusOr<wire::Bytes> body = wire::OpenStateSection(section_);
  if (!body.ok()) return Named(body.status());
  return *body;
}

absl::Status StateFileReader::End() const {
  if (at_ == header_.file_bytes && sections_ == header_.sections) return absl::OkStatus();
  return Named(
      absl::DataLossError(absl::StrCat("it has ", header_.sections, " sections and ",
                                       header_.file_bytes - at_, " bytes behind the last of ", sections_)));
}

}  // namespace terse::engine
