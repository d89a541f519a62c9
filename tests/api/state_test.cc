// SPDX-License-Identifier: Apache-2.0
//
// Saved state: a job that was saved and loaded goes on to the bit as one that was not, whatever the method,
// the codec and the moment; and a file that is not what it should be changes nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int kSize = 3;
// Larger than the chunk in which sums are taken, and no multiple of anything.
constexpr size_t kN = 9001;
constexpr char kAll[] = "\nmin_elements: 1\nexclude: []\n";

// A folder of its own for each test, removed at its end.
class StateTest : public ::testing::Test {
 protected:
  StateTest() {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~StateTest() override { fs::remove_all(path_); }
  std::string Path(const std::string& name = "state") const { return (path_ / name).string(); }

 private:
  const fs::path path_ = fs::path(::testing::TempDir()) / ("terse_state_" + std::to_string(getpid()));
};

// A job: a compressed tensor, one that only some steps use, and one that is small and dense.
struct Job {
  explicit Job(Group* group_)
      : group(group_),
        large(group->Register("large", {91, static_cast<int64_t>(kN / 91)})),
        seldom(group->Register("seldom", {300})),
        dense(group->Register("dense", {10})) {}

  // Skipped, clipped and poisoned steps among the others.
  static double Applied(int step) { return step % 7 == 3 ? 0.0 : step % 7 == 5 ? 0.5 : 1.0; }

  void Step(int step, bool call_step = true) {
    const size_t n = kN / 91 * 91;
    Vector gradient = Noise(n, group->rank(), step);
    if (step % 11 == 8 && group->rank() == 1) gradient[5] = std::numeric_limits<float>::quiet_NaN();
    const Vector little = Noise(10, group->rank(), 1000 + step);
    const Vector rare = Noise(300, group->rank(), 2000 + step);
    Vector out(n), rare_out(300), little_out(10);
    group->AllreduceMany({large, dense}, {gradient.data(), little.data()}, {out.data(), little_out.data()});
    if (step % 3 == 1) group->Allreduce(seldom, rare.data(), rare_out.data());
    if (call_step) group->Step(step % 11 == 8 ? 0.0 : Applied(step));
    results.insert(results.end(), out.begin(), out.end());
    results.insert(results.end(), rare_out.begin(), rare_out.end());
    results.insert(results.end(), little_out.begin(), little_out.end());
  }

