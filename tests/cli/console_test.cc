// SPDX-License-Identifier: Apache-2.0
//
// What the console shows, and what its keys ask for.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "runtime/cli/console/top.h"
#include "runtime/cli/console/views.h"

namespace terse::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

v1::Job Job(const std::string& id, v1::JobState state = v1::JOB_STATE_RUNNING) {
  v1::Job job;
  job.set_id(id);
  job.set_name(id);
  job.set_host("node1");
  job.set_state(state);
  job.set_world_size(8);
  job.set_step(1200);
  job.set_step_ms(12.5);
  job.set_bytes_sent(2.5e6);
  job.set_dense_bytes(1e7);
  job.set_plan_version(3);
  job.set_plan_why("lgreco: less");
  job.set_tensors(4);
  job.set_compressed_tensors(2);
  job.set_policy("lgreco");
  job.mutable_commands()->set_alpha(1);
  return job;
}

v1::Tensor Tensor(const std::string& name, uint64_t elements, double error) {
  v1::Tensor tensor;
  tensor.set_name(name);
  tensor.set_elements(elements);
  tensor.set_error(error);
  tensor.mutable_state()->set_setting("quantize:4");
  tensor.mutable_state()->set_path("quantize");
  tensor.mutable_state()->set_reason("lgreco");
  tensor.mutable_state()->set_bytes_sent(static_cast<double>(elements) / 2);
  tensor.mutable_state()->set_dense_bytes(static_cast<double>(elements) * 4);
  return tensor;
}

v1::Plan Plan(uint32_t version, const std::vector<std::pair<std::string, std::string>>& rows) {
  v1::Plan plan;
  plan.set_job_id("train-1");
  plan.set_version(version);
  plan.set_step(100 * version);
  plan.set_taken(true);
  plan.mutable_outcome()->set_why("why " + std::to_string(version));
  for (const auto& [tensor, setting] : rows) {
    v1::PlanRow& row = *plan.add_rows();
    row.set_tensor(tensor);
    row.set_setting(setting);
    row.set_reason("because");
  }
  return plan;
}

std::string Joined(const Lines& lines) {
  std::string all;
  for (const std::string& line : lines) all += line + "\n";
  return all;
}

TEST(Views, Bytes) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(BytesText(999.6), "1 kB");
  EXPECT_EQ(BytesText(1234), "1.23 kB");
  EXPECT_EQ(BytesText(6.5e10), "65 GB");
}

TEST(Views, JobsAreATable) {
  v1::Job commanded = Job("b-2", v1::JOB_STATE_SILENT);
  commanded.mutable_commands()->set_paused(true);
  commanded.mutable_commands()->set_force_dense(true);
  commanded.mutable_commands()->set_alpha(2);
  (*commanded.mutable_commands()->mutable_pins())["w"] = "none";
  const Lines table = JobTable(Sorted({commanded, Job("train-10")}));
  EXPECT_THAT(
      table, ElementsAre(
                 "JOB       STATE    RANKS  STEP  MS/STEP    SENT  LESS  PLAN  COMPRESSED  POLICY  COMMANDS",
                 "train-10  running      8  1200     12.5  2.5 MB  4.0x     3         2/4  lgreco  none",
                 "b-2       silent       8  1200     12.5  2.5 MB  4.0x     3         2/4  lgreco  dense for "
                 "all, adaptation paused, budget times 2, 1 pinned"));
}

TEST(Views, TensorsAreSortedAsAsked) {
  const std::vector<v1::Tensor> tensors = {Tensor("b", 100, 3), Tensor("a", 300, 1), Tensor("c", 200, 2)};
  const auto names = [&](TensorOrder order) {
    std::string all;
    for (const v1::Tensor& tensor : Sorted(tensors, order)) all += tensor.name();
    return all;
  };
  EXPECT_EQ(names(TensorOrder::kName), "abc");
  EXPECT_EQ(names(TensorOrder::kElements), "acb");
  EXPECT_EQ(names(TensorOrder::kSent), "acb");
  EXPECT_EQ(names(TensorOrder::kError), "bca");
  EXPECT_EQ(names(TensorOrder::kResidual), "abc") << "equal: by name";
}

