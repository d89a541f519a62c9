// SPDX-License-Identifier: Apache-2.0
//
// The API over MPI, started by mpirun with any number of ranks. What the ranks get must be, bit for bit,
// what the same gradients give over transport inproc; each process computes that for itself with threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>
#include <terse/terse_mpi.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <string_view>
#include <thread>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

using ::testing::HasSubstr;

constexpr size_t kN = 6000;

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
  Check(terse_group_open_mpi(comm, (yaml + "\ndense_when_faster: false\n").c_str(), &group));
  return Group(group);
}

// Odd sizes, from one element on; matrices, which powersgd factors; one that goes dense; large ones last.
const std::vector<std::pair<std::string, std::vector<int64_t>>> kTensors = {
    {"one", {1}},           {"seven", {7}},   {"odd_matrix", {17, 241}}, {"kernel", {13, 7, 3, 5}},
    {"matrix", {101, 103}}, {"a.bias", {33}}, {"65537", {65537}},        {"100003", {100003}},
};
constexpr size_t kSmall = 6;

// Cheaper than Noise, for much of it: elements of widely differing size, equal for equal arguments.
Vector Gradient(size_t n, int rank, int step) {
  uint32_t state = static_cast<uint32_t>(7919 * rank + 104729 * step + 1);
  Vector out(n);
  for (float& value : out) {
    state = 1664525 * state + 1013904223;
    const float uniform = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    value = uniform * uniform * uniform;
  }
  return out;
}

// Some steps, one of them skipped and one clipped, asynchronous where `step` is odd. The large tensors take
// part in every sixth. results[step][tensor].
using Results = std::vector<std::vector<Vector>>;
Results Train(Group& group, int rank, int steps) {
  std::vector<TensorId> ids;
  for (const auto& [name, shape] : kTensors) ids.push_back(group.Register(name, shape));
  Results results;
  for (int step = 0; step < steps; ++step) {
    std::vector<Vector> gradients;
    std::vector<Vector> outs;
    const std::vector<TensorId> used(ids.begin(), ids.begin() + (step % 6 == 0 ? ids.size() : kSmall));
    for (size_t t = 0; t < used.size(); ++t) {
      size_t n = 1;
      for (const int64_t extent : kTensors[t].second) n *= static_cast<size_t>(extent);
      gradients.push_back(Gradient(n, rank, step * 10 + static_cast<int>(t)));
      outs.emplace_back(n);
    }
    if (step % 2 == 0) {
      std::vector<const void*> send;
      std::vector<void*> recv;
      for (const Vector& gradient : gradients) send.push_back(gradient.data());
      for (Vector& out : outs) recv.push_back(out.data());
      group.AllreduceMany(used, send, recv);
    } else {
      std::vector<Request> requests(used.size());
      for (size_t i = 0; i < used.size(); ++i) {
        const size_t t = rank % 2 == 0 ? i : used.size() - 1 - i;
        requests[t] = group.AllreduceAsync(used[t], gradients[t].data(), outs[t].data());
      }
      for (Request& request : requests) request.Wait();
    }
    group.Step(step == 4 ? 0 : step == 3 ? 0.5 : 1);
    results.push_back(std::move(outs));
  }
  return results;
}

// Waits for the others, and leaves them the processor.
void SleepUntilAllAreHere() {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; MPI_Test(&request, &done, MPI_STATUS_IGNORE), done == 0;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Sizes and orders of summation matter, so every number of ranks has its own bits; all ranks have the same.
// Each rank in turn computes what inproc gives.
void ExpectTheBitsOfInproc(std::string yaml, int turn) {
  constexpr int kSteps = 8;  // 1-bit Adam with `freeze: 5` compresses the last two
  yaml += "dense: deterministic\n";
  const std::string all = "exclude: []";
  yaml.replace(yaml.find(all), all.size(), "exclude: [\"*.bias\"]");
  Group group = OpenMpi(yaml);
  const Results over_mpi = Train(group, WorldRank(), kSteps);
  group.Close();

  uint64_t hash = 0;
  for (const auto& step : over_mpi) {
    for (const Vector& values : step) {
      const std::string_view bytes(reinterpret_cast<const char*>(values.data()),
                                   values.size() * sizeof(float));
      hash = 31 * hash + std::hash<std::string_view>()(bytes);
    }
  }
  std::vector<uint64_t> hashes(static_cast<size_t>(WorldSize()));
  MPI_Allgather(&hash, 1, MPI_UINT64_T, hashes.data(), 1, MPI_UINT64_T, MPI_COMM_WORLD);
  EXPECT_THAT(hashes, ::testing::Each(hash)) << "ranks have different bits";

  if (turn % WorldSize() == WorldRank()) {
    RunRanksOk(WorldSize(), yaml, [&](Group& threads, int rank) {
      const Results over_inproc = Train(threads, rank, kSteps);
      for (size_t step = 0; rank == WorldRank() && step < kSteps; ++step) {
        for (size_t t = 0; t < over_mpi[step].size(); ++t) {
          EXPECT_TRUE(SameBits(over_mpi[step][t], over_inproc[step][t]))
              << "step " << step << ", tensor " << kTensors[t].first;
        }
      }
    });
  }
  SleepUntilAllAreHere();
}

class OverMpi : public ::testing::TestWithParam<MethodCase> {};
INSTANTIATE_TEST_SUITE_P(Api, OverMpi, ::testing::ValuesIn(MethodCases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(OverMpi, GivesTheBitsOfInproc) {
  static int turn = 0;
  ExpectTheBitsOfInproc(GetParam().yaml, turn++);
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
  (void)Train(group, rank, 2);
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
  (void)Train(group, WorldRank(), 2);
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
