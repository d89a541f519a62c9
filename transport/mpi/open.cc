// SPDX-License-Identifier: Apache-2.0
//
// How a process enters and leaves MPI.
#include <dlfcn.h>
#include <stdlib.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "transport/mpi/group.h"

namespace terse::transport {
namespace {

#if defined(OPEN_MPI)
constexpr char kThisMpi[] = "Open MPI";
constexpr char kOtherLauncherSize[] = "PMI_SIZE";  // set by MPICH's launcher
#else
constexpr char kThisMpi[] = "MPICH";
constexpr char kOtherLauncherSize[] = "OMPI_COMM_WORLD_SIZE";
#endif

// Open MPI's components use its symbols without naming the library: they rely on a program that is
// linked to MPI. In one that is not, the library came in privately with this plug-in and must be made
// visible before MPI_Init loads them.
absl::Status ExposeMpiLibrary() {
#if defined(OPEN_MPI)
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&PMPI_Init_thread), &info) == 0 ||
      dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) == nullptr) {
    return absl::InternalError("cannot make the symbols of libmpi visible to its components");
  }
#endif
  return absl::OkStatus();
}

// Runs at exit of a process whose MPI this plug-in initialized. After a failure the peers may be gone or
// elsewhere, and MPI_Finalize would wait for them; the launcher then cleans up.
void FinalizeAtExit(int exit_status, void*) {
  int finalized = 0;
  PMPI_Finalized(&finalized);
  if (finalized == 0 && exit_status == 0 && !AnyCommunicatorBroken()) PMPI_Finalize();
}

absl::Status EnsureInitialized(bool has_communicator) {
  int flag = 0;
  PMPI_Finalized(&flag);
  if (flag != 0) return absl::FailedPreconditionError("MPI is finalized already; open groups before");
  PMPI_Initialized(&flag);
  if (flag != 0) return absl::OkStatus();
  if (has_communicator) {
    return absl::FailedPreconditionError(
        "a communicator was given, but MPI is not initialized in this process");
  }
  if (absl::Status status = ExposeMpiLibrary(); !status.ok()) return status;
  // The process may have threads; only the one that opens groups calls MPI.
  int provided = MPI_THREAD_SINGLE;
  absl::Status status =
      MpiStatus(PMPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "PMPI_Init_thread");
  if (!status.ok()) return status;
  on_exit(FinalizeAtExit, nullptr);
  return absl::OkStatus();
}

// Processes started by the other MPI's launcher would each be a world of one and train alone.
absl::Status CheckLauncher(int world_size) {
  const char* other = getenv(kOtherLauncherSize);
  int other_size = 0;
  if (world_size > 1 || other == nullptr || !absl::SimpleAtoi(other, &other_size) || other_size <= 1) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("this process is alone in ", kThisMpi, ", but another MPI's launcher started ", other_size,
                   " (", kOtherLauncherSize, "); use the mpirun of ", kThisMpi, " or that MPI's transport"));
}

absl::StatusOr<MPI_Comm> BaseCommunicator(const OpenOptions& options) {
  if (!options.has_communicator) return MPI_COMM_WORLD;
  const auto handle = static_cast<MPI_Fint>(options.communicator);
  const MPI_Comm comm = handle == options.communicator ? PMPI_Comm_f2c(handle) : MPI_COMM_NULL;
  if (comm == MPI_COMM_NULL) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.communicator, " is no handle of a communicator of ", kThisMpi));
  }
  int inter = 0;
  absl::Status status = MpiStatus(PMPI_Comm_test_inter(comm, &inter), "PMPI_Comm_test_inter");
  if (!status.ok()) return status;
  if (inter != 0) return absl::InvalidArgumentError("an intercommunicator cannot carry a group");
  return comm;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Group>> OpenMpiGroup(const OpenOptions& options) {
  if (absl::Status status = EnsureInitialized(options.has_communicator); !status.ok()) return status;
  absl::StatusOr<MPI_Comm> base = BaseCommunicator(options);
  if (!base.ok()) return base.status();
  int rank = 0;
  int size = 0;
  absl::Status status = MpiStatus(PMPI_Comm_rank(*base, &rank), "PMPI_Comm_rank");
  status.Update(MpiStatus(PMPI_Comm_size(*base, &size), "PMPI_Comm_size"));
  if (status.ok() && !options.has_communicator) status = CheckLauncher(size);
  if (!status.ok()) return status;
  if ((options.rank >= 0 && options.rank != rank) ||
      (options.world_size >= 0 && options.world_size != size)) {
    return absl::InvalidArgumentError(absl::StrCat("the configuration says rank ", options.rank, " of ",
                                                   options.world_size, ", MPI says rank ", rank, " of ", size,
                                                   "; leave them out"));
  }
  absl::StatusOr<std::shared_ptr<Communicator>> communicator =
      Communicator::Duplicate(*base, options.timeout);
  if (!communicator.ok()) return communicator.status();
  return std::make_unique<MpiGroup>(*std::move(communicator));
}

}  // namespace terse::transport
