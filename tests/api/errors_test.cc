// SPDX-License-Identifier: Apache-2.0
//
// Wrong arguments, wrong configurations, and what the library tells of itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/api/ranks.h"

namespace terse::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

// Sets a variable for one test; tests run one after the other in one thread.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedVariable() { unsetenv(name_); }

 private:
  const char* name_;
};

terse_status_t OpenAlone(const std::string& yaml) {
  terse_group_t* group = nullptr;
  const terse_status_t status = terse_group_open(InprocYaml(0, 1, UniqueHub(), yaml).c_str(), &group);
  EXPECT_EQ(group != nullptr, status == TERSE_OK);
  (void)terse_group_close(group);
  return status;
}

struct WrongConfig {
  std::string name;
  std::string yaml;
  std::vector<std::string> words;  // in the detail: key, value, what is allowed
};
class WrongConfigs : public ::testing::TestWithParam<WrongConfig> {};

TEST_P(WrongConfigs, AreRefusedWithKeyValueAndWhatIsAllowed) {
  EXPECT_EQ(OpenAlone(GetParam().yaml), TERSE_CONFIG_INVALID);
  for (const std::string& word : GetParam().words) EXPECT_THAT(terse_last_error(), HasSubstr(word));
}

INSTANTIATE_TEST_SUITE_P(
    Config, WrongConfigs,
    ::testing::Values(
        WrongConfig{"unknown_key", "compresor: topk", {"compresor", "compressor"}},
        WrongConfig{"unknown_key_in_a_section", "topk: {desnity: 0.1}", {"topk.desnity", "topk.density"}},
        WrongConfig{"unknown_choice", "compressor: zip", {"compressor", "zip", "topk", "quantize"}},
        WrongConfig{"above_the_range", "topk: {density: 7}", {"topk.density", "7", "1"}},
        WrongConfig{"zero_density", "topk: {density: 0}", {"topk.density", "0"}},
        WrongConfig{"not_a_number", "topk: {density: much}", {"topk.density", "much"}},
        WrongConfig{"nan", "topk: {density: .nan}", {"topk.density"}},
        WrongConfig{"too_many_bits", "quantize: {bits: 33}", {"quantize.bits", "33", "8"}},
        WrongConfig{"no_whole_number", "quantize: {bits: 4.5}", {"quantize.bits", "4.5"}},
        WrongConfig{"negative", "min_elements: -1", {"min_elements", "-1"}},
        WrongConfig{"not_a_boolean", "error_feedback: perhaps", {"error_feedback", "perhaps"}},
        WrongConfig{"doubled_key", "compressor: topk\ncompressor: onebit", {"compressor"}},
        WrongConfig{"section_as_value", "topk: 0.1", {"topk"}},
        WrongConfig{"value_as_section", "compressor: {name: topk}", {"compressor"}},
        WrongConfig{"no_yaml", "compressor: [", {}},
        WrongConfig{"freeze_at_once", "method: onebit_adam\nadam: {freeze: 0}", {"adam.freeze", "auto", "1"}},
        WrongConfig{"unknown_transport", "method: nothing", {"method", "nothing", "dgc"}}),
    [](const auto& instance) { return instance.param.name; });

TEST(Config, EnvironmentOverridesTheText) {
  const ScopedVariable variable("TERSE_COMPRESSOR", "onebit");
  RunRanksOk(1, "compressor: topk\n", [](Group& group, int) {
    EXPECT_EQ(nlohmann::json::parse(group.Report()).at("compressor"), "onebit");
  });
}

TEST(Config, WrongEnvironmentIsRefused) {
  {
    const ScopedVariable variable("TERSE_TOPK_DENSITY", "7");
    EXPECT_EQ(OpenAlone(""), TERSE_CONFIG_INVALID);
    EXPECT_THAT(terse_last_error(), HasSubstr("TERSE_TOPK_DENSITY"));
    EXPECT_THAT(terse_last_error(), HasSubstr("7"));
  }
  const ScopedVariable variable("TERSE_COMPRESOR", "topk");
  EXPECT_EQ(OpenAlone(""), TERSE_CONFIG_INVALID);
  EXPECT_THAT(terse_last_error(), HasSubstr("TERSE_COMPRESOR"));
  EXPECT_THAT(terse_last_error(), HasSubstr("TERSE_COMPRESSOR")) << "the nearest name is a help";
}

