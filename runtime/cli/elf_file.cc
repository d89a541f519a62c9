// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/elf_file.h"

#include <elf.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>

namespace terse::cli {
namespace {

constexpr uint64_t kMaxNames = uint64_t{64} << 20;  // bytes of a table of strings
constexpr uint64_t kMaxSymbols = uint64_t{2} << 20;
constexpr uint64_t kMaxDynamic = uint64_t{1} << 16;  // entries
constexpr uint64_t kMaxName = 4096;
#if defined(__x86_64__)
constexpr uint16_t kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr uint16_t kMachine = EM_AARCH64;
#else
constexpr uint16_t kMachine = EM_NONE;  // taken as it is
#endif

struct Damaged : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file, read where it is asked for. Reads beyond its end throw.
class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {
    struct stat facts {};
    if (fstat(descriptor, &facts) == 0 && facts.st_size > 0) size_ = static_cast<uint64_t>(facts.st_size);
  }
  uint64_t size() const { return size_; }

  void Read(uint64_t offset, void* to, uint64_t bytes, const char* what) const {
    if (offset > size_ || bytes > size_ - offset) {
      throw Damaged(std::string(what) + " would be beyond the end of the file");
    }
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t n = pread(descriptor_, at, static_cast<size_t>(bytes), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw Damaged(std::string(what) + " cannot be read");
      at += n;
      offset += static_cast<uint64_t>(n);
      bytes -= static_cast<uint64_t>(n);
    }
  }
  template <typename Entry>
  std::vector<Entry> Table(uint64_t offset, uint64_t count, uint64_t limit, const char* what) const {
    if (count > limit) throw Damaged(std::string(what) + " has more entries than can be");
    if (offset > size_ || count > (size_ - offset) / sizeof(Entry)) {
      throw Damaged(std::string(what) + " would be beyond the end of the file");
    }
    std::vector<Entry> entries(static_cast<size_t>(count));
    if (count > 0) Read(offset, entries.data(), count * sizeof(Entry), what);
    return entries;
  }

 private:
  int descriptor_;
  uint64_t size_ = 0;
};

// A table of strings that end with a zero.
class Names {
 public:
  Names() = default;
  Names(const File& file, uint64_t offset, uint64_t bytes)
      : text_(file.Table<char>(offset, bytes, kMaxNames, "the names' table")) {}

  std::string At(uint64_t offset) const {
    if (offset >= text_.size()) throw Damaged("a name would be beyond its table");
    const char* const begin = text_.data() + offset;
    const auto room = static_cast<size_t>(std::min<uint64_t>(text_.size() - offset, kMaxName));
    const auto* const end = static_cast<const char*>(std::memchr(begin, '\0', room));
    if (end == nullptr) throw Damaged("a name has no end");
    return {begin, end};
  }

 private:
  std::vector<char> text_;
};

// Where an address of the running program is in the file.
uint64_t OffsetOf(const std::vector<Elf64_Phdr>& segments, uint64_t address) {
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
    const uint64_t within = address - segment.p_vaddr;
    if (within < segment.p_filesz && segment.p_offset <= UINT64_MAX - within)
      return segment.p_offset + within;
  }
  throw Damaged("an address is in no segment");
}

bool HasMpiInIt(const std::string& name) { return strcasestr(name.c_str(), "mpi") != nullptr; }

class Reader {
 public:
  Reader(const File& file, ElfFile* elf) : file_(file), elf_(elf) {}

