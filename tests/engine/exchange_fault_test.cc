// SPDX-License-Identifier: Apache-2.0
//
// The transport fails at each collective of an exchange in turn (between powersgd's P and Q, between the two
// halves of a scatter-reduce): every rank says so and names the rank, nothing hangs, and the memories are
// those of a step that was skipped: the gradient waits in the residual, all else is as it was.
#include <cmath>
#include <memory>
#include <ostream>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "runtime/controller/policy/static_policy.h"
#include "runtime/engine/batch.h"
#include "runtime/engine/tensor.h"
#include "tests/engine/cut_group.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;
using transport::Cut;
using transport::CutGroup;

constexpr int kRanks = 3;
constexpr int kCulprit = 1;
constexpr int64_t kColumns = 47;

using Settings = std::vector<std::pair<std::string, std::string>>;
using Vector = std::vector<float>;

struct Case {
  std::string name;
  Settings settings;
  uint64_t collectives;   // of one exchange: calls of the transport
  bool messages = false;  // from rank to rank, so that a survivor does not meet the failure at the same call
  int64_t rows = 31;

  size_t n() const { return static_cast<size_t>(rows * kColumns); }
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// To and from the others, in both rounds of a scatter-reduce, and in the one of an all-gather.
constexpr uint64_t kMessages = 4;
constexpr uint64_t kGathered = 2;

std::vector<Case> Cases() {
  const auto powersgd = [](const char* error, const char* dense) {
    return Settings{{"compressor", "powersgd"}, {"powersgd.error", error}, {"dense", dense}};
  };
  return {
      {"dense", {{"compressor", "none"}}, 1},
      {"dense_deterministic", {{"compressor", "none"}, {"dense", "deterministic"}}, 2},
      {"topk", {{"compressor", "topk"}}, kGathered, true},
      // In messages while it is encoded, and one at the end.
      {"topk_told_early",
       {{"compressor", "topk"}, {"topk.density", "0.05"}, {"topk.index", "u32"}},
       4 * kGathered,
       true,
       4340},
      {"topk_sparse", {{"compressor", "topk"}, {"topk.exchange", "sparse_reduce"}}, 3},
      {"onebit", {{"compressor", "onebit"}}, kMessages, true},
      // In two pieces, whose residuals change places with those before.
      {"onebit_large", {{"compressor", "onebit"}}, 2 * kMessages, true, 44800},
      {"quantize", {{"compressor", "quantize"}}, kMessages, true},
      // In three pieces.
      {"quantize_large", {{"compressor", "quantize"}, {"quantize.bits", "2"}}, 3 * kMessages, true, 44800},
      {"fp16_sum", {{"compressor", "fp16"}, {"reduce", "sum"}}, kMessages, true},
      {"powersgd_local", powersgd("local", "native"), 2},
      {"powersgd_averaged", powersgd("averaged", "native"), 2},
      {"powersgd_deterministic", powersgd("local", "deterministic"), 4},
      {"dgc", {{"method", "dgc"}, {"dgc.density", "0.02"}}, kGathered, true},
      {"dgc_nesterov",
       {{"method", "dgc"}, {"dgc.density", "0.02"}, {"dgc.nesterov", "true"}},
       kGathered,
       true},
      {"dgc_sparse", {{"method", "dgc"}, {"dgc.density", "0.02"}, {"topk.exchange", "sparse_reduce"}}, 3},
      {"onebit_adam", {{"method", "onebit_adam"}}, kMessages, true}};
}

Vector Gradient(const Case& test, int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(100 * rank + step + 1));
  std::normal_distribution<float> normal;
  Vector g(test.n());
  for (float& x : g) x = normal(random);
  return g;
}

// One rank, without an engine around it, so that what it keeps can be looked at after a failure.
class Rank {
 public:
  Rank(const Case& test, const wire::Config& config, const std::string& hub, int rank,
       std::chrono::milliseconds patience)
      : test_(test), config_(config) {
    absl::StatusOr<std::unique_ptr<transport::Group>> group =
        transport::OpenGroup("inproc", {.rank = rank, .world_size = kRanks, .hub = hub});
    EXPECT_TRUE(group.ok()) << group.status();
    group_ = std::make_unique<CutGroup>(*std::move(group));
    runner_ = std::make_unique<BatchRunner>(config_, group_.get(), patience, TimeSource::Machine());
    tensor_.name = "w";
    tensor_.shape = {test.rows, kColumns};
    tensor_.elements = tensor_.job_elements = test.n();
    tensor_.world_size = kRanks;
    tensor_.SetRow(
        policy::StaticRow(config_, kRanks, {0, tensor_.name, tensor_.dtype, test.n(), tensor_.shape}));
    tensor_.method = MakeTensorMethod(config_, tensor_.Facts());
  }

