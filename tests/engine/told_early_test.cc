// SPDX-License-Identifier: Apache-2.0
//
// Entries that travel while the rest of a tensor is looked at: what arrives is what was selected, bit by bit,
// whatever was told early and taken back.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "proto/wire/frame.h"
#include "runtime/engine/exchange/entries.h"
#include "tests/engine/passing_group.h"
#include "tests/engine/ranks.h"

namespace terse::engine {
namespace {

using ::testing::HasSubstr;
using Vector = std::vector<float>;

// --- What is said after what was told.

Entries Make(const std::map<uint32_t, float>& entries) {
  Entries made;
  for (const auto& [position, value] : entries) made.Append(position, value);
  return made;
}

TEST(Entries, WhatIsSaidInTheEndMakesOfTheToldWhatWasSelected) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 500; ++trial) {
    std::map<uint32_t, float> all;
    for (size_t i = random() % 40; i > 0; --i) all[random() % 60] = static_cast<float>(random() % 9 + 1);
    std::map<uint32_t, float> told;
    std::map<uint32_t, float> selected;
    const uint32_t share = random() % 5;
    for (const auto& entry : all) {
      if (random() % 4 < share) told.insert(entry);
      if (random() % 4 < 3) selected.insert(entry);
    }
    Entries rest;
    Entries taken_back;
    Entries joined;
    Correct(Make(told), Make(selected), &rest, &taken_back);
    ASSERT_TRUE(Corrected(Make(told), rest, taken_back, &joined).ok());
    EXPECT_EQ(joined.positions, Make(selected).positions);
    EXPECT_EQ(joined.values, Make(selected).values);
    EXPECT_EQ(told.size() + rest.size(), selected.size() + taken_back.size()) << "nothing is said twice";
  }
}

TEST(Entries, WhatNobodySaysIsRefused) {
  const Entries told = Make({{3, 1.0f}, {7, 2.0f}});
  Entries joined;
  for (const uint32_t position : {2u, 5u, 9u}) {
    const absl::Status vain = Corrected(told, {}, Make({{position, 1.0f}}), &joined);
    EXPECT_EQ(vain.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(vain.message()), HasSubstr("taken back"));
  }
  EXPECT_EQ(Corrected(told, {}, Make({{3, 1.0f}, {4, 1.0f}, {7, 2.0f}}), &joined).code(),
            absl::StatusCode::kDataLoss);
  const absl::Status twice = Corrected(told, Make({{7, 2.0f}}), {}, &joined);
  EXPECT_EQ(twice.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("told twice"));
  EXPECT_EQ(Corrected(told, Make({{3, 2.0f}}), Make({{3, 1.0f}}), &joined).code(),
            absl::StatusCode::kDataLoss);
}

// --- Exchanges.

constexpr size_t kN = 300'000;  // enough for kernel threads to share

// What a rank's frames held, all together.
struct Said {
  size_t early = 0;  // entries
  size_t rest = 0;
  size_t taken_back = 0;
  size_t messages = 0;
};

// Reads the frames that pass.
class ReadingGroup final : public transport::PassingGroup {
 public:
  ReadingGroup(std::unique_ptr<transport::Group> group, Said* said)
      : PassingGroup(std::move(group)), said_(*said) {}

  transport::OperationOr SendToOthers(int tag, absl::Span<const transport::ConstBuffer> from,
                                      transport::Stream stream) override {
    const transport::ConstBuffer& message = from[rank() == 0 ? 1 : 0];
    wire::Bytes bytes(static_cast<const std::byte*>(message.data), message.bytes);
    ++said_.messages;
    bool last = false;
    while (!bytes.empty()) {
      const absl::StatusOr<wire::ParsedFrame> frame = wire::TakeFrame(bytes);
      EXPECT_TRUE(frame.ok()) << frame.status();
      if (!frame.ok()) break;
      size_t& count = frame->header.count < kN ? said_.early : last ? said_.taken_back : said_.rest;
      count += wire::Load<uint32_t>(frame->payload.data());
      last = frame->header.count == kN;
    }
    return PassingGroup::SendToOthers(tag, from, stream);
  }

 private:
  absl::Status BeforeStart(size_t) override { return absl::OkStatus(); }

  Said& said_;
};

