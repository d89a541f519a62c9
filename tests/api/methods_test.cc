// SPDX-License-Identifier: Apache-2.0
//
// The methods dgc and onebit_adam, the optimizer step, and the owners of terse.hpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

constexpr int kSize = 3;
constexpr size_t kN = 1000;
constexpr char kAll[] = "min_elements: 1\nexclude: []\n";

std::string Dgc(const std::string& parameters) {
  return "method: dgc\ncompressor: topk\ndgc: {" + parameters + "}\n" + kAll;
}
std::string OneBitAdamYaml(int freeze) {
  return "method: onebit_adam\ncompressor: onebit\nadam: {freeze: " + std::to_string(freeze) + "}\n" + kAll;
}

std::vector<double> MeanNoise(int step) {
  return MeanOverRanks(kSize, [step](int rank) { return Noise(kN, rank, step); });
}

TEST(Dgc, SendingEverythingWithoutMaskingIsMomentum) {
  RunRanksOk(kSize, Dgc("density: 1, momentum: 0.9, masking: false"), [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    std::vector<double> momentum(kN);
    Vector out(kN);
    for (int step = 0; step < 10; ++step) {
      group.Allreduce(tensor, Noise(kN, rank, step).data(), out.data());
      group.Step();
      const std::vector<double> mean = MeanNoise(step);
      for (size_t i = 0; i < kN; ++i) momentum[i] = 0.9 * momentum[i] + mean[i];
      EXPECT_LE(RelativeError(out, momentum), 1e-5) << "step " << step;
    }
  });
}

TEST(Dgc, WithoutMomentumNothingIsLost) {
  RunRanksOk(kSize, Dgc("density: 0.02, momentum: 0, masking: false"), [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    std::vector<double> applied;
    std::vector<double> expected(kN);
    Vector out(kN);
    for (int step = 0; step < 80; ++step) {
      const bool train = step < 20;
      const double skip = step % 5 == 3 && train ? 0 : 1;
      group.Allreduce(tensor, train ? Noise(kN, rank, step).data() : nullptr, out.data());
      group.Step(skip);
      AddTo(&applied, out, skip);
      const std::vector<double> mean = MeanNoise(step);
      for (size_t i = 0; i < kN && train; ++i) expected[i] += mean[i];
    }
    EXPECT_LE(RelativeError(applied, expected), 1e-5);
  });
}

TEST(Dgc, SendsTheLargestOnly) {
  RunRanksOk(kSize, Dgc("density: 0.01"), [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    Vector gradient(kN, 0.001f);
    gradient[static_cast<size_t>(rank)] = 3;
    Vector out(kN);
    group.Allreduce(tensor, gradient.data(), out.data());
    size_t nonzero = 0;
    for (const float value : out) nonzero += value != 0;
    EXPECT_LE(nonzero, 30u) << "at most 1 % of the elements of each of 3 ranks";
    for (size_t i = 0; i < 3; ++i) EXPECT_GE(out[i], 1);
  });
}

TEST(OneBitAdam, IsExactAdamUntilTheFreeze) {
  constexpr int kFreeze = 6;
  RunRanksOk(kSize, OneBitAdamYaml(kFreeze), [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    std::vector<double> m(kN);
    std::vector<double> v(kN);
    std::vector<double> want(kN);
    Vector out(kN);
    for (int step = 0; step < kFreeze; ++step) {
      group.Allreduce(tensor, Noise(kN, rank, step).data(), out.data());
      group.Step();
      const std::vector<double> mean = MeanNoise(step);
      for (size_t i = 0; i < kN; ++i) {
        m[i] = 0.9 * m[i] + 0.1 * mean[i];
        v[i] = 0.999 * v[i] + 0.001 * mean[i] * mean[i];
        want[i] = m[i] / (std::sqrt(v[i]) + 1e-8);
      }
      EXPECT_LE(RelativeError(out, want), 1e-4) << "step " << step;
    }
  });
}

TEST(OneBitAdam, RanksStayEqualAfterTheFreeze) {
  std::vector<std::vector<Vector>> results(20, std::vector<Vector>(kSize, Vector(kN)));
  RunRanksOk(kSize, OneBitAdamYaml(4), [&](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    for (size_t step = 0; step < results.size(); ++step) {
      group.Allreduce(tensor, Noise(kN, rank, static_cast<int>(step)).data(), results[step][rank].data());
      group.Step(step == 10 ? 0 : 1);
    }
  });
  for (const std::vector<Vector>& step : results) {
    for (int rank = 1; rank < kSize; ++rank) EXPECT_TRUE(SameBits(step[0], step[rank]));
    for (const float value : step[0]) ASSERT_TRUE(std::isfinite(value));
  }
}

