// SPDX-License-Identifier: Apache-2.0
#include "proto/wire/config.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse::wire {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string Message(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

// A value of each key that is not its default.
const std::map<std::string, std::string>& OtherValues() {
  static const auto& values = *new std::map<std::string, std::string>{
      {"method", "dgc"},
      {"compressor", "topk"},
      {"error_feedback", "false"},
      {"reduce", "sum"},
      {"dense", "deterministic"},
      {"min_elements", "0"},
      {"include", "[layer.*]"},
      {"exclude", "[embedding.*]"},
      {"dense_when_faster", "false"},
      {"topk.density", "0.5"},
      {"topk.index", "u32"},
      {"topk.selection", "sampled"},
      {"topk.values", "bf16"},
      {"topk.exchange", "sparse_reduce"},
      {"quantize.bits", "8"},
      {"quantize.block", "1024"},
      {"quantize.rounding", "stochastic"},
      {"quantize.span", "max"},
      {"onebit.scale", "l1"},
      {"onebit.block", "4096"},
      {"powersgd.rank", "8"},
      {"powersgd.error", "averaged"},
      {"dgc.density", "0.01"},
      {"dgc.momentum", "0"},
      {"dgc.nesterov", "true"},
      {"dgc.masking", "false"},
      {"dgc.clip", "2.5"},
      {"dgc.weight_decay", "0.125"},
      {"dgc.decay", "local"},
      {"topk.warmup_steps", "50"},
      {"topk.warmup_density", "[0.5]"},
      {"dgc.warmup_steps", "100"},
      {"dgc.warmup_density", "[1, 0.1]"},
      {"dgc.job_momentum", "0.95"},
      {"dgc.job_nesterov", "true"},
      {"adam.beta1", "0.5"},
      {"adam.beta2", "0.95"},
      {"adam.eps", "1e-06"},
      {"adam.weight_decay", "0.01"},
      {"adam.bias_correction", "true"},
      {"adam.freeze", "20"},
      {"adam.lr_warmup_steps", "7"},
      {"adam.variance_floor", "0"},
      {"policy.name", "lgreco_accordion"},
      {"policy.interval", "50"},
      {"policy.window", "5"},
      {"policy.families", "[topk, powersgd]"},
      {"policy.error", "squared"},
      {"policy.alpha", "2"},
      {"policy.gain", "0.1"},
      {"policy.objective", "time"},
      {"policy.history", "plans"},
      {"policy.record", "plans.new"},
      {"controller.address", "controller:7400"},
      {"controller.token_file", "token"},
      {"controller.job", "train"},
      {"tls.ca", "ca.pem"},
      {"tls.cert", "cert.pem"},
      {"tls.key", "key.pem"},
      {"network.gbit", "25"},
      {"network.latency_us", "7.5"},
      {"transport.name", "inproc"},
      {"transport.timeout_s", "5"},
      {"transport.hub", "another"},
      {"rank", "3"},
      {"world_size", "8"},
      {"seed", "42"},
      {"threads", "3"},
      {"trace", "traces"},
      {"disable", "true"},
  };
  return values;
}

TEST(ConfigTable, EveryRowIsComplete) {
  std::set<std::string> paths;
  std::set<std::string> environment_names;
  for (const ConfigKey& key : ConfigKeys()) {
    SCOPED_TRACE(std::string(key.path));
    EXPECT_TRUE(paths.emplace(key.path).second);
    EXPECT_TRUE(environment_names.insert(EnvironmentName(key.path)).second);
    EXPECT_THAT(OtherEnvironment(), Not(Contains(EnvironmentName(key.path))));
    EXPECT_FALSE(key.type.empty());
    EXPECT_FALSE(key.allowed.empty());
    EXPECT_FALSE(key.help.empty());
    EXPECT_EQ(FindConfigKey(key.path), &key);
    EXPECT_EQ(OtherValues().count(std::string(key.path)), 1u) << "add a value to this test";
  }
  EXPECT_EQ(paths.size(), OtherValues().size());
}

