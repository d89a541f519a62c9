// SPDX-License-Identifier: Apache-2.0
//
// Compressed all-reduces in place of MPI's, by threads as ranks: which calls are compressed, what they give,
// and that nothing of a gradient is lost.
#include "runtime/intercept/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/ranks.h"

namespace terse::intercept {
namespace {

using ::terse::testing::InprocYaml;
using ::terse::testing::Noise;
using ::terse::testing::UniqueHub;
using ::testing::HasSubstr;
using Outcome = Exchange::Outcome;
using Vector = std::vector<float>;

constexpr int kRanks = 3;

const TerseApi& LinkedTerse() {
  static const TerseApi api = {
#define TERSE_LINKED(name) terse_##name,
      TERSE_API_FUNCTIONS(TERSE_LINKED)
#undef TERSE_LINKED
  };
  return api;
}

// What MPI is to the ranks: exact sums, and a comparison.
class World {
 public:
  void Sum(int rank, Vector* values) {
    inputs_[rank] = *values;
    barrier_.arrive_and_wait();
    std::fill(values->begin(), values->end(), 0.0f);
    for (const Vector& input : inputs_) {
      for (size_t i = 0; i < values->size(); ++i) (*values)[i] += input[i];
    }
    barrier_.arrive_and_wait();
  }
  bool Same(int rank, uint64_t value) {
    values_[rank] = value;
    barrier_.arrive_and_wait();
    const bool same = values_[0] == values_[1] && values_[1] == values_[2];
    barrier_.arrive_and_wait();
    return same;
  }

 private:
  std::barrier<> barrier_{kRanks};
  Vector inputs_[kRanks];
  uint64_t values_[kRanks];
};

// One rank's program: makes calls, through an Exchange where it takes them.
class Rank {
 public:
  Rank(World* world, int rank, const std::string& hub, const std::string& yaml, uint64_t settings = 1)
      : world_(*world),
        rank_(rank),
        exchange_(
            &LinkedTerse(), "", {settings, yaml.find("method: dgc") == std::string::npos},
            {.open =
                 [=](std::string* error) {
                   terse_group_t* group = nullptr;
                   if (terse_group_open(InprocYaml(rank, kRanks, hub, yaml).c_str(), &group) != TERSE_OK) {
                     *error = terse_last_error();
                   }
                   return group;
                 },
             .same = [this](uint64_t value) { return world_.Same(rank_, value); }}) {}

  // An all-reduce in place.
  Outcome Call(Vector* values, bool eligible = true, bool may_wait = true, std::string_view name = {}) {
    const Outcome outcome = Before(values, {.signature = values->size() * 2 + (eligible ? 1 : 0),
                                            .eligible = eligible,
                                            .may_wait = may_wait,
                                            .type = "MPI_FLOAT",
                                            .name = name});
    if (outcome == Outcome::kPass) world_.Sum(rank_, values);
    return outcome;
  }

  // The same of values in double precision, whose sums nobody makes but the exchange.
  Outcome Call(std::vector<double>* values) {
    return Before(values, {.signature = 77, .eligible = true, .type = "MPI_DOUBLE", .is_double = true});
  }

  Exchange& exchange() { return exchange_; }
  int rank() const { return rank_; }

 private:
  template <typename T>
  Outcome Before(std::vector<T>* values, Exchange::Call call) {
    call.count = static_cast<int64_t>(values->size());
    call.send = values->data();
    call.recv = values->data();
    const Outcome outcome = exchange_.Before(Exchange::PlaceOf(learner_, call.signature), call);
    learner_.Next(call.signature);
    return outcome;
  }