// w <- w - rate (m / (sqrt(v) + eps) + lambda w), in the whole step that the optimizer of terse.hpp does.
TEST(OneBitAdam, WeightDecayIsDecoupled) {
  const std::string yaml =
      "method: onebit_adam\nadam: {freeze: 20, weight_decay: 0.25}\n" + std::string(kAll);
  RunRanksOk(kSize, yaml, [](Group& group, int rank) {
    OneBitAdam optimizer(&group, {{"weight", {static_cast<int64_t>(kN)}}});
    std::vector<double> m(kN);
    std::vector<double> v(kN);
    std::vector<double> want(kN, 1);
    Vector w(kN, 1);
    for (int step = 0; step < 20; ++step) {
      EXPECT_TRUE(optimizer.Step({Noise(kN, rank, step).data()}, {w.data()}, 0.01));
      const std::vector<double> mean = MeanNoise(step);
      for (size_t i = 0; i < kN; ++i) {
        m[i] = 0.9 * m[i] + 0.1 * mean[i];
        v[i] = 0.999 * v[i] + 0.001 * mean[i] * mean[i];
        want[i] -= 0.01 * (m[i] / (std::sqrt(v[i]) + 1e-8) + 0.25 * want[i]);
      }
      EXPECT_LE(RelativeError(w, want), 1e-5) << "step " << step;
    }
  });
}

TEST(OneBitAdam, FreezesByItselfUnlessToldWhen) {
  const std::string yaml =
      "method: onebit_adam\nadam: {beta2: 0.9, lr_warmup_steps: 25}\n" + std::string(kAll);
  RunRanksOk(kSize, yaml, [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    Vector out(kN);
    for (int step = 0; step < 60; ++step) {
      // The same magnitudes in every step: settled from the beginning.
      Vector gradient = Noise(kN, rank, 0);
      for (float& value : gradient) value *= step % 2 == 0 ? 1.0f : -1.0f;
      group.Allreduce(tensor, gradient.data(), out.data());
      group.Step();
      const nlohmann::json variance = nlohmann::json::parse(group.Report()).at("variance");
      EXPECT_EQ(variance.at("frozen"), step >= 25) << step;
      EXPECT_EQ(variance.at("warmup_steps"), std::min(step + 1, 26));
    }
  });
}

TEST(OneBitAdam, MaskAndGlobalBatch) {
  RunRanksOk(kSize, OneBitAdamYaml(5), [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {static_cast<int64_t>(kN)});
    group.SetGlobalBatch(256);
    std::vector<uint8_t> mask(kN, 1);
    mask[3] = 0;
    group.SetMask(tensor, mask);
    Vector out(kN);
    for (int step = 0; step < 20; ++step) {
      if (step == 10) group.SetGlobalBatch(512);
      if (step == 15) group.SetMask(tensor, {});
      group.Allreduce(tensor, Noise(kN, rank, step).data(), out.data());
      group.Step();
      EXPECT_EQ(out[3] == 0, step < 15);
      EXPECT_NE(out[4], 0);
      const bool frozen = nlohmann::json::parse(group.Report()).at("variance").at("frozen");
      EXPECT_EQ(frozen, (step >= 4 && step < 10) || step >= 15) << step;
    }
  });
}

// Minimizes |w - target|^2 where every rank sees the target with noise.
template <typename MakeStep>
Vector Minimize(const std::string& yaml, int steps, double rate, const MakeStep& make_step) {
  std::vector<Vector> parameters(kSize, Vector(kN));
  const Vector target = Noise(kN, 50, 0);
  RunRanksOk(kSize, yaml, [&](Group& group, int rank) {
    Vector& w = parameters[rank];
    const auto step = make_step(group);
    for (int i = 0; i < steps; ++i) {
      Vector gradient = Noise(kN, rank, i);
      for (size_t j = 0; j < kN; ++j) gradient[j] = w[j] - target[j] + 0.1f * gradient[j];
      EXPECT_TRUE(step(gradient.data(), w.data(), rate));
    }
  });
  for (const Vector& w : parameters) EXPECT_TRUE(SameBits(w, parameters[0]));
  const double error = RelativeError(parameters[0], std::vector<double>(target.begin(), target.end()));
  EXPECT_LE(error, 0.3) << "of the way from 0 to the target";
  return parameters[0];
}