// A row that reads or writes another row's field, or none, fails here.
TEST(ConfigTable, EveryRowWritesItsOwnField) {
  for (const ConfigKey& key : ConfigKeys()) {
    SCOPED_TRACE(std::string(key.path));
    Config config;
    const std::string& other = OtherValues().at(std::string(key.path));
    ASSERT_NE(key.get(config), other);
    ASSERT_TRUE(key.set(other, &config).ok());
    EXPECT_EQ(key.get(config), other);
    EXPECT_FALSE(config == Config());
    for (const ConfigKey& another : ConfigKeys()) {
      if (&another == &key) continue;
      EXPECT_EQ(another.get(config), another.get(Config())) << another.path;
    }
    ASSERT_TRUE(key.set(key.get(Config()), &config).ok());
    EXPECT_TRUE(config == Config());
  }
}

TEST(ConfigTable, RefusesWhatNoKeyAllows) {
  for (const ConfigKey& key : ConfigKeys()) {
    SCOPED_TRACE(std::string(key.path));
    Config config;
    // A path may have blanks, and be long.
    const std::string blank = key.type == "path" ? "a\nb" : "a b";
    for (const std::string& text : {blank, std::string("\0", 1), std::string(5000, 'x')}) {
      EXPECT_THAT(Message(key.set(text, &config)), testing::StartsWith("must be"));
    }
    EXPECT_TRUE(config == Config());
  }
}

TEST(ConfigTable, Ranges) {
  struct Case {
    const char* path;
    std::vector<const char*> good;
    std::vector<const char*> bad;
  };
  const Case cases[] = {
      {"method", {"allreduce", "dgc", "onebit_adam"}, {"DGC", "adam"}},
      {"compressor",
       {"none", "fp16", "bf16", "topk", "onebit", "quantize", "powersgd"},
       {"int8", "PowerSGD"}},
      {"min_elements", {"0", "1000000"}, {"-1", "1.5"}},
      {"topk.density", {"1", "1e-9"}, {"0", "-0.1", "1.01", "nan"}},
      {"quantize.bits", {"1", "8"}, {"0", "9"}},
      {"quantize.block", {"16", "65536"}, {"0", "8", "24", "65552"}},
      {"onebit.block", {"0", "8", "1073741824"}, {"4", "-8", "1073741832"}},
      {"powersgd.rank", {"1", "1024"}, {"0", "1025"}},
      {"powersgd.error", {"averaged", "local"}, {"mean", ""}},
      {"dgc.density", {"0.001"}, {"0", "2"}},
      {"dgc.momentum", {"0", "0.99"}, {"1", "-0.1"}},
      {"dgc.job_momentum", {"none", "0", "0.99"}, {"1", "-0.1", "None", ""}},
      {"dgc.clip", {"0", "0.5"}, {"-1", "nan"}},
      {"dgc.weight_decay", {"0", "10"}, {"-1e-9", "inf"}},
      {"dgc.decay", {"buffer", "local"}, {"global", ""}},
      {"topk.selection", {"exact", "sampled"}, {"random"}},
      {"topk.values", {"fp32", "fp16", "bf16"}, {"fp64"}},
      {"topk.exchange", {"auto", "all_gather", "sparse_reduce"}, {"dense", "all-gather", ""}},
      {"policy.name", {"static", "lgreco", "accordion", "lgreco_accordion", "replay"}, {"L-GreCo", ""}},
      {"policy.interval", {"1", "1000000000"}, {"0", "-1", "auto"}},
      {"policy.window", {"1", "10"}, {"0"}},
      {"policy.error", {"l2", "squared", "relative", "adam"}, {"l1"}},
      {"policy.alpha", {"0.5", "4"}, {"0", "-1", "inf"}},
      {"policy.gain", {"0", "0.5"}, {"-0.1"}},
      {"network.gbit", {"0.1", "400"}, {"0", "-1", "fast"}},
      {"network.latency_us", {"0", "2.5"}, {"-1", "inf"}},
      {"dgc.warmup_density", {"[]", "1"}, {"[0]", "[0.1, 1.1]"}},
      {"topk.warmup_density", {"[]", "0.25, 0.1"}, {"[0]", "[2]"}},
      {"adam.beta1", {"0", "0.9"}, {"1"}},
      {"adam.beta2", {"0", "0.9999"}, {"1"}},
      {"adam.eps", {"1e-300"}, {"0", "-1e-8"}},
      {"adam.variance_floor", {"0", "1"}, {"-0.01"}},
      {"adam.freeze", {"auto", "1", "100000"}, {"-1", "0", "Auto", "1.5", ""}},
      {"adam.lr_warmup_steps", {"0", "1000"}, {"-1", "auto"}},
      {"adam.bias_correction", {"true", "false"}, {"maybe"}},
      {"transport.name", {"mpi", "mpi_openmpi", "mpi_mpich", "inproc"}, {"nccl", "MPI", ""}},
      {"transport.timeout_s", {"1", "86400"}, {"0", "86401", "1.5"}},
      {"rank", {"-1", "0", "2147483646"}, {"-2", "2147483647"}},
      {"world_size", {"-1", "1", "2147483647"}, {"-2", "0", "2147483648"}},
      {"seed", {"0", "9223372036854775807"}, {"-1"}},
  };
  for (const Case& c : cases) {
    for (const char* text : c.good) {
      EXPECT_TRUE(Settings().Set(c.path, text, Origin::kFile).ok()) << c.path << " = " << text;
    }
    for (const char* text : c.bad) {
      EXPECT_FALSE(Settings().Set(c.path, text, Origin::kFile).ok()) << c.path << " = " << text;
    }
  }
}