  absl::Status Exchange(int step) {
    const Vector gradient = Gradient(test_, group_->rank(), step);
    Vector out(test_.n());
    const Call call{.tensor = 0, .send = gradient.data(), .recv = out.data()};
    Tensor* const tensor = &tensor_;
    return runner_->Run({}, {&call, 1}, {&tensor, 1});
  }
  void Step(int step) {
    ASSERT_TRUE(Exchange(step).ok());
    ASSERT_TRUE(ResolvePending(&tensor_, 1.0).ok());
    if (step == 0) tensor_.method->Freeze(1);
  }

  // Empty when there is none.
  Vector Memory(std::string_view name) {
    Vector found;
    tensor_.method->VisitState([&](std::string_view visited, wire::MemoryRole, FloatVector* values) {
      if (visited == name) found.assign(values->begin(), values->end());
    });
    return found;
  }
  Vector Residual() {
    const absl::Span<float> residual = tensor_.method->residual();
    return {residual.begin(), residual.end()};
  }
  Tensor& tensor() { return tensor_; }
  CutGroup& group() { return *group_; }

 private:
  const Case test_;
  const wire::Config config_;
  std::unique_ptr<CutGroup> group_;
  std::unique_ptr<BatchRunner> runner_;
  Tensor tensor_;
};

// What the rank adds to its residual when it exchanges g, of its momentum as it was before.
Vector Submitted(const wire::Config& config, const Vector& u, const Vector& g) {
  Vector sent = g;
  for (size_t i = 0; i < g.size(); ++i) {
    const auto m = static_cast<float>(config.dgc.momentum);
    if (config.method == wire::Method::kOneBitAdam) sent[i] *= static_cast<float>(1 - config.adam.beta1);
    if (config.method != wire::Method::kDgc) continue;
    sent[i] = config.dgc.nesterov ? m * (u[i] + g[i]) + g[i] : m * u[i] + g[i];
  }
  return sent;
}

void FailAndCheck(const Case& test, const wire::Config& config, uint64_t at, Cut cut, Rank* rank) {
  Tensor& tensor = rank->tensor();
  tensor.Materialize();
  const Vector residual = rank->Residual();
  const FloatVector server = tensor.server_residual;
  const std::vector<std::byte> state = tensor.worker_state;
  const Vector u = rank->Memory("u");
  const Vector m = rank->Memory("m");
  const Vector variance = rank->Memory("variance");
  if (rank->group().rank() == kCulprit) rank->group().CutAt(at, cut);
  const uint64_t calls = rank->group().calls();

  const absl::Status status = rank->Exchange(3);
  const bool culprit = rank->group().rank() == kCulprit;
  EXPECT_EQ(status.code(), cut == Cut::kGone || culprit ? absl::StatusCode::kUnavailable
                                                        : absl::StatusCode::kDeadlineExceeded)
      << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("rank ", kCulprit)));
  if (culprit || !test.messages) {
    EXPECT_EQ(rank->group().calls() - calls, at) << "the first failure ends the exchange";
  }
  EXPECT_FALSE(tensor.pending.active);

  EXPECT_EQ(tensor.server_residual, server);
  EXPECT_EQ(rank->Memory("m"), m);
  EXPECT_EQ(rank->Memory("variance"), variance);
  const bool linear = tensor.codec->kind() == Kind::kLinear;
  EXPECT_TRUE(!linear || tensor.worker_state == state) << "the warm start";
  if (tensor.row.codec == wire::Codec::kNone) {
    EXPECT_TRUE(rank->Residual().empty());
    return;  // a dense exchange keeps nothing
  }
  const Vector sent = Submitted(config, u, Gradient(test, rank->group().rank(), 3));
  const Vector now = rank->Residual();
  float most = 0;
  for (size_t i = 0; i < now.size(); ++i) most = std::max(most, std::fabs(residual[i] + sent[i]));
  // Selected, or never sent: bit by bit. Else a payload was added to what it had been taken from.
  const bool exact = tensor.codec->kind() != Kind::kSplit;
  for (size_t i = 0; i < now.size(); ++i) {
    ASSERT_NEAR(now[i], residual[i] + sent[i], exact ? 0.0f : std::ldexp(most, -20)) << i;
  }
  // Momentum is the history of gradients, delivered or not.
  const bool plain = config.method == wire::Method::kDgc && !config.dgc.nesterov;
  EXPECT_TRUE(!plain || rank->Memory("u") == sent);
}