  World& world_;
  const int rank_;
  PeriodLearner learner_;
  Exchange exchange_;
};

void RunRanks(const std::string& yaml, const std::function<void(Rank&)>& body) {
  World world;
  const std::string hub = UniqueHub();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      Rank self(&world, rank, hub, yaml);
      body(self);
      self.exchange().Close();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

constexpr char kTopK[] = "compressor: topk\nreduce: sum\nmin_elements: 1\ntopk: {density: 0.1}\n";

// The sum over ranks of what is given to a call, and over calls of what came back.
struct Totals {
  std::vector<double> given;
  std::vector<double> back;
  explicit Totals(size_t n) : given(n), back(n) {}
};

// A step of a program with two gradients of one size and a loss, into the totals of the gradients.
std::vector<Outcome> Step(Rank& rank, int step, bool finite, std::vector<Totals>* totals) {
  std::vector<Outcome> outcomes;
  for (int g = 0; g < 2; ++g) {
    Vector values = Noise(512, rank.rank(), step * 2 + g);
    for (int r = 0; r < kRanks; ++r) {
      const Vector part = Noise(512, r, step * 2 + g);
      for (size_t i = 0; i < part.size(); ++i) (*totals)[static_cast<size_t>(g)].given[i] += part[i];
    }
    if (!finite && g == 1) {
      (*totals)[1].given[7] -= Noise(512, 1, step * 2 + g)[7];  // rank 1 has a NaN in its place
      if (rank.rank() == 1) values[7] = std::numeric_limits<float>::quiet_NaN();
    }
    outcomes.push_back(rank.Call(&values));
    if (finite) {
      for (size_t i = 0; i < values.size(); ++i) (*totals)[static_cast<size_t>(g)].back[i] += values[i];
    } else if (g == 1) {
      EXPECT_TRUE(std::isnan(values[0]));
    }
  }
  Vector loss = {static_cast<float>(rank.rank())};
  EXPECT_EQ(rank.Call(&loss, false), Outcome::kPass);
  EXPECT_EQ(loss[0], 3.0f);
  outcomes.push_back(Outcome::kPass);
  return outcomes;
}

// Steps without gradients, until all that waits has come.
void Drain(Rank& rank, std::vector<Totals>* totals) {
  for (int i = 0; i < 60; ++i) {
    for (Totals& tensor : *totals) {
      Vector values(512, 0.0f);
      rank.Call(&values);
      for (size_t j = 0; j < values.size(); ++j) tensor.back[j] += values[j];
    }
    Vector loss(1, 0.0f);
    rank.Call(&loss, false);
  }
}

double Distance(const Totals& totals) {
  double squares = 0;
  for (size_t i = 0; i < totals.given.size(); ++i) {
    squares += (totals.given[i] - totals.back[i]) * (totals.given[i] - totals.back[i]);
  }
  return std::sqrt(squares);
}

// Three exact periods, then compressed ones, and after a call that does not fit the same again, but that what
// waits goes along with the exact ones. What waits is at every moment what was given less what came back, and
// once gradients stop it all arrives.
TEST(Exchange, CompressesOnceAPeriodIsKnownAndLosesNothing) {
  RunRanks(kTopK, [](Rank& rank) {
    std::vector<Totals> totals(2, Totals(512));
    int step = 0;
    for (int phase = 0; phase < 2; ++phase) {
      for (int i = 0; i < 40; ++i) {
        const std::vector<Outcome> outcomes = Step(rank, step++, true, &totals);
        EXPECT_EQ(outcomes[0], phase == 0 && i < 3 ? Outcome::kPass : Outcome::kDone) << phase << " " << i;
        EXPECT_EQ(outcomes[1], phase == 0 && i < 3 ? Outcome::kPass : Outcome::kDone) << phase << " " << i;
      }
      EXPECT_GT(Distance(totals[0]), 1.0);
      // A validation pass.
      for (int i = 0; i < 2; ++i) {
        Vector accuracy(5, 1.0f);
        EXPECT_EQ(rank.Call(&accuracy, false), Outcome::kPass);
        EXPECT_EQ(accuracy[3], 3.0f);
      }
    }
    Drain(rank, &totals);
    EXPECT_LT(Distance(totals[0]), 1e-3);
    EXPECT_LT(Distance(totals[1]), 1e-3);
    EXPECT_THAT(rank.exchange().error(), "");
    EXPECT_EQ(rank.exchange().compressed_calls(), 2 * 37 * 2 + 2 * 57);
    EXPECT_EQ(rank.exchange().drained_calls(), 2 * 3 * 2);
    EXPECT_THAT(rank.exchange().Report(), HasSubstr("MPI_FLOAT.512.1"));
  });
}

// Calls that have no period any more stay exact, and take along what waits, until nothing does.
TEST(Exchange, WhatWaitsGoesAlongWhenNoPeriodReturns) {
  for (const char* yaml : {kTopK, "compressor: onebit\nreduce: sum\nmin_elements: 1\n"}) {
    RunRanks(yaml, [](Rank& rank) {
      std::vector<Totals> totals(2, Totals(512));
      for (int step = 0; step < 20; ++step) Step(rank, step, true, &totals);
      EXPECT_GT(Distance(totals[0]), 1.0);
      const int64_t compressed = rank.exchange().compressed_calls();
      uint32_t state = 7;
      for (int i = 0; i < 1500; ++i) {
        // Losses between the gradients, of a random size.
        state = state * 1664525u + 1013904223u;
        Vector loss((state >> 20) + 600, 1.0f);
        EXPECT_EQ(rank.Call(&loss, false), Outcome::kPass);
        EXPECT_EQ(loss.back(), 3.0f);
        for (Totals& tensor : totals) {
          Vector values(512, 0.0f);
          EXPECT_EQ(rank.Call(&values), Outcome::kDone);
          for (size_t j = 0; j < values.size(); ++j) tensor.back[j] += values[j];
        }
      }
      EXPECT_LT(Distance(totals[0]), 1e-3);
      EXPECT_LT(Distance(totals[1]), 1e-3);
      EXPECT_EQ(rank.exchange().compressed_calls(), compressed);
      EXPECT_THAT(rank.exchange().error(), "");
    });
  }
}

// A job with momentum of its own: once nothing waits any more each gradient has moved it 1 / (1 - m) times,
// those before the first compressed call and those after a call that does not fit too. One comes at the end
// of a step, the other between its two gradients.
TEST(Exchange, UnderDgcEveryGradientMovesAJobWithMomentumOnce) {
  for (const bool nesterov : {false, true}) {
    const std::string yaml = std::string("method: dgc\nreduce: sum\nmin_elements: 1\n") +
                             "dgc: {density: 0.1, masking: false, job_momentum: 0.875, job_nesterov: " +
                             (nesterov ? "true}\n" : "false}\n");
    RunRanks(yaml, [&](Rank& rank) {
      struct Parameter {
        std::vector<double> given = std::vector<double>(512);
        std::vector<double> buffer = std::vector<double>(512);
        std::vector<double> moved = std::vector<double>(512);
      };
      std::vector<Parameter> parameters(2);
      for (int step = 0; step < 400; ++step) {
        for (int g = 0; g < 2; ++g) {
          Parameter& parameter = parameters[static_cast<size_t>(g)];
          Vector values(512, 0.0f);
          for (int r = 0; r < kRanks && step < 100; ++r) {
            const Vector part = Noise(512, r, step * 2 + g);
            if (r == rank.rank()) values = part;
            for (size_t i = 0; i < part.size(); ++i) parameter.given[i] += part[i];
          }
          rank.Call(&values);
          for (size_t i = 0; i < values.size(); ++i) {
            double& buffer = parameter.buffer[i];
            buffer = 0.875 * buffer + values[i];
            parameter.moved[i] += nesterov ? values[i] + 0.875 * buffer : buffer;
          }
          if (g == 0 && step == 85) {
            Vector accuracy(5, 1.0f);
            EXPECT_EQ(rank.Call(&accuracy, false), Outcome::kPass);
          }
        }
        Vector loss(1, 0.0f);
        rank.Call(&loss, false);
        if (step == 40) {
          Vector accuracy(5, 1.0f);
          EXPECT_EQ(rank.Call(&accuracy, false), Outcome::kPass);
        }
      }
      // Three periods before the first, after each of the two, and what of that step was still to come.
      EXPECT_EQ(rank.exchange().compressed_calls(), 2 * (400 - 9) - 1);
      for (const Parameter& parameter : parameters) {
        double squares = 0;
        double distance = 0;
        for (size_t i = 0; i < 512; ++i) {
          const double wanted = parameter.given[i] * 8;
          squares += wanted * wanted;
          distance += (parameter.moved[i] - wanted) * (parameter.moved[i] - wanted);
        }
        EXPECT_GT(squares, 1e4);
        EXPECT_LT(std::sqrt(distance), 2e-5 * std::sqrt(squares));
      }
    });
  }
}

// A step that begins with a call that may not wait: the agreement and the step's end come with the next that
// may, and nothing is lost over a deviation by such a call either.
TEST(Exchange, WaitsInCallsThatMayWait) {
  RunRanks(kTopK, [](Rank& rank) {
    std::vector<Totals> totals(2, Totals(512));
    int step = 0;
    for (int phase = 0; phase < 2; ++phase) {
      for (int i = 0; i < 40; ++i) {
        Vector started = {1.0f, 2.0f};
        EXPECT_EQ(rank.Call(&started, false, false), Outcome::kPass);
        const std::vector<Outcome> outcomes = Step(rank, step++, true, &totals);
        EXPECT_EQ(outcomes[0], phase == 0 && i < 3 ? Outcome::kPass : Outcome::kDone) << phase << " " << i;
        EXPECT_EQ(outcomes[1], phase == 0 && i < 3 ? Outcome::kPass : Outcome::kDone) << phase << " " << i;
      }
      Vector other(9, 1.0f);
      EXPECT_EQ(rank.Call(&other, false, false), Outcome::kPass);
    }
    Drain(rank, &totals);
    EXPECT_LT(Distance(totals[0]), 1e-3);
    EXPECT_LT(Distance(totals[1]), 1e-3);
    EXPECT_THAT(rank.exchange().error(), "");
    EXPECT_EQ(rank.exchange().compressed_calls(), 2 * 37 * 2 + 2 * 57);
  });
}

TEST(Exchange, GivesTheStepBackThatWasNotFinite) {
  RunRanks(kTopK, [](Rank& rank) {
    std::vector<Totals> totals(2, Totals(512));
    for (int step = 0; step < 6; ++step) Step(rank, step, step != 5, &totals);
    Drain(rank, &totals);
    EXPECT_LT(Distance(totals[0]), 1e-3);
    EXPECT_LT(Distance(totals[1]), 1e-3);
  });
}

// Named calls need no period, and may come in any order; what is between them stays as it is.
TEST(Exchange, NamesWin) {
  RunRanks(kTopK, [](Rank& rank) {
    std::vector<Totals> totals(2, Totals(512));
    uint32_t state = 5;
    for (int step = 0; step < 100; ++step) {
      state = state * 1664525u + 1013904223u;
      for (int i = 0; i < 2; ++i) {
        const size_t g = static_cast<size_t>(i) ^ (state >> 30 & 1);
        const bool drains = step >= 40;
        Vector values = drains ? Vector(512, 0.0f) : Noise(512, rank.rank(), step * 2 + static_cast<int>(g));
        for (int r = 0; r < kRanks && !drains; ++r) {
          const Vector part = Noise(512, r, step * 2 + static_cast<int>(g));
          for (size_t j = 0; j < part.size(); ++j) totals[g].given[j] += part[j];
        }
        EXPECT_EQ(rank.Call(&values, true, true, g == 0 ? "first" : "second"), Outcome::kDone) << step;
        for (size_t j = 0; j < values.size(); ++j) totals[g].back[j] += values[j];
      }
      Vector loss(3, 1.0f);
      EXPECT_EQ(rank.Call(&loss, false), Outcome::kPass);
      EXPECT_EQ(loss[2], 3.0f);
    }
    EXPECT_LT(Distance(totals[0]), 1e-3);
    EXPECT_LT(Distance(totals[1]), 1e-3);
    EXPECT_EQ(rank.exchange().compressed_calls(), 200);
    EXPECT_THAT(rank.exchange().Report(), HasSubstr("\"second\""));
    // A name that comes with another size is not that tensor.
    Vector other(100, 1.0f);
    EXPECT_EQ(rank.Call(&other, true, true, "first"), Outcome::kPass);
    EXPECT_EQ(other[0], 3.0f);
  });
}

TEST(Exchange, SumsOfDoublePrecision) {
  RunRanks("compressor: quantize\nreduce: sum\nmin_elements: 1\n", [](Rank& rank) {
    double given = 0;
    double back = 0;
    for (int step = 0; step < 40; ++step) {
      std::vector<double> values(300);
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = std::sin(static_cast<double>(i) + step + rank.rank());
      const Outcome outcome = rank.Call(&values);
      EXPECT_EQ(outcome, step < 3 ? Outcome::kPass : Outcome::kDone);
      if (step < 3) continue;
      for (int r = 0; r < kRanks; ++r) given += std::sin(17.0 + step + r);
      back += values[17];
    }
    EXPECT_NEAR(given, back, 0.5);
    EXPECT_THAT(rank.exchange().Report(), HasSubstr("MPI_DOUBLE.300.0"));
    std::vector<double> broken(300, std::numeric_limits<double>::infinity());
    rank.Call(&broken);
    EXPECT_TRUE(std::isnan(broken[0]));
  });
}

TEST(Exchange, AllRanksHoldTheSameBits) {
  World compare;
  RunRanks("compressor: quantize\nreduce: sum\nmin_elements: 1\n", [&](Rank& rank) {
    for (int step = 0; step < 8; ++step) {
      Vector values = Noise(300, rank.rank(), step);
      const Outcome outcome = rank.Call(&values);
      EXPECT_EQ(outcome, step < 3 ? Outcome::kPass : Outcome::kDone);
      uint64_t hash = 0;
      for (const float value : values) hash = hash * 31 + std::bit_cast<uint32_t>(value);
      EXPECT_TRUE(compare.Same(rank.rank(), hash)) << step;
    }
  });
}

TEST(Exchange, RanksThatDifferStayExact) {
  World world;
  const std::string hub = UniqueHub();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      Rank self(&world, rank, hub, kTopK, rank == 2 ? 8 : 7);
      for (int step = 0; step < 8; ++step) {
        Vector values(64, 1.0f);
        EXPECT_EQ(self.Call(&values), Outcome::kPass);
        EXPECT_EQ(values[63], 3.0f);
      }
      EXPECT_THAT(self.exchange().error(), HasSubstr("differ in their configuration"));
      EXPECT_EQ(self.exchange().compressed_calls(), 0);
      self.exchange().Close();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Exchange, AGroupThatCannotBeOpenedLeavesCallsExact) {
  RunRanks("compressor: nonsense\n", [](Rank& rank) {
    for (int step = 0; step < 8; ++step) {
      Vector values(64, 1.0f);
      EXPECT_EQ(rank.Call(&values), Outcome::kPass);
    }
    EXPECT_THAT(rank.exchange().error(), HasSubstr("nonsense"));
  });
}

Exchange::Call CallOf(Vector* values) {
  return {.signature = 5,
          .eligible = true,
          .type = "MPI_FLOAT",
          .count = static_cast<int64_t>(values->size()),
          .send = values->data(),
          .recv = values->data()};
}

TEST(Exchange, WithoutLibterseCallsStayExact) {
  Exchange exchange(nullptr, "libterse.so cannot be loaded", {},
                    {.open = [](std::string*) -> terse_group_t* { return nullptr; },
                     .same = [](uint64_t) { return true; }});
  PeriodLearner learner;
  Vector values(64, 1.0f);
  const Exchange::Call call = CallOf(&values);
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(exchange.Before(Exchange::PlaceOf(learner, 5), call), Outcome::kPass);
    learner.Next(5);
  }
  EXPECT_EQ(exchange.error(), "libterse.so cannot be loaded");
  exchange.Close();
}

// One tensor, and no exchange.
TerseApi ApiOfAFakeGroup() {
  TerseApi api = LinkedTerse();
  api.group_open_fcomm = nullptr;
  api.tensor_register = [](terse_group_t*, const char*, terse_dtype_t, const int64_t*, int32_t,
                           terse_tensor_t* out) {
    *out = 0;
    return TERSE_OK;
  };
  api.group_close = [](terse_group_t*) { return TERSE_OK; };
  api.group_report = [](terse_group_t*, char**) { return TERSE_UNAVAILABLE; };
  return api;
}

// What `tensor_dense_run` says in the tests of resting tensors, and how often the group was called.
int64_t told_run = 0;
int group_calls = 0;

TerseApi ApiOfARestingGroup() {
  TerseApi api = ApiOfAFakeGroup();
  api.group_set_exact = [](terse_group_t*, int32_t) { return TERSE_OK; };
  api.allreduce = [](terse_group_t*, terse_tensor_t, const void*, void*) {
    ++group_calls;
    return TERSE_OK;
  };
  api.tensor_dense_run = [](terse_group_t*, terse_tensor_t, int64_t* exchanges) {
    *exchanges = told_run;
    return TERSE_OK;
  };
  api.step = [](terse_group_t*, double) { return TERSE_OK; };
  return api;
}

// Calls of one signature; returns how many of `count` were left to MPI.
int Passed(Exchange* exchange, PeriodLearner* learner, int count) {
  Vector values(64, 1.0f);
  const Exchange::Call call = CallOf(&values);
  int passed = 0;
  for (int i = 0; i < count; ++i) {
    const Outcome outcome = exchange->Before(Exchange::PlaceOf(*learner, 5), call);
    EXPECT_NE(outcome, Outcome::kFailed);
    passed += outcome == Outcome::kPass ? 1 : 0;
    learner->Next(5);
  }
  return passed;
}

TEST(Exchange, ATensorThatIsFasterDenseRests) {
  const TerseApi api = ApiOfARestingGroup();
  int dummy = 0;
  for (const bool drains : {true, false}) {
    Exchange exchange(&api, "", {1, drains},
                      {.open = [&](std::string*) { return reinterpret_cast<terse_group_t*>(&dummy); },
                       .same = [](uint64_t) { return true; }});
    PeriodLearner learner;
    EXPECT_EQ(Passed(&exchange, &learner, 3), 3) << "until the period is known";
    told_run = 0;
    group_calls = 0;
    EXPECT_EQ(Passed(&exchange, &learner, 20), 0) << "compressed";
    told_run = 19;
    EXPECT_EQ(Passed(&exchange, &learner, 200), 0) << "what waits drains first, for as long as it grew";
    EXPECT_EQ(group_calls, 220);
    told_run = 20;
    EXPECT_EQ(Passed(&exchange, &learner, 80), drains ? 79 : 0);
    told_run = 7;
    EXPECT_EQ(Passed(&exchange, &learner, 200), 0) << "little waits, but some exchanges are seen";
    told_run = 8;
    group_calls = 0;
    EXPECT_EQ(Passed(&exchange, &learner, 10 * 64), drains ? 10 * 63 : 0) << "dgc counts exact gradients";
    EXPECT_EQ(group_calls, drains ? 10 : 10 * 64);
    EXPECT_EQ(exchange.rested_calls(), drains ? 79 + 10 * 63 : 0);
    told_run = 100;
    group_calls = 0;
    EXPECT_EQ(Passed(&exchange, &learner, 10 * 400), drains ? 10 * 399 : 0) << "rests grow with the run";
    told_run = 100000;
    group_calls = 0;
    EXPECT_EQ(Passed(&exchange, &learner, 10 * 1024), drains ? 10 * 1023 : 0) << "but not for ever";
    // The group tries again: all calls are its own.
    told_run = 0;
    EXPECT_LE(Passed(&exchange, &learner, 1024), 1023);
    EXPECT_EQ(Passed(&exchange, &learner, 100), 0);
    told_run = 63;
    EXPECT_EQ(Passed(&exchange, &learner, 100), 0) << "much waits";
    told_run = 64;
    EXPECT_EQ(Passed(&exchange, &learner, 256), drains ? 255 : 0) << "but no more is waited for";
    exchange.Close();
  }
}

TEST(Exchange, FailsForGoodWhenAnExchangeFails) {
  TerseApi api = ApiOfAFakeGroup();
  api.allreduce = [](terse_group_t*, terse_tensor_t, const void*, void*) { return TERSE_UNAVAILABLE; };
  api.last_error = [] { return "rank 2 (pid 4711) has ended"; };
  int dummy = 0;
  Exchange exchange(&api, "", {1},
                    {.open = [&](std::string*) { return reinterpret_cast<terse_group_t*>(&dummy); },
                     .same = [](uint64_t) { return true; }});
  PeriodLearner learner;
  Vector values(64, 1.0f);
  const Exchange::Call call = CallOf(&values);
  for (int step = 0; step < 3; ++step) {
    EXPECT_EQ(exchange.Before(Exchange::PlaceOf(learner, 5), call), Outcome::kPass);
    learner.Next(5);
  }
  EXPECT_EQ(exchange.Before(Exchange::PlaceOf(learner, 5), call), Outcome::kFailed);
  EXPECT_EQ(exchange.Before(Exchange::PlaceOf(learner, 5), call), Outcome::kFailed);
  EXPECT_THAT(exchange.error(), HasSubstr("rank 2 (pid 4711) has ended"));
  exchange.Close();
}

}  // namespace
}  // namespace terse::intercept