TEST(Views, ATensorThatGoesAnotherWayThanPlannedSaysSo) {
  v1::Tensor tensor = Tensor("w", 100, 3);
  tensor.mutable_state()->set_path("none");
  tensor.set_pin("quantize:4");
  EXPECT_THAT(TensorTable({tensor})[1], AllOf(HasSubstr("quantize:4 (pinned)  none"), HasSubstr("8.0x")));
  EXPECT_THAT(TensorTable({Tensor("w", 100, 3)})[1], Not(HasSubstr("none")));
}

// Names come from jobs, and a terminal obeys what it is sent.
TEST(Views, NoControlCharacterGetsThrough) {
  const std::string evil = "\x1b[2J\x07\r\n\x7f\xc2\x9b caf\xc3\xa9";
  EXPECT_EQ(Printable(evil), "?[2J????? caf\xc3\xa9");
  v1::Job job = Job(evil);
  job.set_host(evil);
  job.set_plan_why(evil);
  job.set_policy(evil);
  job.set_last_decision(evil);
  v1::Tensor tensor = Tensor(evil, 1, 1);
  tensor.mutable_state()->set_reason(evil);
  tensor.mutable_state()->set_setting(evil);
  tensor.mutable_state()->set_path(evil);
  v1::Plan plan = Plan(1, {{evil, evil}});
  plan.mutable_outcome()->set_why(evil);
  v1::AuditEntry entry;
  entry.set_what(evil);
  entry.set_who(evil);
  TopData data{.jobs = {job}, .job = std::nullopt, .tensors = {}};
  TopView view;
  view.Say(evil);
  for (const Lines& lines : {JobTable({job}), JobHead(job), TensorTable({tensor}), PlanText(plan),
                             HistoryText({plan}), PlanDifference(plan, Plan(2, {{evil, "none"}})),
                             AuditText({entry}), view.Screen(data, "here", 20, 200)}) {
    for (const std::string& line : lines) {
      for (const char c : line) EXPECT_TRUE(static_cast<unsigned char>(c) >= ' ' && c != '\x7f') << line;
      EXPECT_THAT(line, Not(HasSubstr("\xc2\x9b")));
    }
  }
}

TEST(Views, LongNamesAreCutByCharacters) {
  std::string name;
  for (int i = 0; i < 60; ++i) name += "\xc3\xa9";
  const std::string line = TensorTable({Tensor(name, 1, 1)})[1];
  EXPECT_THAT(line, HasSubstr(name.substr(0, 78) + "~  "));
}

TEST(Views, DifferenceOfPlans) {
  const v1::Plan before = Plan(1, {{"a", "none"}, {"b", "topk:0.1"}, {"gone", "none"}});
  const v1::Plan after = Plan(4, {{"a", "none"}, {"b", "topk:0.2"}, {"new", "bf16"}});
  EXPECT_THAT(PlanDifference(before, after),
              ElementsAre("TENSOR  PLAN 1    PLAN 4    WHY", "b       topk:0.1  topk:0.2  because",
                          "gone    none      gone", "new     new       bf16      because"));
  EXPECT_THAT(PlanDifference(after, after), ElementsAre("plans 4 and 4 are the same"));
}

TEST(Views, AHistoryForReplayHasWhatWasTakenUp) {
  v1::Plan offered = Plan(3, {{"a", "none"}});
  offered.set_taken(false);
  EXPECT_EQ(ReplayText({Plan(0, {{"a", "fp16"}}), Plan(1, {{"a b", "topk:0.1"}}), Plan(2, {}), offered}),
            "terse-plans 1\nplan 1 100\ntopk:0.1 a b\nend\nplan 2 200\nend\n");
}

class TopTest : public ::testing::Test {
 protected:
  TopData list_{.jobs = {Job("a-1"), Job("b-2")}, .job = std::nullopt, .tensors = {}};
  TopData inside_{
      .jobs = {}, .job = Job("b-2"), .tensors = {Tensor("small", 10, 5), Tensor("large", 1000, 1)}};
  TopView view_;

  std::string Screen(const TopData& data, size_t rows = 24, size_t columns = 200) const {
    return Joined(view_.Screen(data, "here:1", rows, columns));
  }
  void Type(const std::string& text, const TopData& data) {
    for (const char c : text) EXPECT_FALSE(view_.Key(std::string(1, c), data).has_value());
  }
};

