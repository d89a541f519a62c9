// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/environment.h"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <initializer_list>

namespace terse::cli {
namespace {

// The first of the variables that holds a whole number.
std::optional<int> FirstNumber(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const std::optional<std::string> text = GetEnvironment(name);
    if (!text) continue;
    int value = 0;
    const char* const end = text->data() + text->size();
    const auto [stopped, error] = std::from_chars(text->data(), end, value);
    if (error == std::errc() && stopped == end) return value;
  }
  return std::nullopt;
}

}  // namespace

ScopedEnvironment::ScopedEnvironment(const Variables& variables) {
  for (const auto& [name, value] : variables) {
    before_.emplace_back(name, GetEnvironment(name));
    setenv(name.c_str(), value.c_str(), 1);
  }
}

ScopedEnvironment::~ScopedEnvironment() {
  for (auto entry = before_.rbegin(); entry != before_.rend(); ++entry) {
    if (entry->second) {
      setenv(entry->first.c_str(), entry->second->c_str(), 1);
    } else {
      unsetenv(entry->first.c_str());
    }
  }
}

std::optional<std::string> GetEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return value;
}

std::string EnvironmentName(std::string_view key) {
  std::string name = "TERSE_";
  for (const char c : key) {
    name += c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

Launcher DetectLauncher() {
  Launcher launcher;
  const std::optional<int> rank = FirstNumber({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"});
  if (!rank) return launcher;
  launcher.present = true;
  launcher.rank = *rank;
  const std::optional<int> on_host =
      FirstNumber({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE", "PMI_SIZE"});
  if (on_host && *on_host > 0) launcher.ranks_on_host = *on_host;
  return launcher;
}

double AvailableMemory() {
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::string unit;
  double kilobytes = 0;
  while (info >> key >> kilobytes) {
    std::getline(info, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return 0;
}

}  // namespace terse::cli
