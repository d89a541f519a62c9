// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/doctor_program.h"

#include <strings.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "runtime/cli/doctor_setup.h"
#include "runtime/cli/elf_file.h"
#include "runtime/cli/environment.h"
#include "runtime/cli/exit_code.h"
#include "runtime/cli/installed.h"
#include "runtime/cli/job.h"
#include "runtime/cli/launch_line.h"
#include "runtime/cli/linked_libraries.h"

namespace terse::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kProgram[] = "program";
constexpr char kByHandle[] =
    "start the job by `terse run --replace-mpi` (or `terse advise --replace-mpi`); a program that names "
    "MPI's file by an "
    "absolute path is out of reach even then";

using Strings = std::set<std::string>;

bool Contains(const std::string& text, const char* word) { return text.find(word) != std::string::npos; }
bool ContainsAnyCase(const std::string& text, const char* word) {
  return strcasestr(text.c_str(), word) != nullptr;
}

std::string Joined(const Strings& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

bool IsAllReduce(const std::string& name) { return ContainsAnyCase(name, "allreduce"); }

// The binding that a name of MPI's is of; empty: it is none of MPI's.
std::string BindingOf(const std::string& name) {
  const size_t mpi = name.starts_with('P') || name.starts_with('p') ? 1 : 0;
  if (strncasecmp(name.c_str() + mpi, "mpi_", 4) != 0 && strncasecmp(name.c_str() + mpi, "mpix_", 5) != 0)
    return "";
  if (ContainsAnyCase(name, "_f08")) return "mpi_f08";
  const size_t first = name.find('_') + 1;
  // C's names have a capital and then small letters: MPI_Allreduce. Fortran's have one case throughout.
  const bool small = std::any_of(name.begin(), name.end(), [](char c) { return std::islower(c) != 0; });
  const bool capital = std::any_of(name.begin(), name.end(), [](char c) { return std::isupper(c) != 0; });
  return small && capital && first < name.size() ? "C" : "mpif.h";
}

// Libraries of an MPI itself call its names among each other.
bool IsMpisOwn(const std::string& name) {
  const std::string file = fs::path(name).filename();
  return file.starts_with("libmpi") || file.starts_with("libopen-") || file.starts_with("libpmpi") ||
         file.starts_with("libterse_mpi_");
}

// What the program and its libraries, without those of MPI, ask of MPI.
struct Uses {
  Strings bindings;
  Strings all_reduces;
  Strings bare;     // all-reduces by their PMPI_ names
  Strings objects;  // the files that ask
  bool any = false;
  bool opens = false;  // libraries, and looks names up in them
};

void AddUses(const std::string& file, const ElfFile& elf, Uses* uses) {
  bool opens = false;
  bool looks_up = false;
  for (const std::string& name : elf.undefined) {
    opens |= name == "dlopen" || name == "dlmopen";
    looks_up |= name == "dlsym" || name == "dlvsym";
    const std::string binding = BindingOf(name);
    if (binding.empty()) continue;
    uses->any = true;
    uses->objects.insert(fs::path(file).filename());
    if (!name.starts_with("PMPI") && !name.starts_with("pmpi")) uses->bindings.insert(binding);
    if (IsAllReduce(name))
      (name.starts_with("P") || name.starts_with("p") ? uses->bare : uses->all_reduces).insert(name);
  }
  uses->opens |= opens && looks_up;
}

std::string ScriptInterpreter(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string line(256, '\0');
  in.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<size_t>(in.gcount()));
  if (!line.starts_with("#!")) return "";
  line = line.substr(2, line.find('\n') - 2);
  line.erase(0, line.find_first_not_of(' ') == std::string::npos ? line.size() : line.find_first_not_of(' '));
  if (const size_t env = line.find("env "); env != std::string::npos) line.erase(0, env + 4);
  return line.substr(0, line.find(' '));
}