// The culprit is cut off at the `at`-th collective of the exchange of step 3.
void CutOff(const Case& test, uint64_t at, Cut cut, std::chrono::milliseconds patience) {
  SCOPED_TRACE(absl::StrCat("cut at collective ", at));
  const wire::Config config = TestConfig(test.settings);
  const std::string hub = absl::StrCat("fault_", test.name, "_", at, "_", static_cast<int>(cut));
  // Outlive the threads: a survivor that leaves early would be a second culprit.
  std::vector<std::unique_ptr<Rank>> ranks(kRanks);
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r) {
    threads.emplace_back([&, r] {
      std::unique_ptr<Rank>& rank = ranks[static_cast<size_t>(r)];
      rank = std::make_unique<Rank>(test, config, hub, r, patience);
      for (int step = 0; step < 3; ++step) rank->Step(step);
      FailAndCheck(test, config, at, cut, rank.get());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class ExchangeFault : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Exchange, ExchangeFault, ::testing::ValuesIn(Cases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(ExchangeFault, ALostRankIsNamedAndNothingIsLost) {
  for (uint64_t at = 1; at <= GetParam().collectives; ++at) {
    CutOff(GetParam(), at, Cut::kGone, std::chrono::seconds(20));
  }
}

TEST(SilentRank, InMessagesIsNamedAtTheDeadline) {
  for (const uint64_t at : {3, 4}) {  // after its receives: with its parts, and with its sums
    CutOff({"onebit_silent", {{"compressor", "onebit"}}, kMessages, true}, at, Cut::kSilent,
           std::chrono::seconds(1));
  }
  CutOff({"topk_silent", {{"compressor", "topk"}}, kGathered, true}, 2, Cut::kSilent,
         std::chrono::seconds(1));
}

TEST(SilentRank, BetweenTheRoundsOfPowerSgdIsNamedAtTheDeadline) {
  CutOff({"powersgd_silent", {{"compressor", "powersgd"}}, 2}, 2, Cut::kSilent, std::chrono::seconds(2));
}

// The same through the engine, agreements included: the group is broken, says so without waiting, and closes.
TEST_P(ExchangeFault, TheEngineKeepsTheFirstError) {
  const wire::Config config = TestConfig(GetParam().settings);
  bool reached_the_end = false;
  for (uint64_t at = 1; !reached_the_end; ++at) {
    SCOPED_TRACE(absl::StrCat("cut at collective ", at));
    std::vector<std::unique_ptr<Engine>> engines(kRanks);
    std::vector<std::thread> threads;
    for (int r = 0; r < kRanks; ++r) {
      threads.emplace_back([&, r] {
        auto inner = transport::OpenGroup(
            "inproc", {.rank = r, .world_size = kRanks, .hub = absl::StrCat("engine_", GetParam().name, at)});
        ASSERT_TRUE(inner.ok()) << inner.status();
        auto group = std::make_unique<CutGroup>(*std::move(inner));
        CutGroup* const line = group.get();
        auto opened = Engine::Open(config, std::move(group));
        ASSERT_TRUE(opened.ok()) << opened.status();
        Engine& engine = *(engines[static_cast<size_t>(r)] = *std::move(opened));
        ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {GetParam().rows, kColumns}).ok());
        const Vector g = Gradient(GetParam(), r, 0);
        Vector out(g.size());
        const Call call{.tensor = 0, .send = g.data(), .recv = out.data()};
        ASSERT_TRUE(engine.Allreduce({&call, 1}).ok());
        ASSERT_TRUE(engine.Step(1.0).ok());
        if (r == kCulprit) line->CutAt(at, Cut::kGone);
        const uint64_t before = line->calls();
        absl::Status first = engine.Allreduce({&call, 1});
        if (line->calls() - before < at) {  // every collective of an exchange has had its turn
          if (r == kCulprit) reached_the_end = true;
          return;
        }
        EXPECT_EQ(first.code(), absl::StatusCode::kUnavailable) << first;
        EXPECT_THAT(std::string(first.message()), HasSubstr(absl::StrCat("rank ", kCulprit)));
        EXPECT_EQ(engine.Allreduce({&call, 1}), first);
        EXPECT_EQ(engine.Step(1.0), first);
        EXPECT_EQ(engine.SaveState(::testing::TempDir()), first);
        EXPECT_TRUE(engine.Close().ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_LE(at, GetParam().collectives + 8) << "an exchange that does not end";
  }
}

}  // namespace
}  // namespace terse::engine
