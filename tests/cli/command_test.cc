// SPDX-License-Identifier: Apache-2.0
//
// The `terse` command from outside: exit codes, what goes to stdout and what to stderr.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace terse::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct Result {
  int code = -1;
  std::string out;
  std::string err;
};

std::filesystem::path Scratch(const std::string& name) {
  return std::filesystem::path(::testing::TempDir()) / ("terse_cli_" + std::to_string(getpid()) + "_" + name);
}

std::string ReadAndRemove(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  std::filesystem::remove(path);
  return text;
}

Result Shell(const std::string& command) {
  const std::filesystem::path out = Scratch("out");
  const std::filesystem::path err = Scratch("err");
  const int status = std::system((command + " >" + out.string() + " 2>" + err.string()).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadAndRemove(out), ReadAndRemove(err)};
}

Result Terse(const std::string& arguments) { return Shell(std::string(TERSE_COMMAND) + " " + arguments); }

TEST(Command, HelpsOnEveryLevel) {
  for (const char* arguments :
       {"--help", "config --help", "config show --help", "config help --help", "bench --help",
        "bench kernels --help", "state --help", "state show --help", "advise --help", "doctor --help",
        "plan --help", "plan solve --help", "run --help", "why --help"}) {
    const Result result = Terse(arguments);
    EXPECT_EQ(result.code, 0) << arguments;
    EXPECT_THAT(result.out, HasSubstr("Usage: terse")) << arguments;
    EXPECT_THAT(result.err, IsEmpty()) << arguments;
  }
}

TEST(Command, TellsItsVersion) {
  const Result result = Terse("--version");
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, StartsWith("terse 0."));
}

TEST(Command, WrongUsageIsTwo) {
  for (const char* arguments : {"",
                                "frobnicate",
                                "why",
                                "run",
                                "run --topk-desnity 1 -- true",
                                "run --topk-density -- true",
                                "--frobnicate",
                                "config",
                                "config show --nothing",
                                "config show --set novalue",
                                "bench --elements zero",
                                "bench --elements 0",
                                "bench --repeat 0",
                                "bench --repeat many",
                                "bench --case nothing",
                                "bench kernels --kernels dgc_selekt",
                                "bench kernels --elements 0",
                                "bench kernels --threads 0",
                                "bench --ranks 2 --set transport.name=mpi",
                                "state",
                                "state show",
                                "advise",
                                "advise --mpi other -- true",
                                "advise -- true"}) {
    const Result result = Terse(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_THAT(result.out, IsEmpty()) << arguments;
    EXPECT_THAT(result.err, Not(IsEmpty())) << arguments;
  }
}

TEST(Command, WrongConfigurationIsFourAndNamed) {
  const Result value = Terse("config show --set topk.density=7");
  EXPECT_EQ(value.code, 4);
  EXPECT_THAT(value.err, HasSubstr("topk.density"));
  EXPECT_THAT(value.err, HasSubstr("0 < x <= 1"));
  EXPECT_THAT(value.out, IsEmpty());

  EXPECT_EQ(Terse("config show --set topk.desnity=0.1").code, 4);
  EXPECT_EQ(Terse("bench --set compressor=zip").code, 4);
  EXPECT_EQ(Terse("bench --case 'x: compressor=zip'").code, 4);
  EXPECT_EQ(Shell(std::string("TERSE_SEED=many ") + TERSE_COMMAND + " config show").code, 4);
  const Result file = Terse("config show --config /nowhere/terse.yaml");
  EXPECT_EQ(file.code, 4);
  EXPECT_THAT(file.err, HasSubstr("/nowhere/terse.yaml"));
}

TEST(Command, ShowTellsOrigins) {
  const std::filesystem::path file = Scratch("terse.yaml");
  std::ofstream(file) << "compressor: topk\nseed: 3\n";
  const Result result = Shell("TERSE_QUANTIZE_BITS=8 " TERSE_COMMAND " config show --origin --config " +
                              file.string() + " --set seed=4 --set topk.density=0.5");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("compressor = topk  # file\n"));
  EXPECT_THAT(result.out, HasSubstr("quantize.bits = 8  # environment\n"));
  EXPECT_THAT(result.out, HasSubstr("seed = 4  # flag\n"));
  EXPECT_THAT(result.out, HasSubstr("topk.density = 0.5  # flag\n"));
  EXPECT_THAT(result.out, HasSubstr("method = allreduce  # default\n"));
  EXPECT_THAT(Terse("config show --config " + file.string()).out, Not(HasSubstr("#")));

  const auto json = nlohmann::json::parse(Terse("config show --json --config " + file.string()).out);
  EXPECT_EQ(json.at(0), (nlohmann::json{{"key", "method"}, {"value", "allreduce"}, {"origin", "default"}}));
  std::filesystem::remove(file);
}

