// SPDX-License-Identifier: Apache-2.0
//
// What comes back from an exchange: close to the mean, the same bits on every rank, however it was asked
// for (one by one, many at once, asynchronously, in place).
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/api/ranks.h"
#include "tests/matrix_shape.h"

namespace terse::testing {
namespace {

constexpr char kUncompressed[] = "compressor: none\n";

// Results by rank; a rank writes its own slot.
using ByRank = std::vector<Vector>;

void ExpectSameBits(const ByRank& results) {
  for (size_t rank = 1; rank < results.size(); ++rank) {
    EXPECT_TRUE(SameBits(results[0], results[rank])) << "rank " << rank << " differs from rank 0";
  }
}

class EveryCodec : public ::testing::TestWithParam<CodecCase> {};
INSTANTIATE_TEST_SUITE_P(Exchange, EveryCodec, ::testing::ValuesIn(CodecCases()),
                         [](const auto& instance) { return instance.param.name; });

TEST_P(EveryCodec, ResultIsCloseToTheMeanAndEqualOnAllRanks) {
  for (const int size : {1, 2, 3, 4, 7}) {
    for (const size_t n : {1u, 63u, 5000u}) {
      SCOPED_TRACE(std::to_string(size) + " ranks, " + std::to_string(n) + " elements");
      ByRank results(size, Vector(n));
      RunRanksOk(size, GetParam().yaml, [&](Group& group, int rank) {
        const TensorId tensor = group.Register("weight", MatrixShape(n));
        group.Allreduce(tensor, Noise(n, rank, 0).data(), results[rank].data());
      });
      ExpectSameBits(results);
      const auto mean = MeanOverRanks(size, [n](int rank) { return Noise(n, rank, 0); });
      // One element is a poor sample of a codec's error; there only that it is no other number's.
      if (n > 1) {
        EXPECT_LE(RelativeError(results[0], mean), GetParam().first_error);
      }
    }
  }
}

TEST_P(EveryCodec, RanksStayEqualOverManySteps) {
  constexpr int kSize = 4;
  constexpr size_t kN = 3000;
  std::vector<ByRank> results(20, ByRank(kSize, Vector(kN)));
  RunRanksOk(kSize, GetParam().yaml, [&](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {30, 100});
    for (size_t step = 0; step < results.size(); ++step) {
      group.Allreduce(tensor, Noise(kN, rank, static_cast<int>(step)).data(), results[step][rank].data());
      group.Step();
    }
  });
  for (const ByRank& step : results) ExpectSameBits(step);
  EXPECT_FALSE(SameBits(results[0][0], results[1][0])) << "two steps gave the same result";
}

TEST_P(EveryCodec, SameRunTwiceGivesTheSameBits) {
  Vector runs[2] = {Vector(2000), Vector(2000)};
  for (Vector& run : runs) {
    RunRanksOk(3, GetParam().yaml, [&run](Group& group, int rank) {
      const TensorId tensor = group.Register("weight", MatrixShape(2000));
      Vector out(2000);
      for (int step = 0; step < 5; ++step) {
        group.Allreduce(tensor, Noise(2000, rank, step).data(), out.data());
        group.Step();
      }
      if (rank == 0) run = out;
    });
  }
  EXPECT_TRUE(SameBits(runs[0], runs[1]));
}

TEST_P(EveryCodec, InPlaceEqualsOutOfPlace) {
  Vector runs[2];
  for (const bool in_place : {false, true}) {
    RunRanksOk(3, GetParam().yaml, [&](Group& group, int rank) {
      const TensorId tensor = group.Register("weight", MatrixShape(1000));
      for (int step = 0; step < 3; ++step) {
        Vector gradient = Noise(1000, rank, step);
        Vector out(1000);
        group.Allreduce(tensor, gradient.data(), in_place ? gradient.data() : out.data());
        group.Step();
        if (!in_place) {
          EXPECT_EQ(gradient, Noise(1000, rank, step)) << "the gradient was written to";
        }
        if (rank == 0) runs[in_place] = in_place ? gradient : out;
      }
    });
  }
  EXPECT_TRUE(SameBits(runs[0], runs[1]));
}

// Three tensors in one group: two that are compressed, one below min_elements that goes dense.
constexpr size_t kSizes[] = {6000, 100, 5000};

std::vector<TensorId> RegisterThree(Group& group) {
  std::vector<TensorId> tensors;
  for (const size_t n : kSizes) {
    tensors.push_back(group.Register(std::to_string(n) + " elements", MatrixShape(n)));
  }
  return tensors;
}

Vector GradientOf(size_t tensor, int rank, int step) {
  return Noise(kSizes[tensor], rank, 10 * step + static_cast<int>(tensor));
}

// Results of some steps over three tensors, all of rank 0 one after the other, with ranks compared.
using Exchange =
    std::function<void(Group& group, int rank, const std::vector<TensorId>& tensors,
                       const std::vector<Vector>& gradients, std::vector<Vector>& results, int step)>;
Vector RunThree(const std::string& yaml, const Exchange& exchange) {
  constexpr int kSize = 3;
  ByRank all(kSize);
  RunRanksOk(kSize, yaml, [&](Group& group, int rank) {
    const std::vector<TensorId> tensors = RegisterThree(group);
    for (int step = 0; step < 4; ++step) {
      std::vector<Vector> gradients;
      std::vector<Vector> results;
      for (size_t t = 0; t < tensors.size(); ++t) {
        gradients.push_back(GradientOf(t, rank, step));
        results.emplace_back(kSizes[t]);
      }
      exchange(group, rank, tensors, gradients, results, step);
      group.Step();
      for (const Vector& result : results) all[rank].insert(all[rank].end(), result.begin(), result.end());
    }
  });
  ExpectSameBits(all);
  return all[0];
}

// Small tensors are fused into buckets, so sums must not depend on where a bucket's shards begin.
std::string Three(const CodecCase& codec) {
  std::string yaml = codec.yaml;
  yaml.replace(yaml.find("min_elements: 1"), strlen("min_elements: 1"), "min_elements: 1000");
  return yaml + "dense: deterministic\n";
}

Vector OneByOne(const std::string& yaml) {
  return RunThree(yaml, [](Group& group, int, const std::vector<TensorId>& tensors,
                           const std::vector<Vector>& gradients, std::vector<Vector>& results, int) {
    for (size_t t = 0; t < tensors.size(); ++t) {
      group.Allreduce(tensors[t], gradients[t].data(), results[t].data());
    }
  });
}

TEST_P(EveryCodec, ManyAtOnceEqualsOneByOne) {
  const Vector many = RunThree(Three(GetParam()),
                               [](Group& group, int rank, const std::vector<TensorId>& tensors,
                                  const std::vector<Vector>& gradients, std::vector<Vector>& results, int) {
                                 // The order of the arrays does not matter: every rank has another one.
                                 std::vector<TensorId> ids;
                                 std::vector<const void*> send;
                                 std::vector<void*> recv;
                                 for (size_t i = 0; i < tensors.size(); ++i) {
                                   const size_t t = (i + static_cast<size_t>(rank)) % tensors.size();
                                   ids.push_back(tensors[t]);
                                   send.push_back(gradients[t].data());
                                   recv.push_back(results[t].data());
                                 }
                                 group.AllreduceMany(ids, send, recv);
                               });
  EXPECT_TRUE(SameBits(many, OneByOne(Three(GetParam()))));
}

TEST_P(EveryCodec, AsynchronousInAnyOrderEqualsOneByOne) {
  const Vector async = RunThree(
      Three(GetParam()), [](Group& group, int rank, const std::vector<TensorId>& tensors,
                            const std::vector<Vector>& gradients, std::vector<Vector>& results, int step) {
        std::vector<Request> requests(tensors.size());
        for (size_t i = 0; i < tensors.size(); ++i) {
          const size_t t = (i + static_cast<size_t>(rank + step)) % tensors.size();
          requests[t] = group.AllreduceAsync(tensors[t], gradients[t].data(), results[t].data());
        }
        // Every rank begins by waiting for another tensor than its peers do.
        for (size_t i = 0; i < tensors.size(); ++i) {
          requests[(i + 2 * static_cast<size_t>(rank)) % tensors.size()].Wait();
        }
      });
  EXPECT_TRUE(SameBits(async, OneByOne(Three(GetParam()))));
}

TEST(Asynchronous, TestEventuallyFinishesWithoutWaiting) {
  const Vector tested = RunThree(
      Three(CodecCases()[8]), [](Group& group, int rank, const std::vector<TensorId>& tensors,
                                 const std::vector<Vector>& gradients, std::vector<Vector>& results, int) {
        std::vector<Request> requests(tensors.size());
        for (size_t i = 0; i < tensors.size(); ++i) {
          const size_t t = (i + static_cast<size_t>(rank)) % tensors.size();
          requests[t] = group.AllreduceAsync(tensors[t], gradients[t].data(), results[t].data());
        }
        for (Request& request : requests) {
          while (!request.Test()) std::this_thread::yield();
        }
      });
  EXPECT_TRUE(SameBits(tested, OneByOne(Three(CodecCases()[8]))));
}

TEST(Asynchronous, TestDoesNotWaitForARankThatHasNotSubmitted) {
  std::atomic<bool> tested = false;
  RunRanksOk(2, kUncompressed, [&tested](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {10});
    const Vector gradient = WholeNumbers(10, rank, 0);
    Vector out(10);
    if (rank == 1) {
      while (!tested) std::this_thread::yield();
    }
    Request request = group.AllreduceAsync(tensor, gradient.data(), out.data());
    if (rank == 0) {
      EXPECT_FALSE(request.Test());  // rank 1 submits only after this has returned
      tested = true;
    }
    request.Wait();
    EXPECT_EQ(RelativeError(out, MeanOverRanks(2, [](int r) { return WholeNumbers(10, r, 0); })), 0);
  });
}

