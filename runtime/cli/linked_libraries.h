// SPDX-License-Identifier: Apache-2.0
//
// Which files the loader would load for a program or library, in this environment. It is the loader itself
// that is asked (what `ldd` does), so the search order is its own; nothing of the file is run.
#ifndef TERSE_RUNTIME_CLI_LINKED_LIBRARIES_H_
#define TERSE_RUNTIME_CLI_LINKED_LIBRARIES_H_

#include <string>
#include <vector>

#include "runtime/cli/process.h"

namespace terse::cli {

struct LinkedLibrary {
  std::string name;  // as it is asked for
  std::string path;  // empty: not found
};

struct LinkedLibraries {
  std::vector<LinkedLibrary> all;  // of the file, and of what it needs, each once
  std::string error;               // not empty: the loader refused the file, and why
};

// Of an ELF file for this machine; a static program has none.
LinkedLibraries ListLinkedLibraries(const std::string& file, const JobVariables& variables = {});

// The path under which a name was found, or empty.
std::string PathOf(const LinkedLibraries& libraries, const std::string& name);

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_LINKED_LIBRARIES_H_