TEST(ConfigTable, EnvironmentNames) {
  EXPECT_EQ(EnvironmentName("topk.density"), "TERSE_TOPK_DENSITY");
  EXPECT_EQ(EnvironmentName("transport.timeout_s"), "TERSE_TRANSPORT_TIMEOUT_S");
  EXPECT_EQ(EnvironmentName("rank"), "TERSE_RANK");
  EXPECT_EQ(EnvironmentName("world_size"), "TERSE_WORLD_SIZE");
  EXPECT_EQ(EnvironmentName("seed"), "TERSE_SEED");
  EXPECT_EQ(EnvironmentName("disable"), "TERSE_DISABLE");
}

TEST(Settings, ErrorsNameKeyValueAndWhatIsAllowed) {
  Settings settings;
  EXPECT_EQ(Message(settings.Set("compressor", "zip", Origin::kFile)),
            "compressor: \"zip\" is not allowed; it must be one of none | fp16 | bf16 | topk | onebit | "
            "quantize | powersgd");
  EXPECT_EQ(Message(settings.Set("topk.density", "2", Origin::kFile)),
            "topk.density: \"2\" is not allowed; it must be a number x, 0 < x <= 1");
  EXPECT_EQ(Message(settings.Set("topk.densty", "0.1", Origin::kFile)),
            "unknown key \"topk.densty\"; did you mean \"topk.density\"?");
  EXPECT_TRUE(settings.config() == Config());
  EXPECT_EQ(settings.origin("topk.density"), Origin::kDefault);
}

TEST(Settings, HigherOriginsWinInAnyOrder) {
  Settings settings;
  ASSERT_TRUE(settings.Set("seed", "1", Origin::kEnvironment).ok());
  ASSERT_TRUE(settings.Set("seed", "2", Origin::kFile).ok());
  EXPECT_EQ(settings.config().seed, 1);
  EXPECT_EQ(settings.origin("seed"), Origin::kEnvironment);
  EXPECT_FALSE(settings.Set("seed", "x", Origin::kFile).ok());
  ASSERT_TRUE(settings.Set("seed", "3", Origin::kFlag).ok());
  ASSERT_TRUE(settings.Set("seed", "4", Origin::kFlag).ok());
  EXPECT_EQ(settings.config().seed, 4);
  EXPECT_EQ(settings.origin("seed"), Origin::kFlag);
}

TEST(Settings, Environment) {
  Settings settings;
  ASSERT_TRUE(settings
                  .SetFromEnvironment({"PATH=/bin", "TERSE_TOPK_DENSITY=0.5", "TERSE_EXCLUDE=",
                                       "TERSE_CONFIG=x", "TERSE_LOG=debug", "TERSE_SIMD=AVX2",
                                       "TERSE_PLUGIN_PATH=/p", "TERSENESS=1", "TERSE_DISABLE=1", "HOME", ""})
                  .ok());
  EXPECT_EQ(settings.config().topk.density, 0.5);
  EXPECT_TRUE(settings.config().exclude.empty());
  EXPECT_TRUE(settings.config().disable);
  EXPECT_EQ(settings.origin("topk.density"), Origin::kEnvironment);
  EXPECT_EQ(settings.origin("seed"), Origin::kDefault);
}