  Group* group;
  TensorId large, seldom, dense;
  Vector results;
};

// NaN results are compared by their bits, too.
void ExpectResumes(const std::string& path, const std::string& yaml, int save_at, int steps,
                   bool call_step = true, int size = kSize) {
  std::vector<Vector> unbroken(static_cast<size_t>(size));
  std::vector<Vector> saved(unbroken.size());
  std::vector<Vector> resumed(unbroken.size());
  RunRanksOk(size, yaml, [&](Group& group, int rank) {
    Job job(&group);
    for (int step = 0; step < steps; ++step) {
      if (step == save_at) job.results.clear();
      job.Step(step, call_step);
    }
    unbroken[static_cast<size_t>(rank)] = job.results;
  });
  RunRanksOk(size, yaml, [&](Group& group, int rank) {
    Job job(&group);
    for (int step = 0; step < steps; ++step) {
      if (step == save_at) {
        group.SaveState(path);
        job.results.clear();
      }
      job.Step(step, call_step);
    }
    saved[static_cast<size_t>(rank)] = job.results;
  });
  RunRanksOk(size, yaml, [&](Group& group, int rank) {
    Job job(&group);
    group.LoadState(path);
    for (int step = save_at; step < steps; ++step) job.Step(step, call_step);
    resumed[static_cast<size_t>(rank)] = job.results;
  });
  for (size_t rank = 0; rank < unbroken.size(); ++rank) {
    EXPECT_TRUE(SameBits(unbroken[rank], saved[rank])) << "saving changed the run of rank " << rank;
    EXPECT_TRUE(SameBits(unbroken[rank], resumed[rank])) << "rank " << rank;
    EXPECT_TRUE(SameBits(resumed[rank], resumed[0])) << "rank " << rank;
  }
}

class Resume : public StateTest, public ::testing::WithParamInterface<MethodCase> {};
INSTANTIATE_TEST_SUITE_P(State, Resume, ::testing::ValuesIn(MethodCases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(Resume, IsBitIdenticalToTheUnbrokenRun) {
  for (const int save_at : {0, 1, 9, 12, 22}) {
    SCOPED_TRACE("saved before step " + std::to_string(save_at));
    ExpectResumes(Path(), GetParam().yaml + "seed: 7\ndense: deterministic\n", save_at, 34);
  }
}

TEST_F(StateTest, OneRankResumes) {
  for (const MethodCase& method : MethodCases()) {
    SCOPED_TRACE(method.name);
    ExpectResumes(Path(), method.yaml, 12, 24, true, 1);
  }
}

// Method allreduce without terse_step: what was exchanged counts as applied.
TEST_F(StateTest, AJobThatNeverCallsStepResumes) {
  for (const CodecCase& codec : CodecCases()) {
    SCOPED_TRACE(codec.name);
    ExpectResumes(Path(), codec.yaml, 10, 20, false);
  }
}

TEST_F(StateTest, LossScaleAndHalfPrecisionResume) {
  for (const terse_dtype_t dtype : {TERSE_FLOAT16, TERSE_FLOAT64}) {
    std::vector<uint64_t> runs[2];
    for (const bool resumed : {false, true}) {
      RunRanksOk(kSize, std::string("compressor: quantize") + kAll, [&](Group& group, int rank) {
        const TensorId tensor = group.Register("w", {64}, dtype);
        std::vector<uint64_t> out(64);
        if (resumed) group.LoadState(Path());
        for (int step = resumed ? 6 : 0; step < 12; ++step) {
          if (step == 6 && !resumed) group.SaveState(Path());
          group.SetLossScale(1024);
          // The bits of small numbers of either type.
          std::vector<uint64_t> gradient(64);
          for (size_t i = 0; i < 64; ++i) {
            const double value =
                1.0 / static_cast<double>(1 + (i * 7 + static_cast<size_t>(step + rank)) % 13);
            gradient[i] = dtype == TERSE_FLOAT64 ? std::bit_cast<uint64_t>(value) : 0x3c003c003c003c00u + i;
          }
          group.Allreduce(tensor, gradient.data(), out.data());
          group.Step(step % 4 == 2 ? 0 : 1);
          if (rank == 0 && step >= 6) runs[resumed].insert(runs[resumed].end(), out.begin(), out.end());
        }
      });
    }
    EXPECT_EQ(runs[0], runs[1]);
  }
}

// The whole optimizer step, whose weight decay has a memory too, and 1-bit Adam's batch and masks.
TEST_F(StateTest, OptimizerStepsBatchAndMasksResume) {
  for (const std::string method :
       {"method: dgc\ncompressor: topk\ndgc: {density: 0.05, weight_decay: 0.01}",
        "method: dgc\ncompressor: topk\ndgc: {density: 0.05, weight_decay: 0.01, decay: local}",
        "method: onebit_adam\ncompressor: onebit\nadam: {freeze: 4, weight_decay: 0.01}"}) {
    SCOPED_TRACE(method);
    const bool adam = method.find("adam") != std::string::npos;
    for (const int save_at : {3, 7, 12, 13, 18}) {
      SCOPED_TRACE(save_at);
      Vector runs[2];
      for (const bool resumed : {false, true}) {
        static Vector at_save;
        RunRanksOk(kSize, method + kAll, [&](Group& group, int rank) {
          const TensorId tensor = group.Register("w", {500});
          Vector w = Noise(500, 77, 0);
          std::vector<uint8_t> mask(500, 1);
          for (size_t i = 100; i < 140; ++i) mask[i] = 0;
          if (adam) group.SetMask(tensor, mask);
          if (resumed) {
            group.LoadState(Path());
            w = at_save;
          }
          for (int step = resumed ? save_at : 0; step < 24; ++step) {
            if (adam) group.SetGlobalBatch(step < 12 ? 64 : 128);
            if (step == save_at && !resumed) {
              group.SaveState(Path());
              if (rank == 0) at_save = w;
            }
            Vector gradient = Noise(500, rank, step);
            if (step == 10 && rank == 2) gradient[3] = std::numeric_limits<float>::infinity();
            group.OptimizerStep({tensor}, {gradient.data()}, {w.data()}, 0.01);
          }
          if (rank == 0) runs[resumed] = w;
        });
      }
      EXPECT_TRUE(SameBits(runs[0], runs[1]));
    }
  }
}

TEST_F(StateTest, IsSavedAndLoadedBetweenStepsOnly) {
  RunRanksOk(2, std::string("method: dgc\ncompressor: topk") + kAll, [&](Group& group, int) {
    const TensorId tensor = group.Register("w", {100});
    Vector values(100, 1.0f);
    group.Allreduce(tensor, values.data(), values.data());
    EXPECT_EQ(terse_state_save(group.handle(), Path().c_str()), TERSE_FAILED);
    EXPECT_THAT(terse_last_error(), HasSubstr("'w' (tensor 0) has been exchanged in this step"));
    EXPECT_EQ(terse_state_load(group.handle(), Path().c_str()), TERSE_FAILED);
    group.Step();
    group.SaveState(Path());
    group.LoadState(Path());
  });
  RunRanksOk(2, std::string("compressor: topk") + kAll, [&](Group& group, int rank) {
    const TensorId tensor = group.Register("w", {100});
    Vector values(100, 1.0f);
    group.Allreduce(tensor, values.data(), values.data());
    group.Step();
    // One rank alone is in the middle of something, and all hear of it.
    Request request;
    if (rank == 1) request = group.AllreduceAsync(tensor, values.data(), values.data());
    EXPECT_EQ(terse_state_save(group.handle(), Path().c_str()), TERSE_FAILED);
    EXPECT_THAT(terse_last_error(), HasSubstr("rank 1: requests are outstanding"));
    if (rank == 0) request = group.AllreduceAsync(tensor, values.data(), values.data());
    request.Wait();
    group.Step();
  });
}

TEST_F(StateTest, LoadingReplacesWhatTheGroupHas) {
  RunRanksOk(kSize, std::string("compressor: onebit") + kAll, [&](Group& group, int) {
    Job job(&group);
    for (int step = 0; step < 5; ++step) job.Step(step);
    group.SaveState(Path());
    job.results.clear();
    for (int step = 5; step < 12; ++step) job.Step(step);
    const Vector first = std::exchange(job.results, {});
    group.LoadState(Path());
    for (int step = 5; step < 12; ++step) job.Step(step);
    EXPECT_TRUE(SameBits(first, job.results));
  });
}

// Configurations that load one that was saved with compressor quantize, and those that do not.
TEST_F(StateTest, ConfigurationsMayDifferInWhatMemoriesDoNotMean) {
  const std::string base = std::string("compressor: quantize") + kAll;
  RunRanksOk(2, base, [&](Group& group, int) {
    Job job(&group);
    for (int step = 0; step < 4; ++step) job.Step(step);
    group.SaveState(Path());
  });
  for (const std::string other :
       {"compressor: topk", "compressor: none", "compressor: quantize\nquantize: {bits: 2}",
        "compressor: quantize\ndense: deterministic", "compressor: quantize\ntopk: {density: 0.5}",
        "compressor: quantize\nseed: 9", "compressor: onebit\nadam: {freeze: 7}"}) {
    RunRanksOk(2, other + kAll, [&](Group& group, int) {
      Job job(&group);
      group.LoadState(Path());
      for (int step = 4; step < 8; ++step) job.Step(step);
      EXPECT_THAT(group.Report(), HasSubstr("\"steps\":7"));
    });
  }
  const std::pair<std::string, std::string> refused[] = {
      {"method: dgc\ncompressor: topk", "saved with method = allreduce, this group has dgc"},
      {"compressor: quantize\nreduce: sum", "reduce = mean"},
      {"compressor: quantize\nerror_feedback: false", "error_feedback = true"}};
  for (const auto& [other, words] : refused) {
    RunRanksOk(2, other + kAll, [&, words = words](Group& group, int) {
      Job job(&group);
      EXPECT_EQ(terse_state_load(group.handle(), Path().c_str()), TERSE_INVALID_ARGUMENT);
      EXPECT_THAT(terse_last_error(), HasSubstr(words));
      EXPECT_THAT(terse_last_error(), HasSubstr("rank-0-of-2.terse"));
      job.Step(0);
    });
  }
}

TEST_F(StateTest, OtherTensorsAreRefused) {
  RunRanksOk(2, std::string("compressor: quantize") + kAll, [&](Group& group, int) {
    group.Register("a", {4, 4});
    group.SaveState(Path());
  });
  const auto refused = [&](const std::function<void(Group&)>& prepare, const std::string& words,
                           const std::string& yaml = "compressor: quantize") {
    RunRanksOk(2, yaml + kAll, [&](Group& group, int) {
      prepare(group);
      EXPECT_EQ(terse_state_load(group.handle(), Path().c_str()), TERSE_INVALID_ARGUMENT) << words;
      EXPECT_THAT(terse_last_error(), HasSubstr(words));
    });
  };
  refused([](Group&) {}, "it holds 1 tensors, 0 are registered");
  refused(
      [](Group& group) {
        group.Register("b", {4, 4});
      },
      "it has 'a' float32 [4, 4] as tensor 0 where 'b'");
  refused([](Group& group) { group.Register("a", {16}); }, "[16]");
  refused([](Group& group) { group.Register("a", {4, 4}, TERSE_FLOAT16); }, "float16");
  RunRanksOk(2, std::string("method: onebit_adam\ncompressor: onebit") + kAll, [&](Group& group, int) {
    group.Register("a", {4, 4});
    group.SaveState(Path());
  });
  refused(
      [](Group& group) {
        std::vector<uint8_t> mask(16, 1);
        mask[3] = 0;
        group.SetMask(group.Register("a", {4, 4}), mask);
      },
      "set the same mask before loading", "method: onebit_adam\ncompressor: onebit");
}

// --- damaged, missing and mixed files ---

class Damaged : public StateTest {
 protected:
  static constexpr int kRanks = 2;
  void Save(const std::string& path, int steps) const {
    RunRanksOk(kRanks, yaml_, [&](Group& group, int) {
      Job job(&group);
      for (int step = 0; step < steps; ++step) job.Step(step);
      group.SaveState(path);
    });
  }
  // Nothing loads, all ranks say so, and the group goes on as if nothing had been.
  void ExpectRefused(terse_status_t status, const std::string& words) const {
    Vector runs[2];
    for (const bool tried : {false, true}) {
      RunRanksOk(kRanks, yaml_, [&](Group& group, int rank) {
        Job job(&group);
        for (int step = 0; step < 3; ++step) job.Step(step);
        if (tried) {
          EXPECT_EQ(terse_state_load(group.handle(), Path().c_str()), status) << words;
          EXPECT_THAT(terse_last_error(), HasSubstr(words));
        }
        for (int step = 3; step < 6; ++step) job.Step(step);
        if (rank == 1) runs[tried] = job.results;
      });
    }
    EXPECT_TRUE(SameBits(runs[0], runs[1])) << words;
  }
  std::string File(int save, int rank) const {
    return Path() + "/save-" + std::to_string(save) + "/rank-" + std::to_string(rank) + "-of-2.terse";
  }
  static void Change(const std::string& file, int64_t at, char value) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(at, at < 0 ? std::ios::end : std::ios::beg);
    stream.put(value);
  }
  const std::string yaml_ = std::string("compressor: onebit") + kAll;
};

TEST_F(Damaged, FilesAreRefusedByName) {
  ExpectRefused(TERSE_NOT_FOUND, Path());
  fs::create_directories(Path());
  ExpectRefused(TERSE_NOT_FOUND, "it holds no saved state");
  Save(Path(), 4);
  const auto size = fs::file_size(File(1, 1));
  const auto damage = [&](const std::function<void(const std::string&)>& how, terse_status_t status,
                          const std::string& words) {
    fs::copy_file(File(1, 1), Path("whole"), fs::copy_options::overwrite_existing);
    how(File(1, 1));
    ExpectRefused(status, words);
    fs::remove_all(File(1, 1));
    fs::copy_file(Path("whole"), File(1, 1));
  };
  damage([&](const std::string& file) { fs::resize_file(file, size - 1); }, TERSE_DATA_LOSS,
         "rank-1-of-2.terse: it has " + std::to_string(size - 1) + " bytes");
  damage([&](const std::string& file) { fs::resize_file(file, 20); }, TERSE_DATA_LOSS, "it has 20 bytes");
  damage([&](const std::string& file) { fs::resize_file(file, 0); }, TERSE_DATA_LOSS, "it has 0 bytes");
  damage([&](const std::string& file) { Change(file, -100, 0x55); }, TERSE_DATA_LOSS, "checksum");
  damage([&](const std::string& file) { Change(file, 30, 0x55); }, TERSE_DATA_LOSS, "checksum of its header");
  damage([&](const std::string& file) { Change(file, 0, 'X'); }, TERSE_DATA_LOSS, "this is no saved state");
  damage([&](const std::string& file) { Change(file, 8, 2); }, TERSE_FAILED,
         "version 2, this build reads version 1");
  damage(
      [&](const std::string& file) { fs::copy_file(File(1, 0), file, fs::copy_options::overwrite_existing); },
      TERSE_DATA_LOSS, "it is the file of rank 0 of 2");
  damage([&](const std::string& file) { fs::remove(file); }, TERSE_NOT_FOUND,
         "save-1 lacks rank-1-of-2.terse");
  damage(
      [&](const std::string& file) {
        fs::remove(file);
        fs::create_directory(file);
      },
      TERSE_FAILED, "no plain file");
  RunRanksOk(kRanks, yaml_, [&](Group& group, int) {
    Job job(&group);
    group.LoadState(Path());
  });
}

TEST_F(Damaged, FilesOfTwoSavesAreRefusedByName) {
  Save(Path(), 4);
  Save(Path("other"), 5);
  fs::copy_file(Path("other") + "/save-1/rank-1-of-2.terse", File(1, 1),
                fs::copy_options::overwrite_existing);
  ExpectRefused(TERSE_DATA_LOSS, "save-1 mixes two saves: the file of rank 0");
}

TEST_F(Damaged, ASaveReplacesTheOneBefore) {
  Save(Path(), 4);
  EXPECT_TRUE(fs::exists(File(1, 0)));
  Save(Path(), 5);
  EXPECT_FALSE(fs::exists(Path() + "/save-1"));
  EXPECT_TRUE(fs::exists(File(2, 1)));
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::recursive_directory_iterator(Path())) ++entries;
  EXPECT_EQ(entries, 3u) << "a folder and two files: nothing temporary stays";
}

// What a crash in the middle of a save leaves: some files, temporary ones too, in a folder of their own.
TEST_F(Damaged, AfterACrashTheSaveBeforeIsLoaded) {
  Save(Path(), 4);
  Save(Path("later"), 6);
  fs::create_directory(Path() + "/save-2");
  fs::copy_file(Path("later") + "/save-1/rank-0-of-2.terse", File(2, 0));
  fs::copy_file(Path("later") + "/save-1/rank-1-of-2.terse", File(2, 1) + ".tmp");
  RunRanksOk(kRanks, yaml_, [&](Group& group, int) {
    Job job(&group);
    group.LoadState(Path());
    EXPECT_THAT(group.Report(), HasSubstr("\"steps\":3"));  // and one that was skipped
    group.SaveState(Path());
  });
  EXPECT_TRUE(fs::exists(File(3, 0))) << "a number that nobody has had";
  EXPECT_FALSE(fs::exists(Path() + "/save-2"));
}

TEST_F(Damaged, ARankThatCannotWriteFailsAllAndLosesNothing) {
  Save(Path(), 4);
  // Under a file no folder can be made: also for root, whom permissions do not stop.
  std::ofstream(Path("file")) << "x";
  RunRanksOk(kRanks, yaml_, [&](Group& group, int rank) {
    Job job(&group);
    const std::string path = rank == 0 ? Path() : Path("file") + "/state";
    EXPECT_EQ(terse_state_save(group.handle(), path.c_str()), TERSE_FAILED);
    EXPECT_THAT(terse_last_error(), HasSubstr("rank 1: "));
    EXPECT_THAT(terse_last_error(), HasSubstr(Path("file")));
    job.Step(0);
    group.LoadState(Path());
    EXPECT_THAT(group.Report(), HasSubstr("\"steps\":3"));
  });
}

// Each rank may have a folder of its own, as on machines that share none.
TEST_F(Damaged, FoldersNeedNotBeShared) {
  const auto path = [&](int rank) { return Path("node" + std::to_string(rank)); };
  RunRanksOk(kRanks, yaml_, [&](Group& group, int rank) {
    Job job(&group);
    for (int step = 0; step < 4; ++step) job.Step(step);
    group.SaveState(path(rank));
    group.LoadState(path(rank));
  });
  RunRanksOk(3, yaml_, [&](Group& group, int rank) {
    Job job(&group);
    EXPECT_EQ(terse_state_load(group.handle(), path(rank % 2).c_str()), TERSE_NOT_FOUND);
    EXPECT_THAT(terse_last_error(), HasSubstr("put them into one directory that all ranks share"));
  });
}

// Files of version 1, as committed, load for ever: with UPDATE_GOLDEN=1 this test writes them anew, for
// another version.
TEST_F(StateTest, CommittedFilesAreLoaded) {
  const std::string golden = TERSE_SOURCE_DIR "/tests/golden/state";
  const std::string yaml = std::string("method: onebit_adam\ncompressor: onebit\nadam: {freeze: 2}") + kAll;
  const bool update = std::getenv("UPDATE_GOLDEN") != nullptr;
  Vector runs[2];
  for (const bool loaded : {false, true}) {
    RunRanksOk(2, yaml, [&](Group& group, int rank) {
      const TensorId weight = group.Register("weight", {5, 8});
      const TensorId bias = group.Register("bias", {3});
      if (loaded) group.LoadState(golden);
      Vector out(40), little(3);
      for (int step = loaded ? 4 : 0; step < 8; ++step) {
        group.AllreduceMany({weight, bias},
                            {WholeNumbers(40, rank, step).data(), WholeNumbers(3, rank, step).data()},
                            {out.data(), little.data()});
        group.Step(step == 2 ? 0 : 1);
        if (update && !loaded && step == 3) group.SaveState(golden);
      }
      if (rank == 0) runs[loaded] = out;
    });
  }
  EXPECT_TRUE(SameBits(runs[0], runs[1]));
}

TEST_F(StateTest, IsShown) {
  RunRanksOk(kSize, std::string("compressor: quantize") + kAll, [&](Group& group, int) {
    Job job(&group);
    for (int step = 0; step < 5; ++step) job.Step(step);
    group.SaveState(Path());
  });
  char* text = nullptr;
  ASSERT_EQ(terse_state_show(Path().c_str(), &text), TERSE_OK) << terse_last_error();
  const nlohmann::json json = nlohmann::json::parse(text);
  terse_string_free(text);
  EXPECT_EQ(json.at("method"), "allreduce");
  EXPECT_EQ(json.at("step"), 4);
  EXPECT_EQ(json.at("skipped_steps"), 1);
  EXPECT_EQ(json.at("world_size"), kSize);
  EXPECT_EQ(json.at("whole"), true);
  EXPECT_EQ(json.at("config").at("compressor"), "quantize");
  ASSERT_EQ(json.at("tensors").size(), 3u);
  const nlohmann::json& large = json.at("tensors").at(0);
  EXPECT_EQ(large.at("codec"), "quantize");
  EXPECT_EQ(large.at("memories").at(0).at("name"), "residual");
  EXPECT_EQ(large.at("memories").at(0).at("elements"), kSize * (kN / 91 * 91));
  EXPECT_GT(large.at("memories").at(0).at("norm"), 0.0);
  EXPECT_EQ(large.at("memories").at(1).at("name"), "server_error");
  EXPECT_EQ(terse_state_show(Path("nowhere").c_str(), &text), TERSE_NOT_FOUND);
}

}  // namespace
}  // namespace terse::testing
