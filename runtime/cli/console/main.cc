// SPDX-License-Identifier: Apache-2.0
//
// terse-console: what of the `terse` command talks to a terse-controller. `terse` itself starts it, so that
// a job's start does not wait for gRPC to be loaded.
#include <google/protobuf/util/json_util.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/cli/console/connection.h"
#include "runtime/cli/console/top.h"
#include "runtime/cli/console/views.h"
#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

using Stub = v1::Controller::Stub;
using Run = std::function<void(Connection&)>;

constexpr char kJobHelp[] = "The job's id, or how it begins; left out: the only job there is";

void ExitInterrupted(int /*signal*/) { _exit(kInterrupted); }

void Print(const Lines& lines) {
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok())
    throw CommandError(kFailure, "the controller's answer cannot be shown as JSON");
  std::fputs(text.c_str(), stdout);
}

v1::Plan GetPlan(Connection& connection, const std::string& job, uint32_t version) {
  v1::GetPlanRequest request;
  request.set_job_id(job);
  request.set_version(version);
  return connection.Call(&Stub::GetPlan, request);
}

// All of them, in as many calls as it takes.
v1::ListPlansResponse GetHistory(Connection& connection, const std::string& job) {
  v1::ListPlansResponse all;
  v1::ListPlansRequest request;
  request.set_job_id(job);
  for (;;) {
    const v1::ListPlansResponse some = connection.Call(&Stub::ListPlans, request);
    if (some.plans_size() == 0) return all;
    all.mutable_plans()->MergeFrom(some.plans());
    request.set_first(some.plans(some.plans_size() - 1).version() + 1);
  }
}

// What the parsed line asks for; the line's values live as long as it.
struct Asked {
  std::string job;
  std::string tensor;
  std::string setting;
  uint32_t version = 0;
  uint32_t other = 0;
  double alpha = 1;
  std::string on;
  uint32_t most = 100;
  bool json = false;
  bool replay = false;
  TopOptions top;
};

