// SPDX-License-Identifier: Apache-2.0
//
// The API over MPI, started by mpirun with any number of ranks. What the ranks get must be, bit for bit,
// what the same gradients give over transport inproc; each process computes that for itself with threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <terse/terse_mpi.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "tests/api/ranks.h"
#include "tests/matrix_shape.h"

namespace terse::testing {
namespace {

using ::testing::HasSubstr;

constexpr size_t kN = 6000;
constexpr int kSteps = 6;

int WorldRank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
int WorldSize() {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

Group OpenMpi(const std::string& yaml, MPI_Comm comm = MPI_COMM_WORLD) {
  terse_group_t* group = nullptr;
  Check(terse_group_open_mpi(comm, yaml.c_str(), &group));
  return Group(group);
}

// Some steps of two tensors, one compressed and one dense and fused, with a skip, asynchronous where
// `step` is odd. All results one after the other.
Vector Train(Group& group, int rank) {
  const TensorId large = group.Register("large", MatrixShape(kN));
  const TensorId small = group.Register("small", {10});
  Vector all;
  for (int step = 0; step < kSteps; ++step) {
    const Vector gradient = Noise(kN, rank, step);
    const Vector little = Noise(10, rank, 100 + step);
    Vector out(kN);
    Vector little_out(10);
    if (step % 2 == 0) {
      group.AllreduceMany({large, small}, {gradient.data(), little.data()}, {out.data(), little_out.data()});
    } else {
      Request requests[2];
      requests[rank % 2] = group.AllreduceAsync(large, gradient.data(), out.data());
      requests[1 - rank % 2] = group.AllreduceAsync(small, little.data(), little_out.data());
      requests[0].Wait();
      requests[1].Wait();
    }
    group.Step(step == 2 ? 0 : 1);
    all.insert(all.end(), out.begin(), out.end());
    all.insert(all.end(), little_out.begin(), little_out.end());
  }
  return all;
}

class OverMpi : public ::testing::TestWithParam<CodecCase> {};
INSTANTIATE_TEST_SUITE_P(Api, OverMpi, ::testing::ValuesIn(CodecCases()),
                         [](const auto& instance) { return instance.param.name; });

void ExpectTheBitsOfInproc(std::string yaml) {
  yaml += "dense: deterministic\n";
  yaml.replace(yaml.find("min_elements: 1"), std::string("min_elements: 1").size(), "min_elements: 1000");
  Group group = OpenMpi(yaml);
  const Vector over_mpi = Train(group, WorldRank());
  group.Close();

  Vector over_inproc;
  RunRanksOk(WorldSize(), yaml, [&over_inproc](Group& threads, int rank) {
    const Vector result = Train(threads, rank);
    if (rank == WorldRank()) over_inproc = result;
  });
  EXPECT_TRUE(SameBits(over_mpi, over_inproc));
}

TEST_P(OverMpi, GivesTheBitsOfInproc) { ExpectTheBitsOfInproc(GetParam().yaml); }

TEST(Mpi, Oracle11DgcGivesTheBitsOfInproc) {
  for (const char* nesterov : {"false", "true"}) {
    for (const char* values : {"fp32", "bf16"}) {
      ExpectTheBitsOfInproc(std::string("method: dgc\ndgc: {density: 0.05, clip: 10, nesterov: ") + nesterov +
                            "}\ntopk: {values: " + values + "}\nmin_elements: 1\n");
    }
  }
}

// What some ranks have saved goes on to the bit over MPI, and half of them can take it over.
TEST(Mpi, SavedStateGoesOn) {
  const std::string path = ::testing::TempDir() + "terse_mpi_state_" + std::to_string(WorldSize()) + "_" +
                           MPI_NAME;  // the same on all ranks
  const std::string yaml =
      "method: dgc\ncompressor: topk\ndgc: {density: 0.02, warmup_steps: 8}\nmin_elements: 1000\n"
      "dense: deterministic\n";
  const auto steps = [](Group& group, TensorId tensor, int first, int last, int rank) {
    Vector out(kN);
    for (int step = first; step < last; ++step) {
      group.Allreduce(tensor, Noise(kN, rank, step).data(), out.data());
      group.Step(step % 3 == 1 ? 0 : 1);
    }
    return out;
  };
  Vector unbroken;
  {
    Group group = OpenMpi(yaml);
    const TensorId tensor = group.Register("w", {static_cast<int64_t>(kN)});
    (void)steps(group, tensor, 0, 4, WorldRank());
    group.SaveState(path);
    unbroken = steps(group, tensor, 4, 10, WorldRank());
    group.Close();
  }
  {
    Group group = OpenMpi(yaml);
    const TensorId tensor = group.Register("w", {static_cast<int64_t>(kN)});
    group.LoadState(path);
    EXPECT_TRUE(SameBits(steps(group, tensor, 4, 10, WorldRank()), unbroken));
    group.Close();
  }
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, WorldRank() % 2, WorldRank(), &half);
  {
    Group group = OpenMpi(yaml, half);
    const TensorId tensor = group.Register("w", {static_cast<int64_t>(kN)});
    group.LoadState(path);
    for (const float value : steps(group, tensor, 4, 10, WorldRank())) ASSERT_TRUE(std::isfinite(value));
    group.Close();
  }
  MPI_Comm_free(&half);
  MPI_Barrier(MPI_COMM_WORLD);
  if (WorldRank() == 0) std::filesystem::remove_all(path);
}

TEST(Mpi, RankAndSizeAreTheCommunicators) {
  const Group group = OpenMpi("");
  EXPECT_EQ(group.rank(), WorldRank());
  EXPECT_EQ(group.size(), WorldSize());
}

TEST(Mpi, GroupOfTheWorldNeedsNoCommunicator) {
  Group group("compressor: none\ntransport: {name: mpi}\n");
  EXPECT_EQ(group.rank(), WorldRank());
  EXPECT_EQ(group.size(), WorldSize());
  group.Close();
}

TEST(Mpi, GroupsOfSubcommunicatorsAreApart) {
  MPI_Comm half = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, WorldRank() % 2, WorldRank(), &half);
  int rank = -1;
  int size = -1;
  MPI_Comm_rank(half, &rank);
  MPI_Comm_size(half, &size);
  {
    Group group = OpenMpi("compressor: none\n", half);
    MPI_Comm_free(&half);  // the group has its own duplicate
    EXPECT_EQ(group.rank(), rank);
    EXPECT_EQ(group.size(), size);
    const TensorId tensor = group.Register("weight", {3});
    Vector values(3, static_cast<float>(WorldRank() % 2));
    group.Allreduce(tensor, values.data(), values.data());
    EXPECT_EQ(values, Vector(3, static_cast<float>(WorldRank() % 2)));
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST(Mpi, TheJobsOwnTrafficIsNotTouched) {
  const int rank = WorldRank();
  const int size = WorldSize();
  int from_left = -1;
  MPI_Request receive = MPI_REQUEST_NULL;
  // Matches anything on the job's communicator: a message of ours would end up here.
  MPI_Irecv(&from_left, 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &receive);
  Group group = OpenMpi("compressor: quantize\nmin_elements: 1\n");
  (void)Train(group, rank);
  group.Close();
  MPI_Send(&rank, 1, MPI_INT, (rank + 1) % size, 5, MPI_COMM_WORLD);
  MPI_Wait(&receive, MPI_STATUS_IGNORE);
  EXPECT_EQ(from_left, (rank + size - 1) % size);
}

TEST(Mpi, TheThreadLevelIsNotRaised) {
  int level = -1;
  MPI_Query_thread(&level);
  EXPECT_EQ(level, MPI_THREAD_SINGLE);
  Group group = OpenMpi("");
  (void)Train(group, WorldRank());
  group.Close();
  int after = -1;
  MPI_Query_thread(&after);
  EXPECT_EQ(after, level);
}

TEST(Mpi, DenseIsTheMean) {
  Group group = OpenMpi("compressor: none\n");
  const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
  Vector out(kN);
  group.Allreduce(tensor, WholeNumbers(kN, WorldRank(), 0).data(), out.data());
  const auto mean = MeanOverRanks(WorldSize(), [](int rank) { return WholeNumbers(kN, rank, 0); });
  EXPECT_LE(RelativeError(out, mean), 1e-6);
  group.Close();
}

TEST(Mpi, NonFiniteGradientReachesAllRanks) {
  Group group = OpenMpi("compressor: quantize\nmin_elements: 1\n");
  const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
  Vector out(kN);
  for (int step = 0; step < 3; ++step) {
    Vector gradient = Noise(kN, WorldRank(), step);
    if (step == 1 && WorldRank() == WorldSize() - 1) gradient[9] = std::numeric_limits<float>::quiet_NaN();
    group.Allreduce(tensor, gradient.data(), out.data());
    for (const float value : out) ASSERT_EQ(std::isnan(value), step == 1) << "step " << step;
    group.Step(step == 1 ? 0 : 1);
  }
  group.Close();
}

TEST(Mpi, DisagreementIsNamedOnEveryRank) {
  if (WorldSize() < 2) GTEST_SKIP() << "one rank agrees with itself";
  terse_group_t* refused = nullptr;
  EXPECT_EQ(terse_group_open_mpi(MPI_COMM_WORLD, WorldRank() == 1 ? "seed: 7" : "seed: 8", &refused),
            TERSE_MISMATCH);
  EXPECT_THAT(terse_last_error(), HasSubstr("seed"));
  EXPECT_EQ(refused, nullptr);

  Group group = OpenMpi("");
  const TensorId a = group.Register("alpha", {100});
  const TensorId b = group.Register("beta", {100});
  Vector values(100);
  EXPECT_EQ(terse_allreduce(group.handle(), WorldRank() == 1 ? b : a, values.data(), values.data()),
            TERSE_MISMATCH);
  EXPECT_THAT(terse_last_error(), HasSubstr("alpha"));
  EXPECT_THAT(terse_last_error(), HasSubstr("beta"));
  group.Allreduce(a, values.data(), values.data());
  group.Close();
}

}  // namespace
}  // namespace terse::testing

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  ::testing::InitGoogleTest(&argc, argv);
  int failed = RUN_ALL_TESTS();
  int any_failed = 0;
  MPI_Allreduce(&failed, &any_failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any_failed;
}