TEST(Command, HelpOfTheConfigurationNamesEveryKey) {
  const Result help = Terse("config help");
  EXPECT_EQ(help.code, 0);
  for (const nlohmann::json& line : nlohmann::json::parse(Terse("config show --json").out)) {
    EXPECT_THAT(help.out, HasSubstr(line.at("key").get<std::string>()));
  }
}

// The same bytes for ever: what 0.1.0 saved of two ranks after three steps.
constexpr char kSaved[] = TERSE_SOURCE_DIR "/tests/golden/state";

TEST(State, ShowsWhatWasSaved) {
  const Result table = Terse(std::string("state show ") + kSaved);
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("method     onebit_adam\n"));
  EXPECT_THAT(table.out, HasSubstr("step       3, and 1 skipped\n"));
  EXPECT_THAT(table.out, HasSubstr("ranks      2\n"));
  EXPECT_THAT(table.out, HasSubstr("variance   frozen after step 2\n"));
  EXPECT_THAT(table.out, HasSubstr("worker_error "));

  const Result json = Terse(std::string("state show --json ") + kSaved);
  EXPECT_EQ(json.code, 0) << json.err;
  const nlohmann::json state = nlohmann::json::parse(json.out);
  EXPECT_EQ(state.at("method"), "onebit_adam");
  EXPECT_EQ(state.at("whole"), true);
  EXPECT_EQ(state.at("tensors").at(0).at("name"), "weight");
  EXPECT_EQ(state.at("tensors").at(0).at("memories").size(), 4u);
}

TEST(State, DamageIsAFailureThatNamesTheFile) {
  const std::filesystem::path copy = Scratch("state");
  std::filesystem::copy(kSaved, copy, std::filesystem::copy_options::recursive);
  const std::filesystem::path file = copy / "save-1" / "rank-1-of-2.terse";
  std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-20, std::ios::end);
    stream.put(0x55);
  }
  const Result damaged = Terse("state show " + copy.string());
  EXPECT_EQ(damaged.code, 1);
  EXPECT_THAT(damaged.out, IsEmpty());
  EXPECT_THAT(damaged.err, HasSubstr(file.string() + ": the checksum of a section does not fit"));
  std::filesystem::remove(file);
  const Result part = Terse("state show " + copy.string());
  EXPECT_EQ(part.code, 0) << part.err;
  EXPECT_THAT(part.out, HasSubstr("only the files of 1 are here"));
  std::filesystem::remove_all(copy);

  const Result nowhere = Terse("state show /nowhere/state");
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.err, HasSubstr("/nowhere/state"));
}

TEST(Bench, ByItselfRunsThreads) {
  const Result result = Terse("bench --elements 5K,50K --repeat 2 --warmup 1 --json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty()) << "no progress unless a person watches";
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("transport"), "inproc");
  EXPECT_EQ(json.at("world_size"), 4);
  EXPECT_EQ(json.at("repeat"), 2);
  ASSERT_EQ(json.at("results").size(), 12u) << "6 cases by 2 sizes";
  for (const nlohmann::json& row : json.at("results")) {
    SCOPED_TRACE(row.dump());
    EXPECT_GT(row.at("dense_ms"), 0);
    EXPECT_GT(row.at("terse_ms"), 0);
    EXPECT_EQ(row.at("dense_ring_bytes"), 6 * row.at("elements").get<double>());
    EXPECT_GT(row.at("ratio"), 1.5);
    EXPECT_NE(row.at("codec"), "none");
    EXPECT_EQ(row.at("relative_error").is_null(), row.at("method") != "allreduce");
  }
  // The payload of 4 bits is an eighth; of half precision a half. Headers are counted.
  EXPECT_NEAR(json.at("results").at(6).at("ratio"), 2, 0.1);
  EXPECT_NEAR(json.at("results").at(7).at("ratio"), 8, 0.5);
  EXPECT_LT(json.at("results").at(6).at("relative_error"), 1e-3);
}