TEST(Config, FileThatIsNotThereIsNamed) {
  const ScopedVariable variable("TERSE_CONFIG", "/nowhere/terse.yaml");
  terse_group_t* group = nullptr;
  EXPECT_EQ(terse_group_open(nullptr, &group), TERSE_NOT_FOUND);
  EXPECT_EQ(group, nullptr);
  EXPECT_THAT(terse_last_error(), HasSubstr("/nowhere/terse.yaml"));
}

TEST(Config, ShowSaysWhereValuesComeFrom) {
  const ScopedVariable variable("TERSE_QUANTIZE_BITS", "8");
  char* text = nullptr;
  ASSERT_EQ(terse_config_show("compressor: topk\n", 0, &text), TERSE_OK);
  const std::string shown = text;
  terse_string_free(text);
  EXPECT_THAT(shown, HasSubstr("compressor = topk  # file"));
  EXPECT_THAT(shown, HasSubstr("quantize.bits = 8  # environment"));
  EXPECT_THAT(shown, HasSubstr("topk.density = 0.01  # default"));

  ASSERT_EQ(terse_config_show(nullptr, 1, &text), TERSE_OK);
  EXPECT_THAT(text, HasSubstr("TERSE_TOPK_DENSITY"));
  terse_string_free(text);

  EXPECT_EQ(terse_config_show("topk: {density: 7}", 0, &text), TERSE_CONFIG_INVALID);
  terse_string_free(nullptr);
}

TEST(Arguments, NullIsRefusedEverywhere) {
  RunRanksOk(1, "", [](Group& owner, int) {
    terse_group_t* const group = owner.handle();
    const TensorId tensor = owner.Register("weight", {4});
    float values[4] = {};
    const void* send[] = {values};
    void* recv[] = {values};
    const int64_t shape[] = {4};
    int32_t number = 0;
    terse_tensor_t id = 0;
    terse_request_t* request = nullptr;
    char* text = nullptr;
    const terse_status_t statuses[] = {
        terse_group_open("", nullptr),
        terse_group_open_fcomm(0, nullptr, "", nullptr),
        terse_group_rank(nullptr, &number),
        terse_group_rank(group, nullptr),
        terse_group_size(nullptr, &number),
        terse_group_size(group, nullptr),
        terse_tensor_register(nullptr, "a", TERSE_FLOAT32, shape, 1, &id),
        terse_tensor_register(group, nullptr, TERSE_FLOAT32, shape, 1, &id),
        terse_tensor_register(group, "a", TERSE_FLOAT32, nullptr, 1, &id),
        terse_tensor_register(group, "a", TERSE_FLOAT32, shape, 1, nullptr),
        terse_allreduce(nullptr, tensor, values, values),
        terse_allreduce(group, tensor, values, nullptr),
        terse_allreduce_many(nullptr, 1, &tensor, send, recv),
        terse_allreduce_many(group, 1, nullptr, send, recv),
        terse_allreduce_many(group, 1, &tensor, nullptr, recv),
        terse_allreduce_many(group, 1, &tensor, send, nullptr),
        terse_allreduce_async(nullptr, tensor, values, values, &request),
        terse_allreduce_async(group, tensor, values, nullptr, &request),
        terse_allreduce_async(group, tensor, values, values, nullptr),
        terse_wait(nullptr),
        terse_test(nullptr, &number),
        terse_step(nullptr, 1),
        terse_optimizer_step(nullptr, 1, &tensor, send, recv, 0.1, &number),
        terse_optimizer_step(group, 1, nullptr, send, recv, 0.1, &number),
        terse_optimizer_step(group, 1, &tensor, nullptr, recv, 0.1, &number),
        terse_optimizer_step(group, 1, &tensor, send, nullptr, 0.1, &number),
        terse_group_set_loss_scale(nullptr, 1),
        terse_group_set_global_batch(nullptr, 1),
        terse_group_set_exact(nullptr, 1),
        terse_tensor_set_mask(nullptr, 0, nullptr),
        terse_tensor_set_steps_outside(nullptr, 0, 1),
        terse_tensor_dense_run(nullptr, 0, nullptr),
        terse_group_report(nullptr, &text),
        terse_group_report(group, nullptr),
        terse_config_show("", 0, nullptr),
        terse_plan_solve(nullptr, &text),
        terse_plan_solve("{}", nullptr),
    };
    for (size_t i = 0; i < std::size(statuses); ++i) {
      EXPECT_EQ(statuses[i], TERSE_INVALID_ARGUMENT) << "call " << i;
    }
    EXPECT_EQ(terse_group_close(nullptr), TERSE_OK);
  });
}