// Gradients whose thresholds are foreseen, and then are not.
Vector Gradient(int rank, int step) {
  std::mt19937 random(static_cast<uint32_t>(977 * rank + step));
  std::normal_distribution<float> normal;
  Vector g(kN);
  for (float& x : g) x = normal(random);
  const auto scale = [&](float by) {
    for (float& x : g) x *= by;
  };
  if (step == 6) scale(30.0f);        // everything passes what is sure
  if (step == 8) scale(1.0f / 1024);  // nothing does
  if (step == 10) {                   // all in the first stretch
    for (size_t i = 0; i < kN / 8; ++i) g[i] *= 100.0f;
  }
  if (step == 12) {  // the threshold rises with the last elements, so that what was told is taken back
    for (size_t i = kN - kN / 16; i < kN; ++i) g[i] = std::copysign(500.0f + std::fabs(g[i]), g[i]);
  }
  if (step == 14) std::fill(g.begin(), g.end(), 0.5f);  // all of one size
  if (step >=
      18) {  // more and more, in places: at some scale the candidates of a second thread are too many to keep
    for (size_t i = 0; i < kN; ++i) {
      if (i / 32'768 % 2 == 1) g[i] *= 1.0f + 2.0f * static_cast<float>(step - 17);
    }
  }
  return g;
}
constexpr int kSteps = 24;

// Top-k with error feedback of all ranks, by sorting.
class Reference {
 public:
  Reference(int ranks, size_t k) : residuals_(static_cast<size_t>(ranks), Vector(kN)), k_(k) {}

  Vector Exchange(int step) {
    Vector sum(kN);
    const float weight = 1.0f / static_cast<float>(residuals_.size());
    std::vector<uint32_t> order(kN);
    for (size_t r = 0; r < residuals_.size(); ++r) {
      Vector& c = residuals_[r];
      const Vector g = Gradient(static_cast<int>(r), step);
      for (size_t i = 0; i < kN; ++i) c[i] = g[i] + c[i];
      std::iota(order.begin(), order.end(), 0u);
      std::nth_element(order.begin(), order.begin() + static_cast<ptrdiff_t>(k_) - 1, order.end(),
                       [&](uint32_t a, uint32_t b) {
                         const float x = std::fabs(c[a]);
                         const float y = std::fabs(c[b]);
                         return x != y ? x > y : a < b;
                       });
      for (size_t e = 0; e < k_; ++e) {
        const uint32_t i = order[e];
        sum[i] += weight * c[i];
        c[i] = 0.0f;
      }
    }
    return sum;
  }

 private:
  std::vector<Vector> residuals_;
  size_t k_;
};

void CompareWithReference(int ranks, int threads, const std::string& coding, std::vector<Said>* said) {
  std::vector<Vector> expected;
  Reference reference(ranks, kN / 20);
  for (int step = 0; step < kSteps; ++step) expected.push_back(reference.Exchange(step));
  const wire::Config config = TestConfig({{"compressor", "topk"},
                                          {"topk.density", "0.05"},
                                          {"topk.index", coding},
                                          {"threads", std::to_string(threads)}});
  said->resize(static_cast<size_t>(ranks));
  RunRanks(
      ranks,
      [&](int rank, std::unique_ptr<transport::Group> group) {
        return Engine::Open(
            config, std::make_unique<ReadingGroup>(std::move(group), &(*said)[static_cast<size_t>(rank)]));
      },
      [&](Engine& engine) {
        ASSERT_TRUE(engine.Register("w", wire::DType::kFloat32, {static_cast<int64_t>(kN)}).ok());
        for (int step = 0; step < kSteps; ++step) {
          const Vector g = Gradient(engine.rank(), step);
          Vector out(kN);
          const Call call{.tensor = 0, .send = g.data(), .recv = out.data()};
          const absl::Status status = engine.Allreduce({&call, 1});
          ASSERT_TRUE(status.ok()) << status;
          ASSERT_TRUE(engine.Step(1.0).ok());
          ASSERT_EQ(out, expected[static_cast<size_t>(step)]) << "step " << step;
        }
      });
}

TEST(ToldEarly, WhatArrivesIsWhatWasSelected) {
  for (const int ranks : {2, 3}) {
    for (const char* const coding : {"rice", "u32"}) {
      std::vector<Said> said;
      CompareWithReference(ranks, 1, coding, &said);
      for (const Said& by : said) {
        // All cases were there: told, told in the end, and taken back.
        EXPECT_GT(by.early, kN / 20 * 2);
        EXPECT_GT(by.rest, kN / 20 * 4);
        EXPECT_GT(by.taken_back, kN / 20);
        EXPECT_GE(by.messages, kSteps * 2u);
      }
    }
  }
}

TEST(ToldEarly, ManyThreadsTellTheSame) {
  std::vector<Said> one;
  std::vector<Said> many;
  CompareWithReference(2, 1, "rice", &one);
  CompareWithReference(2, 3, "rice", &many);
  for (size_t r = 0; r < one.size(); ++r) {
    EXPECT_EQ(many[r].early, one[r].early);
    EXPECT_EQ(many[r].taken_back, one[r].taken_back);
  }
}

}  // namespace
}  // namespace terse::engine
