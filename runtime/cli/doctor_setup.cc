// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/doctor_setup.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "runtime/cli/elf_file.h"
#include "runtime/cli/environment.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/installed.h"
#include "runtime/cli/job.h"
#include "runtime/cli/kernels/kernel_paths.h"
#include "runtime/cli/linked_libraries.h"
#include "runtime/cli/process.h"
#include "runtime/cli/settings.h"
#include "terse/terse.h"

extern char** environ;

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kTerse[] = "terse";
constexpr char kMpi[] = "mpi";
constexpr char kTransports[] = "transports";
constexpr char kKernels[] = "kernels";
constexpr char kGpus[] = "gpus";
constexpr char kConfiguration[] = "configuration";
constexpr char kEnvironment[] = "environment";

bool Contains(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// Of what a command said; not what its loader had to say before.
std::string FirstLine(std::string text) {
  while (text.starts_with("ERROR: ld.so")) text.erase(0, std::min(text.find('\n'), text.size() - 1) + 1);
  return text.substr(0, text.find('\n'));
}

std::string VersionText(int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

// The file that a symbol of this process is in.
std::string FileOfSymbol(const char* name) {
  Dl_info info;
  const void* const found = dlsym(RTLD_DEFAULT, name);
  if (found == nullptr || dladdr(found, &info) == 0 || info.dli_fname == nullptr) return "?";
  std::error_code error;
  const fs::path path = fs::canonical(info.dli_fname, error);
  return error ? info.dli_fname : path.string();
}

// Why a library cannot be loaded; empty when it can.
std::string LoadFault(const std::string& file) {
  const Answer answer = AskChild([&]() -> std::string {
    if (dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return "loads";
    const char* const why = dlerror();
    return why == nullptr ? "cannot be loaded" : why;
  });
  if (answer.timed_out) return "loading it does not end";
  if (answer.text.empty()) return "loading it ended the process with code " + std::to_string(answer.code);
  return answer.text == "loads" ? "" : answer.text;
}

// The families whose launchers are on PATH.
std::set<std::string> ExamineLaunchers(Examination* examination) {
  std::set<std::string> families;
  std::set<std::string> seen;
  for (const char* name : {"mpirun", "mpirun.openmpi", "mpirun.mpich", "mpiexec.hydra"}) {
    const std::string file = FindProgram(name);
    std::error_code error;
    if (!Contains(file, "/") || !seen.insert(fs::canonical(file, error).string()).second) continue;
    const Answer answer = Ask({file, "--version"});
    std::string family;
    try {
      family = DetectLauncherKind({file}) == LauncherKind::kOpenMpi ? "openmpi" : "mpich";
    } catch (const CommandError&) {
      examination->Note(
          kMpi, name, file + ": " + FirstLine(answer.text),
          "it is neither Open MPI's nor Hydra, so `terse run` cannot tell its ranks what they need; "
          "set the variables of docs/preload.md by hand");
      continue;
    }
    std::string version = FirstLine(answer.text);
    if (const size_t at = answer.text.find("Version:"); family == "mpich" && at != std::string::npos) {
      const std::string line = FirstLine(answer.text.substr(at + 8));
      version = "Hydra " + line.substr(std::min(line.find_first_not_of(' '), line.size()));
    }
    families.insert(family);
    examination->Fine(kMpi, name, MpiName(family) + ", " + version + ", " + file);
  }
  if (seen.empty()) {
    examination->Note(kMpi, "mpirun", "not in PATH",
                      "MPI jobs need a launcher: put the folder of the job's mpirun into PATH");
  }
  return families;
}

void ExamineInstalled(const std::set<std::string>& families, Examination* examination) {
  for (const std::string& mpi : KnownMpis()) {
    const std::string name = "preload library, " + MpiName(mpi);
    std::string file;
    try {
      file = FindPreloadLibrary(mpi);
    } catch (const CommandError& error) {
      if (families.count(mpi) > 0) {
        examination->Wrong(kTerse, name, error.what(),
                           "jobs of this MPI cannot be intercepted; build Terse where that MPI is, or set "
                           "TERSE_PLUGIN_PATH");
      } else {
        examination->Fine(kTerse, name, "not installed, and neither is that MPI's launcher");
      }
      continue;
    }
    if (const std::string fault = LoadFault(file); !fault.empty()) {
      examination->Wrong(kTerse, name, file + ": " + fault, "install what is missing, or Terse again");
    } else {
      examination->Fine(kTerse, name, file);
    }
    try {
      const std::string folder = FindReplacementFolder(mpi);
      const std::string fault = ReplacementFault(mpi, folder);
      if (fault.empty()) {
        std::error_code error;
        examination->Fine(kTerse, "replacement of " + MpiName(mpi),
                          folder + ", before " + fs::canonical(fs::path(folder) / "mpi", error).string());
      } else {
        examination->Wrong(kTerse, "replacement of " + MpiName(mpi), folder,
                           fault + ". Until then --replace-mpi does not work for this MPI");
      }
    } catch (const CommandError& error) {
      examination->Note(kTerse, "replacement of " + MpiName(mpi), error.what(),
                        "without it programs that load MPI by dlopen are not seen");
    }
  }
}

void ExamineTerse(Examination* examination) {
  const int32_t version = terse_version();
  const std::string file = FileOfSymbol("terse_version");
  if (version == TERSE_VERSION_NUMBER) {
    examination->Fine(kTerse, "version", VersionText(version));
  } else {
    examination->Wrong(
        kTerse, "version",
        "the command is " + VersionText(TERSE_VERSION_NUMBER) + " and libterse is " + VersionText(version),
        "install both from one release; LD_LIBRARY_PATH may name a folder with another libterse.so");
  }
  // LD_LIBRARY_PATH goes before the folder that this command names for it.
  std::error_code error;
  const fs::path prefix = fs::canonical("/proc/self/exe", error).parent_path().parent_path();
  for (const char* folder : {"lib", TERSE_INSTALL_LIBDIR}) {
    const fs::path beside = prefix / folder / "libterse.so.0";
    if (!Exists(beside) || fs::equivalent(beside, file, error)) continue;
    examination->Wrong(kTerse, "libterse", file + " is loaded, and not " + beside.string(),
                       "jobs get that other Terse as well; take its folder out of LD_LIBRARY_PATH");
    return;
  }
  examination->Fine(kTerse, "libterse", file);
}

// Opening a group over a communicator in a process without MPI ends where MPI is asked for first, which is
// behind all that the plug-in's loading can say.
std::string MpiTransportFault(const std::string& mpi) {
  const Answer answer = AskChild([&]() -> std::string {
    // What is configured is another topic.
    std::vector<std::string> names;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text(*entry);
      if (text.starts_with("TERSE_") && !text.starts_with("TERSE_PLUGIN_PATH="))
        names.emplace_back(text.substr(0, text.find('=')));
    }
    for (const std::string& name : names) unsetenv(name.c_str());
    terse_group_t* group = nullptr;
    const terse_status_t status = terse_group_open_fcomm(0, mpi.c_str(), "method: allreduce", &group);
    return status == TERSE_OK ? "opened a group without MPI" : terse_last_error();
  });
  if (answer.timed_out) return "loading it does not end";
  if (answer.text.empty()) return "loading it ended the process with code " + std::to_string(answer.code);
  return Contains(answer.text, "MPI is not initialized") ? "" : answer.text;
}

void ExamineTransports(const std::set<std::string>& families, Examination* examination) {
  examination->Fine(kTransports, "inproc", "in libterse: threads of one process");
  for (const std::string& mpi : KnownMpis()) {
    const std::string file_name = "libterse_transport_mpi_" + mpi + ".so";
    std::string file;
    for (const fs::path& folder : InstalledFolders()) {
      if (file.empty() && Exists(folder / file_name)) file = folder / file_name;
    }
    const std::string fault = MpiTransportFault(mpi);
    if (fault.empty()) {
      std::string uses;
      for (const LinkedLibrary& library : ListLinkedLibraries(file).all) {
        if (library.name.starts_with("libmpi")) uses += ", with " + library.path;
      }
      examination->Fine(kTransports, "mpi_" + mpi, file + uses);
    } else if (families.count(mpi) > 0) {
      examination->Wrong(
          kTransports, "mpi_" + mpi, fault,
          "jobs of " + MpiName(mpi) + " cannot exchange compressed gradients until this is put right");
    } else {
      examination->Fine(kTransports, "mpi_" + mpi, "cannot be loaded: " + fault);
    }
  }
  // Others that lie beside them.
  for (const fs::path& folder : InstalledFolders()) {
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename();
      constexpr std::string_view kPrefix = "libterse_transport_";
      if (!name.starts_with(kPrefix) || !name.ends_with(".so") || name.starts_with("libterse_transport_mpi_"))
        continue;
      const std::string transport = name.substr(kPrefix.size(), name.size() - kPrefix.size() - 3);
      const std::string fault = LoadFault(entry.path());
      if (fault.empty()) {
        examination->Fine(kTransports, transport, entry.path());
      } else {
        examination->Note(kTransports, transport, "cannot be loaded: " + fault,
                          "install what is missing if the job is to use this transport");
      }
    }
  }
}

void ExamineKernels(const std::vector<ConfigLine>& config, Examination* examination) {
  std::string targets;
  for (const std::string& target : KernelTargets()) targets += (targets.empty() ? "" : ", ") + target;
  examination->Fine(kKernels, "instruction sets", targets + " (built in, and run here)");
  try {
    const bool asked = !GetEnvironment("TERSE_SIMD").value_or("").empty();
    examination->Fine(kKernels, "in use", KernelTarget() + (asked ? " (TERSE_SIMD)" : ""));
  } catch (const std::invalid_argument& error) {
    examination->Wrong(kKernels, "in use", error.what(), "set TERSE_SIMD to one of these, or unset it");
  }
  cpu_set_t set;
  const int processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  int threads = 1;
  if (!config.empty()) {
    const std::string& text = FindLine(config, "threads").value;
    std::from_chars(text.data(), text.data() + text.size(), threads);
  }
  const std::string count =
      std::to_string(threads) + " a rank, " + std::to_string(processors) + " processors for this process";
  if (threads <= processors) {
    examination->Fine(kKernels, "threads", count);
  } else {
    examination->Note(kKernels, "threads", count,
                      "more threads than processors slow a rank down; lower `threads`");
  }
  std::string pages;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled") >> std::ws, pages);
  if (pages.empty()) pages = "not known";
  if (Contains(pages, "[never]")) {
    examination->Note(
        kKernels, "huge pages", pages,
        "large vectors lie on small pages, which makes kernels slower; allow them: echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled");
  } else {
    examination->Fine(kKernels, "huge pages", pages);
  }
}

// The GPUs that the driver's library says there are; a sentence.
std::string AskCuda() {
  const Answer answer = AskChild([]() -> std::string {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) return "no driver library libcuda.so.1";
    const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
    const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
    const auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
    if (init == nullptr || count == nullptr || name == nullptr) return "libcuda.so.1 lacks functions";
    if (const int error = init(0); error != 0) return "the driver fails with error " + std::to_string(error);
    int devices = 0;
    if (count(&devices) != 0) return "the driver does not count its devices";
    std::string text = std::to_string(devices) + " for CUDA";
    for (int i = 0; i < devices; ++i) {
      char device[256] = {};
      if (name(device, sizeof(device) - 1, i) == 0) text += (i == 0 ? ": " : ", ") + std::string(device);
    }
    return text;
  });
  if (answer.timed_out) return "the driver does not answer";
  return answer.text.empty() ? "the driver ended the process that asked it" : answer.text;
}