  void Run() {
    Elf64_Ehdr header;
    file_.Read(0, &header, sizeof(header), "the header");
    if (header.e_phnum > 0 && header.e_phentsize != sizeof(Elf64_Phdr)) {
      throw Damaged("its segments have another size than they should");
    }
    segments_ = file_.Table<Elf64_Phdr>(header.e_phoff, header.e_phnum, UINT16_MAX, "the segments' table");
    // Sections are for linkers: a program runs without, and some tools cut them off.
    if (header.e_shnum > 0 && header.e_shentsize == sizeof(Elf64_Shdr)) {
      sections_ = file_.Table<Elf64_Shdr>(header.e_shoff, header.e_shnum, UINT16_MAX, "the sections' table");
    }
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type == PT_INTERP) {
        elf_->interpreter = Names(file_, segment.p_offset, std::min(segment.p_filesz, kMaxName)).At(0);
      }
      if (segment.p_type == PT_DYNAMIC) Dynamic(segment);
    }
    OwnSymbols();
  }

 private:
  void Dynamic(const Elf64_Phdr& segment) {
    elf_->dynamic = true;
    const auto entries = file_.Table<Elf64_Dyn>(segment.p_offset, segment.p_filesz / sizeof(Elf64_Dyn),
                                                kMaxDynamic, "the dynamic section");
    uint64_t names_at = 0;
    uint64_t names_bytes = 0;
    uint64_t symbols_at = 0;
    uint64_t hash_at = 0;
    const auto end = std::find_if(entries.begin(), entries.end(),
                                  [](const Elf64_Dyn& entry) { return entry.d_tag == DT_NULL; });
    for (auto entry = entries.begin(); entry != end; ++entry) {
      if (entry->d_tag == DT_STRTAB) names_at = entry->d_un.d_ptr;
      if (entry->d_tag == DT_STRSZ) names_bytes = entry->d_un.d_val;
      if (entry->d_tag == DT_SYMTAB) symbols_at = entry->d_un.d_ptr;
      if (entry->d_tag == DT_HASH) hash_at = entry->d_un.d_ptr;
    }
    if (names_at == 0) return;
    const Names names(file_, OffsetOf(segments_, names_at), names_bytes);
    for (auto entry = entries.begin(); entry != end; ++entry) {
      if (entry->d_tag == DT_NEEDED) elf_->needed.push_back(names.At(entry->d_un.d_val));
      if (entry->d_tag == DT_SONAME) elf_->soname = names.At(entry->d_un.d_val);
      if (entry->d_tag == DT_RPATH) elf_->rpath = names.At(entry->d_un.d_val);
      if (entry->d_tag == DT_RUNPATH) elf_->runpath = names.At(entry->d_un.d_val);
    }
    if (symbols_at == 0) return;
    const uint64_t count = DynamicSymbols(symbols_at, names_at, hash_at);
    const auto symbols = file_.Table<Elf64_Sym>(OffsetOf(segments_, symbols_at), count, kMaxSymbols,
                                                "the dynamic symbols' table");
    for (const Elf64_Sym& symbol : symbols) {
      if (symbol.st_name == 0) continue;
      (symbol.st_shndx == SHN_UNDEF ? elf_->undefined : elf_->defined).push_back(names.At(symbol.st_name));
    }
  }

  // How many there are is written in the section, or in the old hash table, and else follows from what
  // linkers put behind it.
  uint64_t DynamicSymbols(uint64_t symbols_at, uint64_t names_at, uint64_t hash_at) const {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type == SHT_DYNSYM && section.sh_addr == symbols_at) {
        return section.sh_size / sizeof(Elf64_Sym);
      }
    }
    if (hash_at != 0) {
      uint32_t sizes[2];  // buckets, chains: one for each symbol
      file_.Read(OffsetOf(segments_, hash_at), sizes, sizeof(sizes), "the hash table");
      return sizes[1];
    }
    return names_at > symbols_at ? (names_at - symbols_at) / sizeof(Elf64_Sym) : 0;
  }

  void OwnSymbols() {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_SYMTAB) continue;
      if (section.sh_link >= sections_.size()) throw Damaged("its symbols have no names");
      const Elf64_Shdr& text = sections_[section.sh_link];
      const auto symbols = file_.Table<Elf64_Sym>(section.sh_offset, section.sh_size / sizeof(Elf64_Sym),
                                                  kMaxSymbols, "the symbols' table");
      const Names names(file_, text.sh_offset, text.sh_size);
      elf_->has_symbols = true;
      for (const Elf64_Sym& symbol : symbols) {
        if (symbol.st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol.st_info) != STT_FUNC) continue;
        if (std::string name = names.At(symbol.st_name); HasMpiInIt(name)) {
          elf_->own_mpi_names.push_back(std::move(name));
        }
      }
    }
  }

  const File& file_;
  ElfFile* elf_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<Elf64_Shdr> sections_;
};

ElfFile Failed(ElfState state, const std::string& error) {
  ElfFile elf;
  elf.state = state;
  elf.error = error;
  return elf;
}

ElfFile Read(const File& file) {
  unsigned char ident[EI_NIDENT] = {};
  uint16_t type_and_machine[2] = {};
  if (file.size() < SELFMAG) return Failed(ElfState::kNoElf, "no ELF file");
  file.Read(0, ident, SELFMAG, "the mark");
  if (std::memcmp(ident, ELFMAG, SELFMAG) != 0) return Failed(ElfState::kNoElf, "no ELF file");
  file.Read(0, ident, sizeof(ident), "the header");
  file.Read(sizeof(ident), type_and_machine, sizeof(type_and_machine), "the header");
  if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB) {
    return Failed(ElfState::kForeign, "not of 64 bits, or with its bytes in the other order");
  }
  if (kMachine != EM_NONE && type_and_machine[1] != kMachine) {
    return Failed(ElfState::kForeign, "for another machine (ELF machine " +
                                          std::to_string(type_and_machine[1]) + ", this one is " +
                                          std::to_string(kMachine) + ")");
  }
  ElfFile elf;
  Reader(file, &elf).Run();
  return elf;
}

}  // namespace

ElfFile ReadElf(const std::string& path) {
  // Not blocking: what is named may be a pipe, which has nobody at its other end.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return Failed(ElfState::kUnreadable, std::strerror(errno));
  ElfFile elf;
  try {
    elf = Read(File(descriptor));
  } catch (const Damaged& error) {
    elf = Failed(ElfState::kDamaged, error.what());
  }
  close(descriptor);
  return elf;
}

}  // namespace terse::cli
