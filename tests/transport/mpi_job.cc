// SPDX-License-Identifier: Apache-2.0
//
// Run by mpirun: a job that is linked to MPI and gives groups its own communicators. Its traffic and ours
// must not meet, and its error handlers and its MPI stay its own.
#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "transport/loader.h"

namespace terse::transport {
namespace {

#if defined(OPEN_MPI)
constexpr char kPlugin[] = "mpi_openmpi";
#else
constexpr char kPlugin[] = "mpi_mpich";
#endif

absl::StatusOr<std::unique_ptr<Group>> Open(MPI_Comm comm) {
  OpenOptions options;
  options.has_communicator = true;
  options.communicator = MPI_Comm_c2f(comm);
  return OpenGroup("mpi", options);
}

absl::Status End(const OperationOr& operation) {
  return operation.ok() ? (*operation)->Wait(std::chrono::seconds(60)) : operation.status();
}

TEST(MpiJob, ResolvesToTheLinkedMpi) { EXPECT_EQ(ResolveTransportName("mpi"), kPlugin); }

TEST(MpiJob, GroupsOfSubcommunicators) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);  // in reversed order
  int half_rank = 0;
  int half_size = 0;
  MPI_Comm_rank(half, &half_rank);
  MPI_Comm_size(half, &half_size);

  auto group = Open(half);
  ASSERT_EQ(group.status(), absl::OkStatus());
  EXPECT_EQ((*group)->rank(), half_rank);
  EXPECT_EQ((*group)->size(), half_size);
  double sum = rank;
  double expected = 0;
  MPI_Allreduce(&sum, &expected, 1, MPI_DOUBLE, MPI_SUM, half);
  ASSERT_EQ(End((*group)->Allreduce(&sum, &sum, 1, wire::DType::kFloat64, {})), absl::OkStatus());
  EXPECT_EQ(sum, expected);
  MPI_Comm_free(&half);
  EXPECT_EQ(End((*group)->Barrier()), absl::OkStatus());  // the group has a communicator of its own
}

// A receive of the job's that takes anything from anyone does not get a message of ours.
TEST(MpiJob, WildcardReceivesOfTheJobAreLeftAlone) {
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  auto group = Open(MPI_COMM_WORLD);
  ASSERT_EQ(group.status(), absl::OkStatus());
  int heard = -1;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Irecv(&heard, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &request);
  std::vector<int> got(static_cast<size_t>(size), -1);
  std::vector<Buffer> to;
  std::vector<size_t> lengths(got.size());
  for (int& place : got) to.push_back({&place, sizeof(place)});
  for (int round = 0; round < 10; ++round) {
    ASSERT_EQ(End((*group)->Allgatherv({&round, sizeof(round)}, to, absl::MakeSpan(lengths), {})),
              absl::OkStatus());
    EXPECT_EQ(got, std::vector<int>(got.size(), round));
  }
  const int word = 1000 + rank;
  MPI_Send(&word, 1, MPI_INT, (rank + 1) % size, 5, MPI_COMM_WORLD);
  MPI_Wait(&request, MPI_STATUS_IGNORE);
  EXPECT_EQ(heard, 1000 + (rank + size - 1) % size);
}

TEST(MpiJob, ErrorHandlerOfTheJobStays) {
  const auto handler = [] {
    MPI_Errhandler current = MPI_ERRHANDLER_NULL;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &current);
    const bool fatal = current == MPI_ERRORS_ARE_FATAL;
    MPI_Errhandler_free(&current);
    return fatal;
  };
  ASSERT_TRUE(handler());
  auto group = Open(MPI_COMM_WORLD);
  ASSERT_EQ(group.status(), absl::OkStatus());
  EXPECT_EQ(End((*group)->Barrier()), absl::OkStatus());
  EXPECT_TRUE(handler());
}

TEST(MpiJob, RefusesWhatIsNoCommunicator) {
  EXPECT_EQ(Open(MPI_COMM_NULL).status().code(), absl::StatusCode::kInvalidArgument);
  OpenOptions options;
  options.rank = 1000;
  EXPECT_EQ(OpenGroup("mpi", options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace terse::transport

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  MPI_Init(&argc, &argv);
  const int failed = RUN_ALL_TESTS();
  MPI_Finalize();  // ours: the plug-in must not have done it
  return failed;
}