void AddPlan(CLI::App& app, const std::shared_ptr<Asked>& asked, Run* run) {
  CLI::App* const plan = app.add_subcommand("plan", "The plans of jobs that run");
  plan->require_subcommand(1);

  CLI::App* const show = plan->add_subcommand("show", "A plan: what each tensor goes by, and why");
  show->add_option("job", asked->job, kJobHelp)->type_name("JOB");
  show->add_option("--version", asked->version, "Left out: the plan in force")->type_name("N");
  show->add_flag("--json", asked->json, "As JSON");
  show->callback([=] {
    *run = [asked](Connection& connection) {
      const v1::Plan got = GetPlan(connection, connection.Resolve(asked->job), asked->version);
      asked->json ? PrintJson(got) : Print(PlanText(got));
    };
  });

  CLI::App* const diff = plan->add_subcommand("diff", "What is other in plan B than in plan A");
  diff->add_option("job", asked->job, kJobHelp)->type_name("JOB")->required();
  diff->add_option("a", asked->version, "The one version")->type_name("A")->required();
  diff->add_option("b", asked->other, "The other; left out: the plan in force")->type_name("B");
  diff->callback([=] {
    *run = [asked](Connection& connection) {
      const std::string job = connection.Resolve(asked->job);
      // 0 asks for the plan in force, so that the first one is fetched by the history, which has all its
      // rows.
      v1::Plan before;
      if (asked->version == 0) {
        v1::ListPlansRequest request;
        request.set_job_id(job);
        request.set_most(1);
        const v1::ListPlansResponse first = connection.Call(&Stub::ListPlans, request);
        if (first.plans_size() == 0 || first.plans(0).version() != 0)
          throw CommandError(kFailure, "job " + job + " has no plan 0");
        before = first.plans(0);
      } else {
        before = GetPlan(connection, job, asked->version);
      }
      Print(PlanDifference(before, GetPlan(connection, job, asked->other)));
    };
  });

  CLI::App* const history =
      plan->add_subcommand("history", "All plans of a job: when, what changed, and why");
  history->add_option("job", asked->job, kJobHelp)->type_name("JOB");
  history->add_flag("--json", asked->json, "As JSON");
  history->add_flag("--replay", asked->replay, "As policy.history takes it, to run the same plans again");
  history->callback([=] {
    *run = [asked](Connection& connection) {
      const v1::ListPlansResponse all = GetHistory(connection, connection.Resolve(asked->job));
      const std::vector<v1::Plan> plans(all.plans().begin(), all.plans().end());
      if (asked->replay) {
        std::fputs(ReplayText(plans).c_str(), stdout);
      } else {
        asked->json ? PrintJson(all) : Print(HistoryText(plans));
      }
    };
  });

  CLI::App* const pin = plan->add_subcommand("pin", "Give a tensor this setting, whatever the policy says");
  pin->add_option("job", asked->job, kJobHelp)->type_name("JOB")->required();
  pin->add_option("tensor", asked->tensor, "Its name")->type_name("TENSOR")->required();
  pin->add_option("setting", asked->setting,
                  "none, fp16, bf16, onebit, quantize:BITS, topk:DENSITY or powersgd:RANK")
      ->type_name("SETTING")
      ->required();
  pin->callback([=] {
    *run = [asked](Connection& connection) {
      v1::PinTensorRequest request;
      request.set_job_id(connection.Resolve(asked->job));
      request.set_tensor(asked->tensor);
      request.set_setting(asked->setting);
      connection.Call(&Stub::PinTensor, request);
    };
  });
  CLI::App* const unpin = plan->add_subcommand("unpin", "Let the policy choose for the tensor again");
  unpin->add_option("job", asked->job, kJobHelp)->type_name("JOB")->required();
  unpin->add_option("tensor", asked->tensor, "Its name")->type_name("TENSOR")->required();
  unpin->callback([=] {
    *run = [asked](Connection& connection) {
      v1::UnpinTensorRequest request;
      request.set_job_id(connection.Resolve(asked->job));
      request.set_tensor(asked->tensor);
      connection.Call(&Stub::UnpinTensor, request);
    };
  });
}

void AddJob(CLI::App& app, const std::shared_ptr<Asked>& asked, Run* run) {
  CLI::App* const job = app.add_subcommand("job", "The jobs of a controller, and commands for them");
  job->require_subcommand(1);
  job->add_subcommand("list", "All jobs")->callback([=] {
    *run = [](Connection& connection) { Print(JobTable(Sorted(connection.Jobs()))); };
  });
  const auto about = [&](const char* name, const char* what, auto&& call) {
    CLI::App* const command = job->add_subcommand(name, what);
    command->add_option("job", asked->job, kJobHelp)->type_name("JOB")->required();
    command->callback([run, asked, call] {
      *run = [asked, call](Connection& connection) { call(connection, connection.Resolve(asked->job)); };
    });
    return command;
  };
  about("show", "A job and its configuration", [](Connection& connection, const std::string& id) {
    v1::GetJobRequest request;
    request.set_job_id(id);
    const v1::Job got = connection.Call(&Stub::GetJob, request);
    Print(JobHead(got));
    std::printf("\n%s", got.config().c_str());
  });
  about("budget", "Set the error budget, as a multiple of what the configured setting leaves",
        [asked](Connection& connection, const std::string& id) {
          v1::SetBudgetRequest request;
          request.set_job_id(id);
          request.set_alpha(asked->alpha);
          connection.Call(&Stub::SetBudget, request);
        })
      ->add_option("alpha", asked->alpha, "Above 0")
      ->type_name("ALPHA")
      ->required();
  for (const bool paused : {true, false}) {
    about(paused ? "pause" : "resume", paused ? "Leave the plan as it is" : "Let the policy decide again",
          [paused](Connection& connection, const std::string& id) {
            v1::PauseAdaptationRequest request;
            request.set_job_id(id);
            request.set_paused(paused);
            connection.Call(&Stub::PauseAdaptation, request);
          });
  }
  about("dense", "Let everything go dense, or as planned again",
        [asked](Connection& connection, const std::string& id) {
          v1::ForceDenseRequest request;
          request.set_job_id(id);
          request.set_on(asked->on == "on");
          connection.Call(&Stub::ForceDense, request);
        })
      ->add_option("on", asked->on, "on or off")
      ->check(CLI::IsMember({"on", "off"}))
      ->required();
  about("remove", "Take a job that is over off the list, with its history",
        [](Connection& connection, const std::string& id) {
          v1::RemoveJobRequest request;
          request.set_job_id(id);
          connection.Call(&Stub::RemoveJob, request);
        });
  CLI::App* const audit = job->add_subcommand("audit", "Who asked what of the controller, newest first");
  audit->add_option("job", asked->job, "Of this job alone")->type_name("JOB");
  audit->add_option("--most", asked->most, "How many")->capture_default_str();
  audit->callback([=] {
    *run = [asked](Connection& connection) {
      v1::ListAuditRequest request;
      request.set_job_id(asked->job);
      // Of a job that is gone there may be entries still.
      for (const v1::Job& one : connection.Jobs()) {
        if (!asked->job.empty() && one.id().rfind(asked->job, 0) == 0)
          request.set_job_id(connection.Resolve(asked->job));
      }
      request.set_most(asked->most);
      const v1::ListAuditResponse response = connection.Call(&Stub::ListAudit, request);
      Print(AuditText({response.entries().begin(), response.entries().end()}));
    };
  });
}

