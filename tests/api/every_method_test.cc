// SPDX-License-Identifier: Apache-2.0
//
// What a training loop does, and what every method must make of it: loss scaling, several backward passes,
// tensors that rest, ranks without a gradient, clipping by the norm of everything. Each compares two runs bit
// by bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/api/ranks.h"
#include "tests/matrix_shape.h"

namespace terse::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kSize = 3;
constexpr size_t kN = 1500;

class EveryMethod : public ::testing::TestWithParam<MethodCase> {
 protected:
  // The results that rank 0 returns from `body`; all ranks must return the same.
  using Run = std::function<std::vector<Vector>(Group& group, TensorId tensor, int rank)>;
  static std::vector<Vector> ResultsOf(const Run& body) {
    std::vector<std::vector<Vector>> results(kSize);
    RunRanksOk(kSize, GetParam().yaml, [&](Group& group, int rank) {
      const TensorId tensor = group.Register("weight", MatrixShape(kN));
      results[static_cast<size_t>(rank)] = body(group, tensor, rank);
    });
    for (const std::vector<Vector>& result : results) ExpectSame(result, results[0]);
    return results[0];
  }

  static void ExpectSame(const std::vector<Vector>& a, const std::vector<Vector>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(SameBits(a[i], b[i])) << "exchange " << i;
  }
};
INSTANTIATE_TEST_SUITE_P(Api, EveryMethod, ::testing::ValuesIn(MethodCases()),
                         [](const auto& instance) { return instance.param.name; });

void AddWhole(const Vector& values, Vector* sum) {
  for (size_t i = 0; i < values.size(); ++i) (*sum)[i] += values[i];
}

// Methods that keep a momentum refuse a second exchange, and nothing has happened. (Method allreduce takes it
// as the next step's.)
void ExpectOneExchangeAStep(const MethodCase& method, Group& group, TensorId tensor, const Vector& gradient) {
  if (method.yaml.find("method: ") == std::string::npos) return;
  Vector out(gradient.size());
  EXPECT_EQ(terse_allreduce(group.handle(), tensor, gradient.data(), out.data()), TERSE_FAILED);
  EXPECT_THAT(terse_last_error(), HasSubstr("'weight'"));
  EXPECT_THAT(terse_last_error(), HasSubstr("needs terse_step between two exchanges"));
}

// The scale changes on the way, as a loss scaler's does; what is kept must not notice.
TEST_P(EveryMethod, LossScaleOfAPowerOfTwoChangesNoBit) {
  const auto run = [](bool scaled) {
    return ResultsOf([scaled](Group& group, TensorId tensor, int rank) {
      std::vector<Vector> results;
      for (int step = 0; step < 20; ++step) {
        const float scale = !scaled ? 1 : step < 9 ? 65536.0f : 1024.0f;
        group.SetLossScale(scale);
        Vector gradient = Noise(kN, rank, step);
        for (float& value : gradient) value *= scale;
        Vector out(kN);
        group.Allreduce(tensor, gradient.data(), out.data());
        group.Step(step % 4 == 3 ? 0 : step % 5 == 2 ? 0.25 : 1);
        for (float& value : out) value /= scale;
        results.push_back(out);
      }
      return results;
    });
  };
  ExpectSame(run(true), run(false));
}