void ExamineGpus(Examination* examination) {
  std::string nodes;
  for (const char* folder : {"/dev", "/dev/dri"}) {
    std::error_code error;
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename();
      const bool nvidia = name.starts_with("nvidia") && name.size() > 6 && name[6] >= '0' && name[6] <= '9';
      if (nvidia || name == "kfd" || name.starts_with("renderD")) names.push_back(entry.path());
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) nodes += (nodes.empty() ? "" : ", ") + name;
  }
  const std::string driver = AskCuda();
  examination->Fine(kGpus, "devices", nodes.empty() ? "none in /dev" : nodes);
  if (Contains(nodes, "/dev/nvidia") && !Contains(driver, " for CUDA")) {
    examination->Note(kGpus, "driver", driver, "the devices are there, and CUDA programs cannot use them");
  } else {
    examination->Fine(kGpus, "driver", driver);
  }
}

std::vector<ConfigLine> ExamineConfiguration(const std::string& file, Examination* examination) {
  const std::string named = file.empty() ? GetEnvironment("TERSE_CONFIG").value_or("") : file;
  examination->Fine(kConfiguration, "file", named.empty() ? "none" : named);
  std::vector<ConfigLine> lines;
  try {
    lines = ResolveConfig(file, {});
  } catch (const CommandError& error) {
    examination->Wrong(kConfiguration, "settings", error.what(),
                       "no job runs with this configuration; `terse config help` lists keys and values");
    return {};
  }
  size_t set = 0;
  for (const ConfigLine& line : lines) {
    if (line.origin == "default") continue;
    ++set;
    examination->Fine(kConfiguration, line.key, line.value + " (" + line.origin + ")");
  }
  if (set == 0) examination->Fine(kConfiguration, "settings", "all are defaults");
  return lines;
}