TEST_F(TopTest, KeysSelectAndLookInto) {
  EXPECT_THAT(Screen(list_),
              AllOf(HasSubstr("here:1: 2 jobs, 2 running"), HasSubstr("\n> a-1"), HasSubstr("\n  b-2")));
  view_.Key("down", list_);
  view_.Key("down", list_);
  EXPECT_THAT(Screen(list_), HasSubstr("\n> b-2")) << "not beyond the last";
  view_.Key("enter", list_);
  EXPECT_EQ(view_.job(), "b-2");
  EXPECT_THAT(Screen(inside_),
              AllOf(HasSubstr("tensors by elements"), HasSubstr("\n> large"), HasSubstr("plan 3 since")));
  view_.Key("s", inside_);
  view_.Key("s", inside_);
  EXPECT_THAT(Screen(inside_), AllOf(HasSubstr("tensors by error"), HasSubstr("\n> small")));
  view_.Key("escape", inside_);
  EXPECT_EQ(view_.job(), "");
  EXPECT_FALSE(view_.done());
  view_.Key("q", list_);
  EXPECT_TRUE(view_.done());
}

TEST_F(TopTest, KeysCommand) {
  auto command = view_.Key(" ", list_);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->kind, TopCommand::Kind::kPause);
  EXPECT_EQ(command->job, "a-1");
  EXPECT_TRUE(command->on);
  view_ = TopView("b-2");
  inside_.job->mutable_commands()->set_force_dense(true);
  command = view_.Key("d", inside_);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->kind, TopCommand::Kind::kDense);
  EXPECT_FALSE(command->on) << "it is on, so off";
  command = view_.Key("u", inside_);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->tensor, "large");

  EXPECT_FALSE(view_.Key("p", inside_).has_value());
  Type("topk:0.2q", inside_);
  view_.Key("backspace", inside_);
  EXPECT_THAT(Screen(inside_), HasSubstr("pin large to (none"));
  EXPECT_THAT(Screen(inside_), HasSubstr(": topk:0.2_\n"));
  command = view_.Key("enter", inside_);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->kind, TopCommand::Kind::kPin);
  EXPECT_EQ(command->job, "b-2");
  EXPECT_EQ(command->tensor, "large");
  EXPECT_EQ(command->text, "topk:0.2");

  view_.Key("p", inside_);
  EXPECT_FALSE(view_.Key("escape", inside_).has_value());
  EXPECT_EQ(view_.job(), "b-2") << "only the typing ended";
  view_.Key("b", inside_);
  Type("1.5x", inside_);
  EXPECT_FALSE(view_.Key("enter", inside_).has_value());
  EXPECT_THAT(Screen(inside_), HasSubstr("the budget is a number"));
  view_.Key("b", inside_);
  Type("1.5", inside_);
  command = view_.Key("enter", inside_);
  ASSERT_TRUE(command.has_value());
  EXPECT_EQ(command->number, 1.5);
}

TEST_F(TopTest, NothingToSelectIsNoTrouble) {
  const TopData nothing;
  for (const char* key : {"up", "down", "enter", " ", "d", "b", "p", "u", "s", "?"})
    EXPECT_FALSE(view_.Key(key, nothing).has_value()) << key;
  EXPECT_THAT(Screen(nothing), HasSubstr("0 jobs"));
}

TEST_F(TopTest, TheScreenIsNoLargerThanTheTerminalAndShowsWhatIsSelected) {
  TopData many;
  for (int i = 100; i < 200; ++i) many.jobs.push_back(Job("job-" + std::to_string(i)));
  for (int i = 0; i < 60; ++i) view_.Key("down", many);
  for (const size_t rows : {1u, 3u, 5u, 24u}) {
    for (const size_t columns : {1u, 10u, 80u}) {
      const Lines lines = view_.Screen(many, "here:1", rows, columns);
      EXPECT_LE(lines.size(), rows);
      for (const std::string& line : lines) EXPECT_LE(line.size(), columns);
    }
  }
  EXPECT_THAT(Joined(view_.Screen(many, "here:1", 24, 80)), HasSubstr("> job-160"));
}

}  // namespace
}  // namespace terse::cli