class Examiner {
 public:
  Examiner(const Words& command, Examination* examination) : command_(command), examination_(examination) {}

  void Run() {
    launcher_ = DetectLauncherKind(command_);
    if (launcher_ != LauncherKind::kNone) {
      launcher_family_ = launcher_ == LauncherKind::kOpenMpi ? "openmpi" : "mpich";
      Fine("launcher", MpiName(launcher_family_));
      LauncherFacts();
    }
    words_ = ProgramWords(command_, launcher_ != LauncherKind::kNone);
    if (words_.empty()) {
      Wrong("file", "the command names none", "say the job's whole command behind --");
      return;
    }
    file_ = FindProgram(words_[0]);
    std::error_code error;
    if (!fs::is_regular_file(file_, error) || access(file_.c_str(), X_OK) != 0) {
      Wrong(
          "file", file_ + (fs::exists(file_, error) ? " is no file that may be run" : " is not there"),
          "correct the command; options of a launcher that are not known here are taken to have no argument");
      return;
    }
    Fine("file", file_);
    Privileges();
    File();
  }

 private:
  void Fine(const std::string& name, const std::string& value) { examination_->Fine(kProgram, name, value); }
  void Note(const std::string& name, const std::string& value, const std::string& advice) {
    examination_->Note(kProgram, name, value, advice);
  }
  void Wrong(const std::string& name, const std::string& value, const std::string& advice) {
    examination_->Wrong(kProgram, name, value, advice);
  }