TEST(Bench, TakesAnyConfiguration) {
  const std::filesystem::path file = Scratch("bench.yaml");
  std::ofstream(file) << "compressor: quantize\nquantize:\n  bits: 8\nrank: 5\nworld_size: 9\n";
  const Result result =
      Terse("bench --ranks 3 --elements 10K --repeat 1 --warmup 0 --json --config " + file.string() +
            " --case 'eight bit: reduce=sum' --case 'two bit: quantize.bits=2'"
            " --case 'adam: method=onebit_adam,compressor=onebit,adam.freeze=3'"
            " --case 'frozen by itself: method=onebit_adam,compressor=onebit'");
  std::filesystem::remove(file);
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("world_size"), 3);
  const nlohmann::json& rows = json.at("results");
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_NEAR(rows[0].at("ratio"), 4, 0.3);
  EXPECT_LT(rows[0].at("relative_error"), 0.1);
  EXPECT_GT(rows[1].at("ratio"), 12);
  // The one repetition that counts comes after the freeze.
  EXPECT_GT(rows[2].at("ratio"), 20);
  EXPECT_GT(rows[3].at("ratio"), 20);
}

TEST(Bench, SaysWhatWentDense) {
  const Result result = Terse("bench --ranks 2 --elements 100 --repeat 1 --warmup 0 --set compressor=topk");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("note: configured, 100 elements, went dense: "));
  EXPECT_THAT(result.out, HasSubstr("min_elements"));
}

// The ids are part of the interface (docs/cli.md).
TEST(BenchKernels, MeasuresEveryKernelAtEverySize) {
  const std::vector<std::string> ids = {
      "onebit_encode", "onebit_decode4", "quantize4_encode", "quantize8_encode", "quantize4_decode4",
      "dgc_select",    "topk_encode",    "sparse_decode4",   "half_convert",     "powersgd4"};
  const Result result = Terse("bench kernels --elements 100,300K --threads 1,2 --repeat 3 --json");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty());
  const nlohmann::json rows = nlohmann::json::parse(result.out);
  ASSERT_EQ(rows.size(), 4 * ids.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(rows[i].dump());
    EXPECT_EQ(rows[i].size(), 7u);
    EXPECT_EQ(rows[i].at("kernel"), ids[i % ids.size()]);
    EXPECT_EQ(rows[i].at("elements"), i < 2 * ids.size() ? 100 : 300'000);
    EXPECT_EQ(rows[i].at("threads"), 1 + i / ids.size() % 2);
    EXPECT_THAT(rows[i].at("target").get<std::string>(), Not(IsEmpty()));
    EXPECT_GT(rows[i].at("ms"), 0);
    EXPECT_GT(rows[i].at("memcpy_ms"), 0);
    EXPECT_DOUBLE_EQ(rows[i].at("ratio"),
                     rows[i].at("ms").get<double>() / rows[i].at("memcpy_ms").get<double>());
  }
}

TEST(BenchKernels, TakesTheKernelsAndTheInstructionSetAskedFor) {
  const Result result = Shell("TERSE_SIMD=scalar " TERSE_COMMAND
                              " bench kernels --elements 5K --repeat 1 --kernels powersgd4,half_convert");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("powersgd4"));
  EXPECT_THAT(result.out, HasSubstr("half_convert"));
  EXPECT_THAT(result.out, HasSubstr("SCALAR"));
  EXPECT_THAT(result.out, Not(HasSubstr("dgc_select")));
  EXPECT_EQ(Shell("TERSE_SIMD=mmx " TERSE_COMMAND " bench kernels --elements 5K").code, 4);
}