TEST(Settings, EnvironmentErrorsChangeNothing) {
  Settings settings;
  const auto set = [&settings](const char* variable) {
    return Message(settings.SetFromEnvironment({"TERSE_SEED=7", variable}));
  };
  EXPECT_EQ(set("TERSE_TOPK_DENSTY=0.5"),
            "unknown environment variable \"TERSE_TOPK_DENSTY\"; did you mean \"TERSE_TOPK_DENSITY\"?");
  EXPECT_EQ(set("TERSE_COFIG=x"),
            "unknown environment variable \"TERSE_COFIG\"; did you mean \"TERSE_CONFIG\"?");
  EXPECT_THAT(set("TERSE_topk_density=0.5"), HasSubstr("unknown environment variable"));
  EXPECT_THAT(set("TERSE_=1"), HasSubstr("unknown environment variable \"TERSE_\""));
  EXPECT_EQ(set("TERSE_RANK"), "environment variable TERSE_RANK has no value");
  EXPECT_EQ(set("TERSE_SEED=7"), "environment variable TERSE_SEED is there twice");
  EXPECT_EQ(set("TERSE_QUANTIZE_BITS=9"),
            "environment variable TERSE_QUANTIZE_BITS: quantize.bits: \"9\" is not allowed; it must be an "
            "integer, 1 to 8");
  EXPECT_TRUE(settings.config() == Config());
  EXPECT_EQ(settings.origin("seed"), Origin::kDefault);
}

absl::Status Validated(const std::vector<std::pair<const char*, const char*>>& values) {
  Settings settings;
  for (const auto& [path, text] : values) {
    const absl::Status status = settings.Set(path, text, Origin::kFile);
    if (!status.ok()) return status;
  }
  return settings.Validate();
}

TEST(Validate, Accepts) {
  EXPECT_TRUE(Validated({}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"compressor", "topk"}, {"dgc.warmup_steps", "10"}}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"dgc.warmup_density", "[]"}}).ok());
  EXPECT_TRUE(Validated({{"method", "onebit_adam"}}).ok());
  EXPECT_TRUE(Validated({{"method", "onebit_adam"}, {"adam.freeze", "1"}, {"compressor", "onebit"}}).ok());
  EXPECT_TRUE(Validated({{"error_feedback", "false"}, {"reduce", "sum"}, {"compressor", "none"}}).ok());
  EXPECT_TRUE(Validated({{"rank", "0"}, {"world_size", "1"}}).ok());
  EXPECT_TRUE(Validated({{"world_size", "4"}}).ok());
  EXPECT_TRUE(Validated({{"quantize.bits", "1"}}).ok());
  EXPECT_TRUE(Validated({{"quantize.bits", "2"}, {"quantize.rounding", "stochastic"}}).ok());
  EXPECT_TRUE(Validated({{"quantize.span", "l2"}, {"quantize.block", "192"}}).ok());
  EXPECT_TRUE(
      Validated({{"quantize.span", "l2"}, {"quantize.rounding", "stochastic"}, {"quantize.block", "48"}})
          .ok());
  EXPECT_TRUE(Validated({{"quantize.span", "l2"}, {"error_feedback", "false"}}).ok());
  EXPECT_TRUE(Validated({{"compressor", "topk"}, {"quantize.span", "l2"}}).ok()) << "not used";
}