// Micro-batches are summed by the job, in its own buffer: there is one exchange of a tensor in a step. The
// next backward pass may write into the buffer before the step has ended.
TEST_P(EveryMethod, SeveralBackwardPassesAreOneExchange) {
  const auto run = [](bool accumulates) {
    return ResultsOf([accumulates](Group& group, TensorId tensor, int rank) {
      std::vector<Vector> results;
      Vector buffer(kN);
      for (int step = 0; step < 12; ++step) {
        Vector sum(kN);
        if (accumulates) std::fill(buffer.begin(), buffer.end(), 0.0f);
        for (int pass = 0; pass < 4; ++pass) {
          AddWhole(WholeNumbers(kN, rank, 4 * step + pass), accumulates ? &buffer : &sum);
        }
        Vector out(kN);
        group.Allreduce(tensor, accumulates ? buffer.data() : sum.data(), out.data());
        results.push_back(out);
        if (accumulates) {
          buffer = Noise(kN, rank, 1000 + step);
          std::fill(out.begin(), out.end(), 7.0f);
          ExpectOneExchangeAStep(GetParam(), group, tensor, buffer);
        }
        group.Step(step % 4 == 3 ? 0 : step % 5 == 2 ? 0.25 : 1);
      }
      return results;
    });
  };
  ExpectSame(run(true), run(false));
}

// A tensor without a gradient is left alone: the steps in which it rests have not been, for it.
TEST_P(EveryMethod, ATensorThatRestsIsAsItWas) {
  constexpr int kBefore = 26;  // every warm-up is over, or goes on for long
  const auto run = [](int rests) {
    return ResultsOf([rests](Group& group, TensorId tensor, int rank) {
      const TensorId other = group.Register("other", {300});
      std::vector<Vector> results;
      for (int step = 0; step < kBefore + 6; ++step) {
        Vector out(kN);
        for (int rest = 0; step == kBefore && rest < rests; ++rest) {
          group.Allreduce(other, Noise(300, rank, 500 + rest).data(), out.data());
          group.Step();
        }
        const Vector gradient = Noise(kN, rank, step);
        const Vector little = Noise(300, rank, 100 + step);
        Vector little_out(300);
        group.AllreduceMany({tensor, other}, {gradient.data(), little.data()},
                            {out.data(), little_out.data()});
        group.Step(step % 7 == 3 ? 0 : 1);
        results.push_back(out);
      }
      return results;
    });
  };
  ExpectSame(run(3), run(0));
}

TEST_P(EveryMethod, NoGradientOnARankIsOneOfZeros) {
  const auto run = [](bool null) {
    return ResultsOf([null](Group& group, TensorId tensor, int rank) {
      std::vector<Vector> results;
      for (int step = 0; step < 12; ++step) {
        const bool none = step % 3 == rank || step == 7;
        const Vector gradient = none ? Vector(kN) : Noise(kN, rank, step);
        Vector out(kN);
        group.Allreduce(tensor, none && null ? nullptr : gradient.data(), out.data());
        group.Step();
        results.push_back(out);
      }
      return results;
    });
  };
  ExpectSame(run(true), run(false));
}

// The norm of everything is the same on all ranks, as results are, and so is what they tell terse_step. (That
// nothing of a gradient is lost: conservation_test.)
TEST_P(EveryMethod, ClippingByTheNormOfAllTensorsIsAgreedOn) {
  int clipped = 0;
  (void)ResultsOf([&clipped](Group& group, TensorId tensor, int rank) {
    const TensorId other = group.Register("other", {77});
    std::vector<Vector> applied;
    double most = 0;
    for (int step = 0; step < 12; ++step) {
      const Vector gradient = Noise(kN, rank, step);
      const Vector little = Noise(77, rank, 100 + step);
      Vector out(kN);
      Vector little_out(77);
      group.AllreduceMany({tensor, other}, {gradient.data(), little.data()}, {out.data(), little_out.data()});
      double squares = 0;
      for (const float x : out) squares += double{x} * x;
      for (const float x : little_out) squares += double{x} * x;
      const double norm = std::sqrt(squares);
      if (step == 0) most = 0.75 * norm;
      const double factor = std::min(1.0, most / norm);
      group.Step(factor);  // a difference in one bit would be TERSE_MISMATCH
      for (float& x : out) x *= static_cast<float>(factor);
      applied.push_back(out);
      if (rank == 0 && factor < 1) ++clipped;
    }
    return applied;
  });
  EXPECT_GT(clipped, 0);
}

}  // namespace
}  // namespace terse::testing