TEST(Bench, OutputThatCannotBeWrittenIsAFailure) {
  const int status = std::system(TERSE_COMMAND " config show >/dev/full 2>/dev/null");
  EXPECT_EQ(WEXITSTATUS(status), 1);
}

// Whether the process has installed its handler yet.
bool Catches(pid_t process, int signal) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("SigCgt:"))
      return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

TEST(Bench, InterruptedIs130) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    (void)!freopen("/dev/null", "w", stdout);
    execl(TERSE_COMMAND, "terse", "bench", "--elements", "100K", "--repeat", "10000", nullptr);
    _exit(99);
  }
  int status = 0;
  while (!Catches(child, SIGINT)) {
    ASSERT_EQ(waitpid(child, &status, WNOHANG), 0) << "ended by itself";
    usleep(1000);
  }
  kill(child, SIGINT);
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
}

#ifdef TERSE_LAUNCHER
TEST(Bench, UnderMpirunMeasuresMpi) {
  const Result result =
      Shell(TERSE_LAUNCHER " -n 2 " TERSE_COMMAND
                           " bench --elements 10K --repeat 2 --warmup 1 --json --case compressor=onebit");
  ASSERT_EQ(result.code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_THAT(json.at("transport").get<std::string>(), HasSubstr("mpi"));
  EXPECT_EQ(json.at("world_size"), 2);
  EXPECT_GT(json.at("results").at(0).at("ratio"), 20);

  EXPECT_EQ(Shell(TERSE_LAUNCHER " -n 2 " TERSE_COMMAND " bench --ranks 4").code, 2);
}
#endif

TEST(Command, SolvesAPlan) {
  const std::filesystem::path file = Scratch("problem");
  const auto solve = [&](const std::string& problem) {
    std::ofstream(file) << problem;
    return Terse("plan solve " + file.string());
  };
  const std::string tables = R"({"error": [[9, 5, 2], [4, 2, 1]], "size": [[2, 4, 8], [1, 2, 4]])";
  const Result solved = solve(tables + R"(, "budget": 7})");
  EXPECT_EQ(solved.code, 0) << solved.err;
  EXPECT_THAT(solved.err, IsEmpty());
  const nlohmann::json answer = nlohmann::json::parse(solved.out);
  EXPECT_EQ(answer.at("choice"), nlohmann::json({1, 1}));
  EXPECT_EQ(answer.at("size"), 6);
  EXPECT_EQ(answer.at("error"), 7);
  EXPECT_EQ(answer.at("finish"), 6);
  EXPECT_LE(answer.at("lower_bound"), 6);
  EXPECT_EQ(answer.at("way"), "exact");
  const Result piped =
      Shell("echo '" + tables + R"(, "budget": 29, "metric": "sum_squared", "ready": [0, 9]}' | )" +
            TERSE_COMMAND + " plan solve -");
  EXPECT_EQ(piped.code, 0) << piped.err;
  const nlohmann::json timed = nlohmann::json::parse(piped.out);
  EXPECT_EQ(timed.at("choice"), nlohmann::json({2, 0}));
  EXPECT_EQ(timed.at("error"), 20);
  EXPECT_EQ(timed.at("finish"), 10);

  const Result none = solve(tables + R"(, "budget": 2})");
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.out, IsEmpty());
  EXPECT_THAT(none.err, HasSubstr("no choice is within the budget of 2: the least error that there is is 3"));
  const Result broken = solve(tables);
  EXPECT_EQ(broken.code, 1);
  EXPECT_THAT(broken.err, HasSubstr("problem: not JSON: "));
  std::filesystem::remove(file);
  EXPECT_EQ(Terse("plan solve " + file.string()).code, 1);
  EXPECT_EQ(Terse("plan solve").code, 2);
  const Result folder = Terse("plan solve " + std::filesystem::temp_directory_path().string());
  EXPECT_EQ(folder.code, 1);
  EXPECT_THAT(folder.err, HasSubstr("cannot read"));
}

}  // namespace
}  // namespace terse::testing