TEST(Asynchronous, StepFinishesWhatWasSubmitted) {
  RunRanksOk(3, kUncompressed, [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {100});
    const Vector gradient = WholeNumbers(100, rank, 0);
    Vector out(100, -1);
    Request request = group.AllreduceAsync(tensor, gradient.data(), out.data());
    group.Step();
    EXPECT_LE(RelativeError(out, MeanOverRanks(3, [](int r) { return WholeNumbers(100, r, 0); })), 1e-6);
    request.Wait();
  });
}

TEST(Asynchronous, BlockingCallJoinsWhatIsOutstanding) {
  RunRanksOk(2, kUncompressed, [](Group& group, int rank) {
    const TensorId a = group.Register("a", {100});
    const TensorId b = group.Register("b", {100});
    const Vector gradient = WholeNumbers(100, rank, 0);
    Vector out_a(100);
    Vector out_b(100);
    Request request = group.AllreduceAsync(a, gradient.data(), out_a.data());
    group.Allreduce(b, gradient.data(), out_b.data());
    request.Wait();
    EXPECT_TRUE(SameBits(out_a, out_b));
  });
}

TEST(Dense, IsExactWhereFloatsAre) {
  for (const char* dense : {"native", "deterministic"}) {
    RunRanksOk(4, std::string(kUncompressed) + "dense: " + dense + "\n", [](Group& group, int rank) {
      const TensorId large = group.Register("large", {10000});
      const TensorId small = group.Register("small", {3});
      for (const auto& [tensor, n] : {std::pair{large, size_t{10000}}, std::pair{small, size_t{3}}}) {
        Vector out(n);
        group.Allreduce(tensor, WholeNumbers(n, rank, 1).data(), out.data());
        const auto mean = MeanOverRanks(4, [n = n](int r) { return WholeNumbers(n, r, 1); });
        EXPECT_EQ(RelativeError(out, mean), 0);
      }
    });
  }
}