std::vector<std::string> SplitList(const std::string& text, const char* separators) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(separators, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

void ExaminePreload(Examination* examination) {
  const std::string text = GetEnvironment("LD_PRELOAD").value_or("");
  if (text.empty()) return;
  std::set<std::string> ours;
  for (const std::string& file : SplitList(text, ": ")) {
    if (Contains(file, "/") && !Exists(file)) {
      examination->Wrong(kEnvironment, "LD_PRELOAD", file + " is not there",
                         "the loader complains in every process and goes on without it; correct the path");
    }
    for (const std::string& mpi : KnownMpis()) {
      if (Contains(file, "libterse_mpi_" + mpi)) ours.insert(mpi);
    }
  }
  if (ours.size() > 1) {
    examination->Wrong(kEnvironment, "LD_PRELOAD", text,
                       "two preload libraries: each job ends at once; leave that of its MPI");
  } else if (!ours.empty()) {
    examination->Note(kEnvironment, "LD_PRELOAD", text,
                      "it is set for every command of this shell, and only jobs of " +
                          MpiName(*ours.begin()) + " can have it; `terse run` sets it in the ranks alone");
  } else {
    examination->Fine(kEnvironment, "LD_PRELOAD", text + " (comes behind Terse's library)");
  }
}

void ExamineLibraryPath(Examination* examination) {
  const std::string text = GetEnvironment("LD_LIBRARY_PATH").value_or("");
  if (text.empty()) return;
  examination->Fine(kEnvironment, "LD_LIBRARY_PATH", text);
  bool mpi_before = false;
  std::string before;
  for (const std::string& folder : SplitList(text, ":")) {
    std::error_code error;
    if (Contains(fs::path(folder).filename(), "replace_")) {
      if (mpi_before) {
        examination->Wrong(kEnvironment, "LD_LIBRARY_PATH",
                           folder + " comes behind " + before + ", which has an MPI",
                           "programs find that MPI first; put the replacement folder in front");
      }
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("libmpi.so") || name.starts_with("libmpich.so")) {
        mpi_before = true;
        before = folder;
      }
    }
  }
}

