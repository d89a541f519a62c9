// SPDX-License-Identifier: Apache-2.0
#include "transport/mpi/process.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace terse::transport {
namespace {

struct Stat {
  char state = 0;
  uint64_t start_time = 0;
};

// Nothing when /proc has no such process or shows it in a form that is not known.
std::optional<Stat> ReadStat(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // The second field is the program's name in parentheses and may hold anything, ')' and ' ' included.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  Stat stat;
  fields >> stat.state;  // field 3
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  fields >> stat.start_time;  // field 22
  return fields.fail() ? std::nullopt : std::make_optional(stat);
}

}  // namespace

ProcessIdentity ThisProcess() {
  ProcessIdentity self;
  self.pid = getpid();
  if (const auto stat = ReadStat(self.pid)) self.start_time = stat->start_time;
  gethostname(self.host, sizeof(self.host) - 1);
  std::ifstream("/proc/sys/kernel/random/boot_id").getline(self.boot_id, sizeof(self.boot_id));
  return self;
}

bool SameNode(const ProcessIdentity& a, const ProcessIdentity& b) {
  return std::strncmp(a.host, b.host, sizeof(a.host)) == 0 &&
         std::strncmp(a.boot_id, b.boot_id, sizeof(a.boot_id)) == 0;
}

bool ProcessVisible(const ProcessIdentity& process) {
  const auto stat = ReadStat(process.pid);
  return stat.has_value() && stat->start_time == process.start_time && process.start_time != 0 &&
         stat->state != 'Z' && stat->state != 'X';
}

bool ProcessGone(const ProcessIdentity& process) { return !ProcessVisible(process); }

}  // namespace terse::transport