TEST(Dense, ReduceSumGivesTheSum) {
  for (const char* compressor : {"none", "fp16"}) {
    const std::string yaml = std::string("reduce: sum\nmin_elements: 1\ncompressor: ") + compressor + "\n";
    RunRanksOk(3, yaml, [](Group& group, int rank) {
      const TensorId tensor = group.Register("weight", {500});
      Vector out(500);
      group.Allreduce(tensor, WholeNumbers(500, rank, 1).data(), out.data());
      const auto mean = MeanOverRanks(3, [](int r) { return WholeNumbers(500, r, 1); });
      for (size_t i = 0; i < out.size(); ++i) EXPECT_FLOAT_EQ(out[i], std::round(3 * mean[i]));
    });
  }
}

TEST(Dense, DisableTurnsCompressionOff) {
  RunRanksOk(4, "compressor: onebit\nmin_elements: 1\ndisable: true\n", [](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {5000});
    Vector out(5000);
    group.Allreduce(tensor, WholeNumbers(5000, rank, 1).data(), out.data());
    EXPECT_EQ(RelativeError(out, MeanOverRanks(4, [](int r) { return WholeNumbers(5000, r, 1); })), 0);
  });
}

TEST(Tensors, NoGradientOnARankCountsAsZero) {
  for (const char* compressor : {"none", "fp16"}) {
    RunRanksOk(4, std::string("min_elements: 1\ncompressor: ") + compressor + "\n",
               [](Group& group, int rank) {
                 const TensorId tensor = group.Register("weight", {1000});
                 const Vector gradient = WholeNumbers(1000, rank, 0);
                 Vector out(1000, -1);
                 group.Allreduce(tensor, rank == 1 ? nullptr : gradient.data(), out.data());
                 const auto mean =
                     MeanOverRanks(4, [](int r) { return r == 1 ? Vector(1000) : WholeNumbers(1000, r, 0); });
                 EXPECT_EQ(RelativeError(out, mean), 0);

                 group.Allreduce(tensor, nullptr, out.data());
                 EXPECT_EQ(out, Vector(1000)) << "nobody had a gradient";
               });
  }
}

