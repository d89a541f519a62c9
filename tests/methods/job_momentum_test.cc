// SPDX-License-Identifier: Apache-2.0
//
// The arithmetic of a job's own momentum under DGC, by hand; tests/engine/job_momentum_test.cc has whole
// jobs.
#include "compressors/methods/job_momentum.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace terse {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::IsEmpty;
using Vector = std::vector<float>;

// The one step of `d`, applied by `applied`; what the job gets.
Vector Step(JobMomentum* job, Vector d, double applied = 1.0, FloatVector* v = nullptr) {
  FloatVector none;
  EXPECT_TRUE(job->Turn(absl::MakeSpan(d)));
  job->Resolve(applied, v == nullptr ? &none : v);
  return d;
}

Vector BufferOf(JobMomentum* job) {
  Vector buffer;
  job->VisitState([&](std::string_view name, wire::MemoryRole role, FloatVector* values) {
    EXPECT_EQ(name, "job_buffer");
    EXPECT_EQ(role, wire::MemoryRole::kReplicated);
    buffer.assign(values->begin(), values->end());
  });
  return buffer;
}

// m = 1/2: the job's buffer is 1, then 0 = 1/2 - 1/2, then 2.
TEST(JobMomentum, PlainTakesOffWhatTheBufferKeeps) {
  JobMomentum job(0.5, false, 1.0);
  EXPECT_THAT(BufferOf(&job), IsEmpty());
  EXPECT_THAT(Step(&job, {1, 4}), ElementsAre(1, 4));
  EXPECT_THAT(Step(&job, {0, 4}), ElementsAre(-0.5f, 2));
  EXPECT_THAT(Step(&job, {2, 0}), ElementsAre(2, -2));
  EXPECT_THAT(BufferOf(&job), ElementsAre(2, 0));
}

// a = 3 / 1.5 moves by 2 + 1 and leaves 2; a = -1/3 moves by -1/3 + 1/2 (1 - 1/3) = 0.
TEST(JobMomentum, NesterovLooksAheadOnce) {
  JobMomentum job(0.5, true, 1.0);
  EXPECT_THAT(Step(&job, {3}), ElementsAre(FloatEq(2)));
  EXPECT_THAT(Step(&job, {0}), ElementsAre(FloatEq(-1.0f / 3)));
  EXPECT_THAT(BufferOf(&job), ElementsAre(FloatEq(2.0f / 3)));
}

TEST(JobMomentum, ASkippedStepDoesNotMoveTheBuffer) {
  for (const bool nesterov : {false, true}) {
    JobMomentum job(0.5, nesterov, 1.0);
    FloatVector v;
    Step(&job, {2}, 1.0, &v);
    const Vector before = BufferOf(&job);
    Step(&job, {8}, 0.0, &v);
    EXPECT_EQ(BufferOf(&job), before);
    EXPECT_TRUE(v.empty());
  }
}

// Buffer 2, d = 8: a = 7. Of a quarter the job's buffer is 1 + 7/4, and moves by that: 8/4 and 3/4 too much.
// With Nesterov buffer 4/3, a = (8 - 1/3) / 1.5.
TEST(JobMomentum, WhatAClippedStepMovesTooFarIsTakenOffWhatWaits) {
  for (const double unit : {1.0, 0.25}) {
    JobMomentum job(0.5, false, unit);
    FloatVector v = {5};
    Step(&job, {2});
    EXPECT_THAT(Step(&job, {8}, 0.25, &v), ElementsAre(7));
    EXPECT_THAT(BufferOf(&job), ElementsAre(2.75f));
    EXPECT_EQ(v[0], 5 - static_cast<float>(0.75 * unit));
  }
  JobMomentum job(0.5, true, 1.0);
  FloatVector v;
  Step(&job, {2});
  const float a = Step(&job, {8}, 0.25, &v)[0];
  const double buffer = 0.5 * (4.0 / 3) + 0.25 * double{a};
  EXPECT_THAT(BufferOf(&job), ElementsAre(FloatEq(static_cast<float>(buffer))));
  EXPECT_NEAR(v[0], -(0.25 * double{a} + 0.5 * buffer - 0.25 * 8), 1e-6);
}

// Three steps of m = 1/2: what waits gains (1/2 + 1/4 + 1/8) (u - b), and an eighth of u and b is left.
TEST(JobMomentum, ExactStepsLetMomentumPass) {
  for (const bool nesterov : {false, true}) {
    JobMomentum job(0.5, nesterov, 0.5);
    Step(&job, {16});
    const float b = BufferOf(&job)[0];
    FloatVector u = {8};
    FloatVector v = {1};
    job.PassExact(3, &u, &v);
    EXPECT_THAT(BufferOf(&job), ElementsAre(b / 8));
    EXPECT_THAT(u, ElementsAre(1));
    EXPECT_THAT(v, ElementsAre(FloatEq(1 + 0.875f * (8 - (nesterov ? 0.25f : 0.5f) * b))));
  }
}

TEST(JobMomentum, ExactStepsWithoutEndLeaveNothing) {
  JobMomentum job(0.5, false, 1.0);
  Step(&job, {16});
  FloatVector u = {8};
  FloatVector v;
  job.PassExact(std::numeric_limits<uint64_t>::max(), &u, &v);
  EXPECT_THAT(BufferOf(&job), ElementsAre(0));
  EXPECT_THAT(u, ElementsAre(0));
  EXPECT_TRUE(v.empty());
}

