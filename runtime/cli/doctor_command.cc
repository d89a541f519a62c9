// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/doctor_command.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "runtime/cli/doctor_program.h"
#include "runtime/cli/doctor_setup.h"
#include "runtime/cli/examination.h"
#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

struct DoctorOptions {
  std::string config;
  bool json = false;
  Words command;
};

void Run(const DoctorOptions& options) {
  Examination examination;
  ExamineSetup(options.config, &examination);
  if (!options.command.empty()) {
    try {
      ExamineProgram(options.command, &examination);
    } catch (const CommandError& error) {
      examination.Wrong("program", "launcher", error.what(), "use the mpirun of Open MPI or MPICH");
    }
  }
  std::fputs((options.json ? ExaminationJson : FormatExamination)(examination).c_str(), stdout);
  std::fflush(stdout);
  const auto wrong = std::count_if(examination.facts().begin(), examination.facts().end(),
                                   [](const Fact& fact) { return fact.verdict == Verdict::kWrong; });
  if (wrong > 0) {
    throw CommandError(kFoundFault,
                       std::to_string(wrong) + (wrong == 1 ? " thing is wrong" : " things are wrong"));
  }
}

}  // namespace

void AddDoctorCommand(CLI::App& app, const Words& job, std::function<void()>* run) {
  const auto options = std::make_shared<DoctorOptions>();
  options->command = job;
  CLI::App* doctor = app.add_subcommand("doctor",
                                        "Say what is here (Terse's parts, MPIs, transports, instruction "
                                        "sets, GPUs, the configuration), and what is wrong "
                                        "with it and what to do.\n"
                                        "With a job behind --, also which MPI its program uses, by which "
                                        "bindings (C, Fortran, dlopen), and what of that is "
                                        "intercepted. The job is not run.\n"
                                        "  terse doctor\n"
                                        "  terse doctor -- mpirun -n 8 ./train");
  doctor->add_option("--config", options->config, "YAML file; default: what TERSE_CONFIG names")
      ->type_name("FILE");
  doctor->add_flag("--json", options->json, "Print JSON (docs/cli.md)");
  doctor->footer("The exit code is 5 when something is wrong.");
  doctor->callback([run, options] { *run = [options] { Run(*options); }; });
}

}  // namespace terse::cli
