// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/linked_libraries.h"

#include <sstream>

#include "runtime/cli/elf_file.h"

namespace terse::cli {

LinkedLibraries ListLinkedLibraries(const std::string& file, const JobVariables& variables) {
  LinkedLibraries libraries;
  // This command's own loader, and never the one that a file names for itself.
  const std::string loader = ReadElf("/proc/self/exe").interpreter;
  if (loader.empty()) {
    libraries.error = "this command has no loader to ask";
    return libraries;
  }
  // A name without a slash would be looked up as a library's.
  const Answer answer =
      Ask({loader, "--list", file.find('/') == std::string::npos ? "./" + file : file}, variables);
  if (answer.timed_out) {
    libraries.error = "the loader gave no answer";
    return libraries;
  }
  std::istringstream lines(answer.text);
  for (std::string line; std::getline(lines, line);) {
    // "\tlibm.so.6 => /lib/libm.so.6 (0x...)", "\tlibx.so => not found", "\t/lib/ld.so (0x...)"
    if (!line.starts_with('\t')) {
      if (libraries.error.empty() && answer.code != 0) libraries.error = line;
      continue;
    }
    const size_t arrow = line.find(" => ");
    std::string name = line.substr(1, arrow == std::string::npos ? arrow : arrow - 1);
    std::string path = arrow == std::string::npos ? name : line.substr(arrow + 4);
    for (std::string* const text : {&name, &path}) {
      if (const size_t address = text->rfind(" (0x"); address != std::string::npos) text->erase(address);
    }
    if (name == "statically linked") continue;
    if (path == "not found") path.clear();
    libraries.all.push_back({name, path});
  }
  if (answer.code != 0 && libraries.error.empty()) {
    libraries.error = "the loader ended with code " + std::to_string(answer.code);
  }
  return libraries;
}

std::string PathOf(const LinkedLibraries& libraries, const std::string& name) {
  for (const LinkedLibrary& library : libraries.all) {
    if (library.name == name) return library.path;
  }
  return "";
}

}  // namespace terse::cli