// DGC's momentum is the job's, in whatever order the two are read.
TEST(Settings, DgcFollowsTheMomentumOfTheJob) {
  Settings settings;
  ASSERT_TRUE(settings.Set("dgc.job_nesterov", "true", Origin::kFile).ok());
  EXPECT_FALSE(settings.config().dgc.nesterov);
  ASSERT_TRUE(settings.Set("dgc.job_momentum", "0.95", Origin::kFile).ok());
  EXPECT_EQ(settings.config().dgc.job_momentum, 0.95);
  EXPECT_EQ(settings.config().dgc.momentum, 0.95);
  EXPECT_TRUE(settings.config().dgc.nesterov);
  EXPECT_EQ(settings.origin("dgc.momentum"), Origin::kDefault);
  ASSERT_TRUE(settings.Set("dgc.job_momentum", "none", Origin::kFlag).ok());
  EXPECT_EQ(settings.config().dgc.momentum, 0.9);
  EXPECT_FALSE(settings.config().dgc.nesterov);
  ASSERT_TRUE(settings.Set("dgc.momentum", "0.5", Origin::kFile).ok());
  ASSERT_TRUE(settings.Set("dgc.job_momentum", "0.99", Origin::kFlag).ok());
  EXPECT_EQ(settings.config().dgc.momentum, 0.5);
}

TEST(Validate, TheMomentumOfAJob) {
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0.95"}}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0.9"}, {"dgc.momentum", "0.9"}}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0"}, {"reduce", "sum"}}).ok());
  EXPECT_TRUE(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0.9"}, {"dgc.job_nesterov", "true"}}).ok());
  EXPECT_TRUE(Validated({{"dgc.job_nesterov", "true"}}).ok()) << "not used";
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0.95"}, {"dgc.momentum", "0.9"}})),
              AllOf(HasSubstr("dgc.momentum = 0.9"), HasSubstr("dgc.job_momentum = 0.95 differ")));
  EXPECT_THAT(Message(Validated({{"method", "dgc"},
                                 {"dgc.job_momentum", "0.9"},
                                 {"dgc.job_nesterov", "true"},
                                 {"dgc.nesterov", "false"}})),
              AllOf(HasSubstr("dgc.nesterov = false"), HasSubstr("dgc.job_nesterov = true differ")));
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"dgc.job_nesterov", "true"}})),
              HasSubstr("needs dgc.job_momentum"));
  EXPECT_THAT(
      Message(Validated({{"method", "dgc"}, {"dgc.job_momentum", "0.9"}, {"dgc.weight_decay", "0.1"}})),
      HasSubstr("dgc.weight_decay"));
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"reduce", "sum"}})),
              HasSubstr("or state dgc.job_momentum"));
}

TEST(Validate, RefusesWhatDoesNotGoTogether) {
  EXPECT_THAT(Message(Validated({{"method", "onebit_adam"}, {"adam.freeze", "0"}})),
              AllOf(HasSubstr("adam.freeze"), HasSubstr("auto, or an integer, 1 to")));
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"compressor", "quantize"}})),
              AllOf(HasSubstr("compressor: quantize"), HasSubstr("method: dgc"), HasSubstr("topk")));
  EXPECT_THAT(Message(Validated({{"method", "onebit_adam"}, {"adam.freeze", "9"}, {"compressor", "topk"}})),
              AllOf(HasSubstr("compressor: topk"), HasSubstr("onebit")));
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"error_feedback", "false"}})),
              HasSubstr("error_feedback"));
  EXPECT_THAT(
      Message(Validated({{"method", "onebit_adam"}, {"adam.freeze", "9"}, {"error_feedback", "false"}})),
      HasSubstr("error_feedback"));
  EXPECT_THAT(Message(Validated({{"method", "dgc"}, {"reduce", "sum"}})), HasSubstr("reduce: sum"));
  EXPECT_THAT(Message(Validated({{"method", "onebit_adam"}, {"adam.freeze", "9"}, {"reduce", "sum"}})),
              HasSubstr("reduce: sum"));
  EXPECT_THAT(
      Message(Validated({{"method", "dgc"}, {"dgc.warmup_steps", "5"}, {"dgc.warmup_density", "[]"}})),
      HasSubstr("dgc.warmup_density"));
  EXPECT_THAT(Message(Validated({{"topk.warmup_steps", "5"}, {"topk.warmup_density", "[]"}})),
              HasSubstr("needs topk.warmup_density"));
  EXPECT_THAT(Message(Validated({{"quantize.bits", "1"}, {"quantize.rounding", "stochastic"}})),
              AllOf(HasSubstr("may leave behind 2.0 times"), HasSubstr("quantize.rounding: nearest")));
  EXPECT_THAT(Message(Validated({{"quantize.span", "l2"}})),
              AllOf(HasSubstr("over the norm of 512 elements may leave behind 1.6 times"),
                    HasSubstr("a smaller quantize.block")));
  EXPECT_THAT(
      Message(Validated({{"quantize.span", "max"}, {"quantize.bits", "1"}, {"error_feedback", "false"}})),
      HasSubstr("one bit is for the sign"));
  EXPECT_THAT(Message(Validated({{"rank", "0"}})), HasSubstr("needs world_size"));
  EXPECT_THAT(Message(Validated({{"rank", "4"}, {"world_size", "4"}})), HasSubstr("not below"));
}