// 3e38 was delivered, and -3e38 would have to be -5.7e38 to undo its momentum: no float.
TEST(JobMomentum, AResultBeyondFloatLeavesTheBuffer) {
  JobMomentum job(0.9, false, 1.0);
  FloatVector v;
  Step(&job, {3e38f}, 1.0, &v);
  Vector d = {-3e38f};
  EXPECT_FALSE(job.Turn(absl::MakeSpan(d)));
  EXPECT_TRUE(std::isinf(d[0]));
  job.Resolve(1.0, &v);
  EXPECT_THAT(BufferOf(&job), ElementsAre(3e38f));
}

// The plain form as it is written above, element by element.
struct PlainModel {
  float m;
  Vector b;
  Vector next;

  Vector Turn(Vector d) {
    b.resize(d.size());
    next.resize(d.size());
    for (size_t i = 0; i < d.size(); ++i) {
      const float kept = m * b[i];
      d[i] -= kept;
      next[i] = kept + d[i];
    }
    return d;
  }
  void Resolve(float applied, Vector* v) {
    if (applied == 1) b = next;
    if (applied <= 0 || applied == 1) return;
    v->resize(b.size());
    for (size_t i = 0; i < b.size(); ++i) {
      const float kept = m * b[i];
      (*v)[i] -= (1 - applied) * kept;
      b[i] = kept + applied * (next[i] - kept);
    }
  }
};

std::vector<uint32_t> Bits(const Vector& values) {
  std::vector<uint32_t> bits;
  for (const float x : values) bits.push_back(std::bit_cast<uint32_t>(x));
  return bits;
}

// Results of every density in turn, with what steps may end in between: lists and vectors come to the same
// bits.
TEST(JobMomentum, SparseResultsGiveTheSameBits) {
  constexpr size_t kSize = 1000 + 37;
  std::mt19937 random(5);
  auto job = std::make_unique<JobMomentum>(0.75, false, 1.0);
  PlainModel model{.m = 0.75f, .b = {}, .next = {}};
  FloatVector v;
  Vector expected_v;
  size_t sparse_steps = 0;
  size_t passed = 0;
  for (int step = 0; step < 600; ++step) {
    const size_t count = std::vector<size_t>{0, 1, 5, 8, 9, 40, kSize}[random() % (step % 60 < 50 ? 4 : 7)];
    sparse_steps += count <= 8 ? 1 : 0;
    Vector d(kSize);
    std::set<size_t> touched;
    for (size_t i = 0; i < count; ++i) {
      // Here and there what was there before, which then is in both lists.
      const size_t at = count == kSize ? i : (i % 2 == 0 ? 13 * i : random() % kSize);
      d[at] = std::vector<float>{1.5f, -2.25f, 1e-40f, -0.0f, 3e30f}[random() % 5];
      touched.insert(at);
    }
    // What is 0 may be among the positions, as where the ranks' values cancel.
    if (count < kSize) touched.insert(random() % kSize);
    const std::vector<uint32_t> support(touched.begin(), touched.end());
    const Vector a = model.Turn(d);
    ASSERT_TRUE(random() % 2 == 0 ? job->Turn(absl::MakeSpan(d), support) : job->Turn(absl::MakeSpan(d)));
    ASSERT_EQ(Bits(d), Bits(a)) << "step " << step;
    const float applied = std::vector<float>{1, 1, 1, 1, 0, 0.25f}[random() % 6];
    job->Resolve(applied, &v);
    model.Resolve(applied, &expected_v);
    ASSERT_EQ(Bits({v.begin(), v.end()}), Bits(expected_v)) << "step " << step;
    if (random() % 16 == 0) {
      ASSERT_EQ(Bits(BufferOf(job.get())), Bits(model.b)) << "step " << step;
    }
    if (random() % 32 == 0) {
      // With and without something that waits: of u - b, 3/4 and 9/16 of it.
      FloatVector u(kSize, 1.0f);
      FloatVector none;
      job->PassExact(2, &u, random() % 2 == 0 || expected_v.empty() ? &none : &v);
      if (Bits({v.begin(), v.end()}) != Bits(expected_v)) {
        ++passed;
        for (size_t i = 0; i < kSize; ++i) expected_v[i] += (0.75f + 0.5625f) * (1 - model.b[i]);
      }
      for (float& x : model.b) x *= 0.75f * 0.75f;
      ASSERT_EQ(Bits({v.begin(), v.end()}), Bits(expected_v)) << "step " << step;
    }
    if (random() % 32 == 0) {
      // Saved and loaded into another.
      const Vector saved = BufferOf(job.get());
      job = std::make_unique<JobMomentum>(0.75, false, 1.0);
      job->VisitState([&](std::string_view, wire::MemoryRole, FloatVector* values) {
        values->assign(saved.begin(), saved.end());
      });
    }
  }
  EXPECT_GT(sparse_steps, 200u);
  EXPECT_GT(passed, 0u);
}

TEST(JobMomentum, ASparseResultBeyondFloatLeavesTheBuffer) {
  JobMomentum job(0.9, false, 1.0);
  FloatVector v;
  Vector d(1000);
  d[7] = 3e38f;
  Step(&job, d, 1.0, &v);
  for (const float bad : {-3e38f, std::numeric_limits<float>::quiet_NaN()}) {
    Vector next(1000);
    next[7] = bad;
    EXPECT_FALSE(job.Turn(absl::MakeSpan(next)));
    job.Resolve(1.0, &v);
  }
  // And goes on from it.
  Vector next(1000);
  next[8] = 1;
  EXPECT_EQ(Step(&job, next)[7], -0.9f * 3e38f);
  EXPECT_EQ(BufferOf(&job)[7], 0.0f);
  EXPECT_EQ(BufferOf(&job)[8], 1.0f);
}

}  // namespace
}  // namespace terse
