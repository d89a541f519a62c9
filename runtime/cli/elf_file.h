// SPDX-License-Identifier: Apache-2.0
//
// What the loader would read of a program or a library: an ELF file of 64 bits for this kind of machine.
// Files are a user's, and may be damaged or hostile: every offset and size is checked against the file's
// before it is used, tables and names have limits, and nothing of the file is run.
#ifndef TERSE_RUNTIME_CLI_ELF_FILE_H_
#define TERSE_RUNTIME_CLI_ELF_FILE_H_

#include <string>
#include <vector>

namespace terse::cli {

enum class ElfState {
  kRead,        // all below is known
  kUnreadable,  // cannot be opened
  kNoElf,       // another kind of file
  kForeign,     // of another machine, or of 32 bits
  kDamaged,     // says something of itself that cannot be
};

struct ElfFile {
  ElfState state = ElfState::kRead;
  std::string error;  // of the other states: what is wrong

  bool dynamic = false;     // has a dynamic section: the loader has to do with it
  std::string interpreter;  // that loader; empty in libraries and in static programs
  std::string soname;
  std::string rpath;    // searched before LD_LIBRARY_PATH
  std::string runpath;  // searched after it
  std::vector<std::string> needed;
  std::vector<std::string> undefined;  // dynamic symbols that others must have
  std::vector<std::string> defined;    // dynamic symbols that others may use
  // Whether the full table of symbols was left in; and the functions of its own in there that have "mpi" in
  // their names, in any case.
  bool has_symbols = false;
  std::vector<std::string> own_mpi_names;
};

// Any thread.
ElfFile ReadElf(const std::string& path);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_ELF_FILE_H_