void ExamineEnvironment(Examination* examination) {
  ExaminePreload(examination);
  ExamineLibraryPath(examination);
  if (GetEnvironment("TERSE_DISABLE").value_or("") == "1") {
    examination->Note(kEnvironment, "TERSE_DISABLE", "1",
                      "Terse does nothing at all; unset it to compress or observe");
  }
  const std::string preload = GetEnvironment("TERSE_PRELOAD").value_or("");
  if (!preload.empty() && preload != "compress" && preload != "observe") {
    examination->Wrong(kEnvironment, "TERSE_PRELOAD", preload,
                       "it is compress or observe; anything else observes");
  }
  if (const std::string report = GetEnvironment("TERSE_REPORT").value_or(""); !report.empty()) {
    const fs::path folder = fs::absolute(report).parent_path();
    if (access(folder.c_str(), W_OK) != 0) {
      examination->Wrong(kEnvironment, "TERSE_REPORT", report,
                         "its folder is not there or may not be written to");
    } else {
      examination->Fine(kEnvironment, "TERSE_REPORT", report);
    }
  }
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (text.starts_with("TERSE_PLUGIN_PATH=") || text.starts_with("TERSE_SIMD=")) {
      const size_t equals = text.find('=');
      examination->Fine(kEnvironment, std::string(text.substr(0, equals)),
                        std::string(text.substr(equals + 1)));
    }
  }
}

}  // namespace

std::string FamilyOfLibrary(const std::string& path) {
  const ElfFile elf = ReadElf(path);
  const auto defines = [&](const char* symbol) {
    return std::find(elf.defined.begin(), elf.defined.end(), symbol) != elf.defined.end();
  };
  if (defines("ompi_mpi_comm_world")) return "openmpi";
  return defines("MPII_Version_string") ? "mpich" : "";
}

void ExamineSetup(const std::string& config, Examination* examination) {
  ExamineTerse(examination);
  Examination launchers;
  const std::set<std::string> families = ExamineLaunchers(&launchers);
  ExamineInstalled(families, examination);
  for (const Fact& fact : launchers.facts()) examination->Add(fact);
  ExamineTransports(families, examination);
  Examination configuration;
  const std::vector<ConfigLine> lines = ExamineConfiguration(config, &configuration);
  ExamineKernels(lines, examination);
  ExamineGpus(examination);
  for (const Fact& fact : configuration.facts()) examination->Add(fact);
  ExamineEnvironment(examination);
}

}  // namespace terse::cli