void AddTop(CLI::App& app, const std::shared_ptr<Asked>& asked, Run* run) {
  static const auto& orders = *new std::map<std::string, TensorOrder>([] {
    std::map<std::string, TensorOrder> all;
    for (const TensorOrder order : kTensorOrders) all.emplace(Name(order), order);
    return all;
  }());
  CLI::App* const top = app.add_subcommand("top", "Watch jobs and their tensors; ? shows the keys");
  top->add_option("job", asked->top.job, "Look into this one")->type_name("JOB");
  top->add_flag("--once", asked->top.once, "Print once and end, as without a terminal");
  top->add_option("--seconds", asked->top.seconds, "Between two looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  top->add_option("--sort", asked->top.order, "Tensors by name, elements, sent, error, residual or dense")
      ->transform(CLI::CheckedTransformer(orders));
  top->callback([=] { *run = [asked](Connection& connection) { RunTop(&connection, asked->top); }; });
}

int Fail(ExitCode code, const char* what) {
  std::fprintf(stderr, "terse: %s\n", what);
  return code;
}

int Main(int argc, char** argv) {
  signal(SIGINT, ExitInterrupted);
  CLI::App app("The part of `terse` that talks to a terse-controller.", "terse");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 refused, 2 usage, 3 no controller answers, 4 a file cannot be read, 130 "
      "interrupted.");
  ConnectionOptions options;
  const auto asked = std::make_shared<Asked>();
  Run run;
  AddTop(app, asked, &run);
  AddPlan(app, asked, &run);
  AddJob(app, asked, &run);
  for (CLI::App* const group : app.get_subcommands({})) {
    const std::vector<CLI::App*> leaves = group->get_subcommands({});
    for (CLI::App* const leaf : leaves.empty() ? std::vector<CLI::App*>{group} : leaves)
      AddConnectionOptions(leaf, &options);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kSuccess : kUsage;
  }
  try {
    Connection connection(options);
    run(connection);
  } catch (const CommandError& error) {
    return Fail(error.code(), error.what());
  } catch (const std::exception& error) {
    return Fail(kFailure, error.what());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return Fail(kFailure, "cannot write to stdout");
  return kSuccess;
}

}  // namespace
}  // namespace terse::cli

int main(int argc, char** argv) { return terse::cli::Main(argc, argv); }