// The step function of an optimizer of terse.hpp over one parameter.
template <typename T>
auto StepOf(Group& group) {
  auto optimizer = std::make_shared<T>(&group, std::vector<Parameter>{{"weight", {10, 100}}});
  return [optimizer](const float* gradient, float* w, double rate) {
    return optimizer->Step({gradient}, {w}, rate);
  };
}

TEST(Optimizers, SgdWithDgcMinimizes) { Minimize(Dgc("density: 0.05"), 300, 0.02, StepOf<SgdDgc>); }
TEST(Optimizers, OneBitAdamMinimizes) { Minimize(OneBitAdamYaml(60), 600, 0.02, StepOf<OneBitAdam>); }
TEST(Optimizers, PlainStepOverAllreduceIsSgd) {
  Minimize(std::string("compressor: quantize\n") + kAll, 100, 0.1, StepOf<Optimizer>);
}

TEST(Optimizers, RefuseAGroupOfAnotherMethod) {
  RunRanksOk(2, "", [](Group& group, int) {
    EXPECT_THROW(SgdDgc(&group, {{"weight", {10}}}), Error);
    EXPECT_THROW(OneBitAdam(&group, {{"weight", {10}}}), Error);
  });
}

TEST(Optimizers, NonFiniteGradientSkipsTheStepOnAllRanks) {
  for (const std::string& yaml :
       {Dgc("density: 0.05"), OneBitAdamYaml(1), "compressor: topk\n" + std::string(kAll)}) {
    SCOPED_TRACE(yaml);
    std::vector<Vector> parameters(kSize, Vector(kN, 1));
    RunRanksOk(kSize, yaml, [&](Group& group, int rank) {
      const TensorId weight = group.Register("weight", {static_cast<int64_t>(kN)});
      Vector& w = parameters[rank];
      for (int step = 0; step < 6; ++step) {
        Vector gradient = Noise(kN, rank, step);
        const bool poisoned = step == 3;
        if (poisoned && rank == 2) gradient[5] = std::numeric_limits<float>::quiet_NaN();
        const Vector before = w;
        EXPECT_EQ(group.OptimizerStep({weight}, {gradient.data()}, {w.data()}, 0.01), !poisoned);
        EXPECT_EQ(SameBits(before, w), poisoned) << "step " << step;
      }
      for (const float value : w) ASSERT_TRUE(std::isfinite(value));
    });
    for (const Vector& w : parameters) EXPECT_TRUE(SameBits(w, parameters[0]));
  }
}

TEST(Owners, GroupsMove) {
  RunRanksOk(2, "", [](Group& group, int rank) {
    Group moved(std::move(group));
    EXPECT_EQ(group.handle(), nullptr);
    EXPECT_EQ(moved.rank(), rank);
    EXPECT_EQ(moved.size(), 2);
    group = std::move(moved);
    EXPECT_EQ(group.rank(), rank);
  });
}

TEST(Owners, ARequestThatIsDroppedIsWaitedFor) {
  RunRanksOk(2, "", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {10});
    Vector gradient(10, static_cast<float>(rank));
    { const Request dropped = group.AllreduceAsync(tensor, gradient.data(), gradient.data()); }
    EXPECT_EQ(gradient, Vector(10, 0.5f));
  });
}

TEST(Owners, SeveralGroupsOfOneProcessAreApart) {
  RunRanksOk(2, "compressor: topk\n", [hub = UniqueHub()](Group& outer, int rank) {
    Group inner(InprocYaml(rank, 2, hub, "compressor: none\n"));
    const TensorId a = outer.Register("weight", {100});
    const TensorId b = inner.Register("weight", {50});
    Vector gradient(100, 1);
    Request request = outer.AllreduceAsync(a, gradient.data(), gradient.data());
    Vector half(50, static_cast<float>(rank));
    inner.Allreduce(b, half.data(), half.data());
    EXPECT_EQ(half, Vector(50, 0.5f));
    request.Wait();
    inner.Close();
  });
}

}  // namespace
}  // namespace terse::testing