  void LauncherFacts() {
    const auto allowed = [](const char* name) { return GetEnvironment(name).value_or("") == "1"; };
    const bool says_so = std::find(command_.begin(), command_.end(), "--allow-run-as-root") != command_.end();
    if (launcher_ != LauncherKind::kOpenMpi) return;
    if (geteuid() == 0 && !says_so &&
        !(allowed("OMPI_ALLOW_RUN_AS_ROOT") && allowed("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"))) {
      Wrong("user", "root, whom Open MPI's mpirun refuses",
            "add --allow-run-as-root to it, or set OMPI_ALLOW_RUN_AS_ROOT=1 and "
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
    }
    try {
      if (const std::string fault = LauncherFault(command_, FindReplacementFolder("openmpi"));
          !fault.empty()) {
        Note("launcher's folder", command_[0], "--replace-mpi: " + fault);
      }
    } catch (const CommandError&) {
      // That the folder is missing is said of the set-up.
    }
  }

  // With more rights than its user a program gets none of the loader's variables.
  void Privileges() {
    struct stat facts {};
    if (stat(file_.c_str(), &facts) != 0) return;
    const bool other_user = (facts.st_mode & S_ISUID) != 0 && facts.st_uid != geteuid();
    const bool other_group = (facts.st_mode & S_ISGID) != 0 && facts.st_gid != getegid();
    const bool capabilities = getxattr(file_.c_str(), "security.capability", nullptr, 0) > 0;
    const bool marked = (facts.st_mode & (S_ISUID | S_ISGID)) != 0;
    if (other_user || other_group || capabilities) {
      Wrong("privileges", capabilities ? "file capabilities" : "setuid or setgid",
            "the loader ignores LD_PRELOAD and LD_LIBRARY_PATH for it; run a copy without these rights");
    } else if (marked) {
      Note("privileges", "setuid or setgid",
           "for other users the loader ignores LD_PRELOAD and LD_LIBRARY_PATH");
    }
  }

  void File() {
    const ElfFile elf = ReadElf(file_);
    switch (elf.state) {
      case ElfState::kRead:
        break;
      case ElfState::kNoElf:
        Script();
        return;
      case ElfState::kUnreadable:
        Wrong("kind", "cannot be read: " + elf.error, "let its user read it");
        return;
      case ElfState::kForeign:
        Wrong("kind", elf.error, "Terse's libraries do not fit into it; use a build for this machine");
        return;
      case ElfState::kDamaged:
        Wrong("kind", "damaged: " + elf.error, "build or copy it again");
        return;
    }
    if (!elf.dynamic || (elf.interpreter.empty() && elf.needed.empty())) {
      Static(elf);
    } else if (fs::path(file_).filename().string().starts_with("python")) {
      Python(file_);
    } else {
      Dynamic(elf);
    }
  }

  static bool HasOwnMpi(const ElfFile& elf) {
    return std::find(elf.own_mpi_names.begin(), elf.own_mpi_names.end(), "PMPI_Allreduce") !=
           elf.own_mpi_names.end();
  }

  void Static(const ElfFile& elf) {
    Fine("kind", "a static program");
    if (HasOwnMpi(elf)) {
      Wrong("MPI", "linked in statically",
            "nothing can take the place of its calls; link it to the shared library of MPI");
    } else if (elf.has_symbols) {
      Note("MPI", "none in it",
           "there is nothing that Terse could do in this program; if it starts another, name that one behind "
           "--");
    } else {
      Wrong("MPI", "not to be seen: its table of symbols was cut off",
            "nothing can take the place of calls in a static program; link it to the shared library of MPI");
    }
  }

  void Script() {
    const std::string interpreter = ScriptInterpreter(file_);
    if (interpreter.empty()) {
      Wrong("kind", "neither a program nor a script with #!", "name the program itself behind --");
      return;
    }
    if (fs::path(interpreter).filename().string().starts_with("python")) {
      Python(interpreter);
      return;
    }
    Note("kind", "a script, run by " + interpreter,
         "what it starts decides which MPI there is and what is intercepted: name that program behind --, "
         "too");
  }

  // Python's MPI comes with a module. mpi4py is asked for; others (ctypes) load MPI by a handle.
  void Python(const std::string& interpreter) {
    const Answer answer =
        Ask({interpreter, "-c",
             "import importlib.util; print('file=' + importlib.util.find_spec('mpi4py.MPI').origin)"});
    const size_t at = answer.text.rfind("file=");
    if (answer.code != 0 || at == std::string::npos) {
      Note("kind", "Python (" + interpreter + "), without mpi4py",
           std::string("its MPI comes at run time. Where it loads MPI by a handle (ctypes), ") + kByHandle);
      return;
    }
    const std::string module = answer.text.substr(at + 5, answer.text.find('\n', at) - at - 5);
    Fine("kind", "Python (" + interpreter + "), with mpi4py, " + module);
    const ElfFile elf = ReadElf(module);
    if (elf.state != ElfState::kRead) {
      Wrong("mpi4py", module + ": " + elf.error, "install mpi4py again");
      return;
    }
    file_ = module;
    Dynamic(elf);
  }

  void Dynamic(const ElfFile& elf) {
    const LinkedLibraries libraries = ListLinkedLibraries(file_);
    Uses uses;
    AddUses(file_, elf, &uses);
    Strings missing;
    Strings mpi_files;
    Strings families;
    for (const LinkedLibrary& library : libraries.all) {
      if (library.path.empty()) {
        missing.insert(library.name);
      } else if (IsMpisOwn(library.name)) {
        if (const std::string family = FamilyOfLibrary(library.path); !family.empty()) {
          families.insert(family);
          mpi_files.insert(library.path);
        }
      } else if (const ElfFile read = ReadElf(library.path); read.state == ElfState::kRead) {
        // That libc's relatives open libraries says nothing of the program.
        Uses of_library;
        AddUses(library.path, read, &of_library);
        const bool opens = uses.opens;
        if (of_library.any) AddUses(library.path, read, &uses);
        uses.opens = opens || (of_library.opens && of_library.any);
      }
    }
    if (!missing.empty()) {
      Wrong("libraries", Joined(missing) + ": not found",
            "install them, or put their folder into LD_LIBRARY_PATH");
    } else if (!libraries.error.empty()) {
      Wrong("libraries", libraries.error, "the loader would refuse the program");
    }
    Mpi(elf, uses, families, mpi_files);
    if (families.size() == 1) {
      const std::string& family = *families.begin();
      Calls(uses, family);
      Fits(family);
    }
    if (!elf.rpath.empty() && elf.runpath.empty()) {
      Note("DT_RPATH", elf.rpath,
           "these folders come before LD_LIBRARY_PATH: where MPI is in one of them, --replace-mpi does not "
           "reach what "
           "this program loads by name");
    }
  }

  void Mpi(const ElfFile& elf, const Uses& uses, const Strings& families, const Strings& files) {
    if (families.size() > 1) {
      Wrong("MPI", Joined(files), "two MPIs in one program do not work: link it, and its libraries, to one");
    } else if (families.size() == 1) {
      Fine("MPI", MpiName(*families.begin()) + ", " + Joined(files));
      if (uses.opens)
        Fine("dlopen", "it opens libraries, too; what it found of MPI in a handle would need --replace-mpi");
    } else if (HasOwnMpi(elf)) {
      Wrong("MPI", "linked in statically",
            "nothing can take the place of its calls; link it to the shared library of MPI");
    } else if (uses.any) {
      Wrong("MPI", "it calls MPI and is linked to none that is known", "Terse knows Open MPI and MPICH");
    } else if (uses.opens) {
      Note("MPI", "linked to none, but it opens libraries (dlopen, dlsym)",
           std::string("where it loads MPI so, ") + kByHandle);
    } else {
      Note("MPI", "linked to none",
           "there is nothing that Terse could do in this program; if it starts another, name that one behind "
           "--");
    }
  }

  void Calls(const Uses& uses, const std::string& family) {
    Fine("bindings",
         uses.bindings.empty() ? "none" : Joined(uses.bindings) + " (in " + Joined(uses.objects) + ")");
    Strings intercepted;
    try {
      const ElfFile library = ReadElf(FindPreloadLibrary(family));
      intercepted.insert(library.defined.begin(), library.defined.end());
    } catch (const CommandError&) {
      return;  // said of the set-up
    }
    Strings seen;
    Strings unseen = uses.bare;
    for (const std::string& name : uses.all_reduces)
      (intercepted.count(name) > 0 ? seen : unseen).insert(name);
    if (!seen.empty()) Fine("intercepted", Joined(seen));
    if (!unseen.empty()) {
      Note("not intercepted", Joined(unseen), "these calls go to MPI directly and stay exact");
    }
    if (seen.empty() && unseen.empty()) {
      Note("intercepted", "nothing: it calls no all-reduce",
           uses.opens ? std::string("where it finds MPI's in a handle, ") + kByHandle
                      : "there is nothing that Terse could compress");
    }
  }

  void Fits(const std::string& family) {
    if (!launcher_family_.empty() && launcher_family_ != family) {
      Wrong("launcher",
            "of " + MpiName(launcher_family_) + ", and the program is linked to " + MpiName(family),
            "every rank would be alone in a world of one: use the mpirun of " + MpiName(family));
    }
    const std::string preload = GetEnvironment("LD_PRELOAD").value_or("");
    for (const std::string& mpi : KnownMpis()) {
      if (mpi != family && Contains(preload, ("libterse_mpi_" + mpi).c_str())) {
        Wrong("LD_PRELOAD", preload,
              "that library is for " + MpiName(mpi) + " and ends a program of " + MpiName(family) +
                  "; preload libterse_mpi_" + family + ".so, or leave it to `terse run`");
      }
    }
  }

  const Words& command_;
  Examination* examination_;
  LauncherKind launcher_ = LauncherKind::kNone;
  std::string launcher_family_;
  Words words_;
  std::string file_;
};

}  // namespace

void ExamineProgram(const Words& command, Examination* examination) { Examiner(command, examination).Run(); }

}  // namespace terse::cli
