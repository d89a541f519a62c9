// SPDX-License-Identifier: Apache-2.0
#include "examples/common/mpi_session.h"

#include <mpi.h>
#include <terse/terse_mpi.h>

#include <algorithm>
#include <cstdio>
#include <exception>

namespace terse::examples {

MpiSession::MpiSession(int* argc, char*** argv) {
  MPI_Init(argc, argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

MpiSession::~MpiSession() { MPI_Finalize(); }

Group MpiSession::OpenGroup(const std::string& config_yaml) const {
  terse_group_t* handle = nullptr;
  Check(terse_group_open_mpi(MPI_COMM_WORLD, config_yaml.empty() ? nullptr : config_yaml.c_str(), &handle));
  return Group(handle);
}

void MpiSession::BroadcastFromRoot(void* data, size_t bytes) const {
  // MPI counts in int.
  constexpr size_t kMaxCount = size_t{1} << 30;
  for (size_t begin = 0; begin < bytes; begin += kMaxCount) {
    const int count = static_cast<int>(std::min(kMaxCount, bytes - begin));
    MPI_Bcast(static_cast<char*>(data) + begin, count, MPI_BYTE, 0, MPI_COMM_WORLD);
  }
}

void MpiSession::Average(std::vector<double>* values) const {
  MPI_Allreduce(MPI_IN_PLACE, values->data(), static_cast<int>(values->size()), MPI_DOUBLE, MPI_SUM,
                MPI_COMM_WORLD);
  for (double& value : *values) value /= size_;
}

std::vector<uint64_t> MpiSession::Gather(uint64_t value) const {
  std::vector<uint64_t> all(size_);
  MPI_Allgather(&value, 1, MPI_UINT64_T, all.data(), 1, MPI_UINT64_T, MPI_COMM_WORLD);
  return all;
}

int RunUnderMpi(int argc, char** argv, CLI::App* app, const std::function<int(const MpiSession&)>& body) {
  const MpiSession session(&argc, &argv);
  try {
    app->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Every rank sees the same arguments; one of them is enough to say what is wrong with them.
    const bool wrong = error.get_exit_code() != 0;
    if (session.is_root()) app->exit(error);
    return wrong ? 2 : 0;
  }
  try {
    return body(session);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: rank %d: %s\n", app->get_name().c_str(), session.rank(), error.what());
    std::fflush(stderr);
    // The other ranks may be waiting for this one, so none can be left to end by itself.
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  return 1;
}

}  // namespace terse::examples