TEST(Tensors, OneThatIsNotUsedInAStepIsNotExchanged) {
  RunRanksOk(3, CodecCases()[4].yaml, [](Group& group, int rank) {
    const TensorId used = group.Register("used", {500});
    const TensorId rare = group.Register("rare", {500});
    Vector out(500);
    for (int step = 0; step < 6; ++step) {
      group.Allreduce(used, Noise(500, rank, step).data(), out.data());
      if (step == 3) group.Allreduce(rare, Noise(500, rank, step).data(), out.data());
      group.Step();
    }
    const nlohmann::json tensors = nlohmann::json::parse(group.Report()).at("tensors");
    EXPECT_EQ(tensors.at(0).at("calls"), 6);
    EXPECT_EQ(tensors.at(1).at("calls"), 1);
  });
}

TEST(Tensors, EmptyOneIsAllowedAndNeverExchanged) {
  for (const CodecCase& codec : CodecCases()) {
    SCOPED_TRACE(codec.name);
    RunRanksOk(3, codec.yaml, [](Group& group, int rank) {
      const TensorId empty = group.Register("empty", {4, 0, 2});
      const TensorId full = group.Register("full", {300});
      float unused = 5;
      Vector out(300);
      const Vector gradient = Noise(300, rank, 0);
      group.Allreduce(empty, nullptr, &unused);
      group.AllreduceMany({empty, full}, {nullptr, gradient.data()}, {&unused, out.data()});
      group.Step();
      EXPECT_EQ(unused, 5);
    });
  }
}

TEST(Tensors, ScalarIsATensorOfOneElement) {
  RunRanksOk(4, "", [](Group& group, int rank) {
    TensorId scalar = -1;
    Check(terse_tensor_register(group.handle(), "scale", TERSE_FLOAT32, nullptr, 0, &scalar));
    EXPECT_EQ(scalar, 0);
    float value = static_cast<float>(rank);
    group.Allreduce(scalar, &value, &value);
    EXPECT_EQ(value, 1.5f);
  });
}

}  // namespace
}  // namespace terse::testing