TEST(Arguments, WrongOnesAreRefusedAndNothingIsDone) {
  RunRanksOk(1, "", [](Group& owner, int) {
    terse_group_t* const group = owner.handle();
    const TensorId tensor = owner.Register("weight", {4});
    float values[4] = {1, 2, 3, 4};
    float out[4] = {};
    const int64_t negative[] = {-4};
    const int64_t huge[] = {int64_t{1} << 62, 16};
    const int64_t good[] = {4};
    terse_tensor_t id = -1;
    EXPECT_EQ(terse_tensor_register(group, "a", TERSE_FLOAT32, negative, 1, &id), TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(terse_tensor_register(group, "a", TERSE_FLOAT32, huge, 2, &id), TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(terse_tensor_register(group, "a", TERSE_FLOAT32, good, -1, &id), TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(terse_tensor_register(group, "a", static_cast<terse_dtype_t>(9), good, 1, &id),
              TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(terse_tensor_register(group, "weight", TERSE_FLOAT32, good, 1, &id), TERSE_INVALID_ARGUMENT);
    EXPECT_THAT(terse_last_error(), HasSubstr("weight"));
    EXPECT_EQ(id, -1);

    for (const TensorId unknown : {-1, 1, 1 << 30}) {
      EXPECT_EQ(terse_allreduce(group, unknown, values, out), TERSE_INVALID_ARGUMENT);
      EXPECT_THAT(terse_last_error(), HasSubstr(std::to_string(unknown)));
    }
    const TensorId twice[] = {tensor, tensor};
    const void* send[] = {values, values};
    float more[4] = {};
    void* recv[] = {out, more};
    EXPECT_THAT(terse_allreduce_many(group, 2, twice, send, recv),
                AnyOf(TERSE_INVALID_ARGUMENT, TERSE_FAILED));
    EXPECT_THAT(terse_last_error(), HasSubstr("weight"));
    EXPECT_EQ(terse_allreduce_many(group, -1, twice, send, recv), TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(terse_allreduce_many(group, 0, nullptr, nullptr, nullptr), TERSE_OK);

    for (const double applied : {-0.5, 1.5, std::nan("")}) {
      EXPECT_EQ(terse_step(group, applied), TERSE_INVALID_ARGUMENT) << applied;
    }
    for (const double scale : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
      EXPECT_EQ(terse_group_set_loss_scale(group, scale), TERSE_INVALID_ARGUMENT) << scale;
    }
    EXPECT_EQ(out[0], 0);
    owner.Allreduce(tensor, values, out);
    EXPECT_EQ(out[3], 4);
  });
}

TEST(Arguments, OverlappingBuffersAreRefused) {
  RunRanksOk(2, "", [](Group& group, int) {
    const TensorId a = group.Register("a", {100});
    const TensorId b = group.Register("b", {100});
    Vector buffer(400, 1);
    float* const p = buffer.data();
    EXPECT_EQ(terse_allreduce(group.handle(), a, p, p + 50), TERSE_INVALID_ARGUMENT);
    EXPECT_THAT(terse_last_error(), HasSubstr("overlap"));
    EXPECT_EQ(terse_allreduce(group.handle(), a, p + 50, p), TERSE_INVALID_ARGUMENT);

    const TensorId tensors[] = {a, b};
    const void* send[] = {p, p + 100};
    void* same_result[] = {p + 200, p + 299};
    EXPECT_EQ(terse_allreduce_many(group.handle(), 2, tensors, send, same_result), TERSE_INVALID_ARGUMENT);
    void* into_the_other[] = {p + 100, p + 200};
    EXPECT_EQ(terse_allreduce_many(group.handle(), 2, tensors, send, into_the_other), TERSE_INVALID_ARGUMENT);
    EXPECT_EQ(buffer, Vector(400, 1));

    // Neighbours do not overlap, and reading the same memory twice is no conflict.
    const void* same_source[] = {p, p};
    void* neighbours[] = {p + 100, p + 200};
    EXPECT_EQ(terse_allreduce_many(group.handle(), 2, tensors, same_source, neighbours), TERSE_OK);
  });
}

TEST(Arguments, ATensorHasOneRequestAtATime) {
  RunRanksOk(2, "", [](Group& group, int) {
    const TensorId tensor = group.Register("weight", {100});
    Vector first(100, 1);
    Vector second(100, 1);
    Request request = group.AllreduceAsync(tensor, first.data(), first.data());
    terse_request_t* more = nullptr;
    EXPECT_NE(terse_allreduce_async(group.handle(), tensor, second.data(), second.data(), &more), TERSE_OK);
    EXPECT_THAT(terse_last_error(), HasSubstr("weight"));
    request.Wait();
  });
}

TEST(Closing, WithOutstandingRequestsIsAnErrorAndFrees) {
  std::vector<terse_status_t> closed(2, TERSE_OK);
  RunRanks(2, "", [&closed](Group& group, int rank) {
    const TensorId tensor = group.Register("weight", {100});
    Vector gradient(100, 1);
    terse_request_t* request = nullptr;
    Check(terse_allreduce_async(group.handle(), tensor, gradient.data(), gradient.data(), &request));
    try {
      group.Close();
    } catch (const Error& error) {
      closed[static_cast<size_t>(rank)] = error.status();
      EXPECT_THAT(error.what(), HasSubstr("not been waited for"));
    }
    EXPECT_EQ(group.handle(), nullptr);
  });
  EXPECT_THAT(closed, ::testing::Each(TERSE_FAILED));
}

TEST(Errors, DetailIsOfTheThreadsLastFailure) {
  RunRanksOk(2, "", [](Group& group, int rank) {
    float value = 0;
    EXPECT_EQ(terse_allreduce(group.handle(), 100 + rank, &value, &value), TERSE_INVALID_ARGUMENT);
    EXPECT_THAT(terse_last_error(), HasSubstr(std::to_string(100 + rank)));
  });
}

TEST(Errors, StatusesHaveNames) {
  EXPECT_STREQ(terse_status_string(TERSE_OK), "TERSE_OK");
  EXPECT_STREQ(terse_status_string(TERSE_MISMATCH), "TERSE_MISMATCH");
  EXPECT_STREQ(terse_status_string(TERSE_INTERNAL), "TERSE_INTERNAL");
  EXPECT_STREQ(terse_status_string(TERSE_INFEASIBLE), "TERSE_INFEASIBLE");
  EXPECT_NE(terse_status_string(static_cast<terse_status_t>(99)), nullptr);
  EXPECT_EQ(terse_version(), TERSE_VERSION_NUMBER);
}

TEST(Report, SaysWhatWasSentAndWhy) {
  RunRanksOk(4, "compressor: topk\ntopk: {density: 0.01}\n", [](Group& group, int rank) {
    const TensorId large = group.Register("large", {100, 1000});
    const TensorId small = group.Register("small", {100});
    const TensorId bias = group.Register("layer.bias", {5000});
    Vector out(100000);
    for (int step = 0; step < 3; ++step) {
      group.Allreduce(large, Noise(100000, rank, step).data(), out.data());
      group.Allreduce(small, Noise(100, rank, step).data(), out.data());
      group.Allreduce(bias, Noise(5000, rank, step).data(), out.data());
      group.Step(step == 1 ? 0 : 1);
    }
    const nlohmann::json report = nlohmann::json::parse(group.Report());
    EXPECT_EQ(report.at("method"), "allreduce");
    EXPECT_EQ(report.at("compressor"), "topk");
    EXPECT_EQ(report.at("rank"), rank);
    EXPECT_EQ(report.at("world_size"), 4);
    EXPECT_EQ(report.at("transport"), "inproc");
    EXPECT_EQ(report.at("steps"), 2);
    EXPECT_EQ(report.at("skipped_steps"), 1);

    const nlohmann::json& tensors = report.at("tensors");
    ASSERT_EQ(tensors.size(), 3u);
    EXPECT_EQ(tensors[0].at("name"), "large");
    EXPECT_EQ(tensors[0].at("elements"), 100000);
    EXPECT_EQ(tensors[0].at("codec"), "topk");
    EXPECT_EQ(tensors[0].at("calls"), 3);
    EXPECT_EQ(tensors[1].at("codec"), "none");
    EXPECT_THAT(tensors[1].at("reason").get<std::string>(), HasSubstr("min_elements"));
    EXPECT_THAT(tensors[2].at("reason").get<std::string>(), HasSubstr("exclude"));

    // 3 exchanges; a dense ring sends 2 (N-1)/N of the tensor; 1 % of the elements travel as fp32 with
    // some bits of index to each of 3 peers.
    EXPECT_EQ(tensors[0].at("dense_bytes"), 3 * 2 * 3 * 100000);
    const double sent = tensors[0].at("bytes_sent");
    EXPECT_GT(sent, 3 * 3 * 1000 * 4);
    EXPECT_LT(sent, 3 * 3 * 1000 * 8);
    EXPECT_GE(report.at("bytes_sent").get<double>(), sent);
    EXPECT_EQ(report.at("compressed_tensors").at("bytes_sent"), sent);
    EXPECT_EQ(report.at("compressed_tensors").at("dense_bytes"), tensors[0].at("dense_bytes"));
  });
}

}  // namespace
}  // namespace terse::testing