TEST(Settings, ShowNamesEveryOrigin) {
  Settings settings;
  ASSERT_TRUE(settings.Set("topk.density", "0.5", Origin::kFile).ok());
  ASSERT_TRUE(settings.Set("seed", "3", Origin::kFlag).ok());
  ASSERT_TRUE(settings.SetFromEnvironment({"TERSE_ADAM_EPS=1e-6"}).ok());
  const std::string text = settings.Show();
  EXPECT_THAT(text, testing::StartsWith("method = allreduce  # default\ncompressor = quantize  # default\n"));
  EXPECT_THAT(text, HasSubstr("\nexclude = [*.bias, *norm*]  # default\n"));
  EXPECT_THAT(text, HasSubstr("\ntopk.density = 0.5  # file\n"));
  EXPECT_THAT(text, HasSubstr("\nadam.eps = 1e-06  # environment\n"));
  EXPECT_THAT(text, HasSubstr("\nseed = 3  # flag\n"));
  EXPECT_EQ(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')), ConfigKeys().size());
}

TEST(AgreedText, HasAllKeysButThoseOfARank) {
  const std::set<std::string> per_rank = {
      "rank",          "transport.timeout_s",   "transport.hub",  "threads", "trace",    "policy.history",
      "policy.record", "controller.token_file", "controller.job", "tls.ca",  "tls.cert", "tls.key"};
  const std::string text = absl::StrCat("\n", AgreedText(Config()));
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string line = absl::StrCat("\n", std::string(key.path), " = ", key.get(Config()), "\n");
    const bool listed = text.find(line) != std::string::npos;
    EXPECT_EQ(listed, per_rank.count(std::string(key.path)) == 0) << key.path;
  }
  Config other;
  other.rank = 3;
  other.transport.timeout_s = 1;
  other.transport.hub = "b";
  EXPECT_EQ(AgreedText(other), AgreedText(Config()));
  other.seed = 1;
  EXPECT_NE(AgreedText(other), AgreedText(Config()));
}

// Whatever text a key gets, it is refused and nothing changes, or it reads back to the same value.
TEST(Settings, SurvivesRandomTexts) {
  std::mt19937 random(11);
  const absl::Span<const ConfigKey> keys = ConfigKeys();
  const std::string alphabet = "0123456789.-+eE[],\"' xnaitopkruefls*?\n\t\x80";
  size_t accepted = 0;
  Settings settings;
  for (int i = 0; i < 200000; ++i) {
    const ConfigKey& key = keys[random() % keys.size()];
    std::string text = random() % 2 == 0 ? OtherValues().at(std::string(key.path)) : key.get(Config());
    for (uint32_t edits = random() % 4; edits > 0; --edits) {
      const char c = alphabet[random() % alphabet.size()];
      const size_t at = random() % (text.size() + 1);
      if (random() % 2 == 0 || text.empty()) {
        text.insert(at, 1, c);
      } else {
        text[at % text.size()] = c;
      }
    }
    const std::string before = key.get(settings.config());
    if (!settings.Set(key.path, text, Origin::kFile).ok()) {
      ASSERT_EQ(key.get(settings.config()), before);
      continue;
    }
    ++accepted;
    const std::string canonical = key.get(settings.config());
    Config back;
    ASSERT_TRUE(key.set(canonical, &back).ok()) << key.path << " = " << canonical;
    ASSERT_EQ(key.get(back), canonical);
  }
  EXPECT_GT(accepted, 10000u);
}

}  // namespace
}  // namespace terse::wire
