// SPDX-License-Identifier: Apache-2.0
//
// terse-controller: plans for many jobs, over gRPC.
#include <signal.h>

#include <cstdio>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "runtime/controller/service/server.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace {

constexpr char kFooter[] = R"(
A job reaches it with controller.address (terse run --controller-address HOST:PORT ...), people with
`terse top` and `terse plan`. It may come after the job, stop and come back: jobs go on meanwhile under
their last plans. What it knows is in --store; the same file gives it all back.

The file of --tokens has a line "ROLE NAME TOKEN" for each token, ROLE being read (looks), operate (looks and
commands) or job (reports); only its owner may read it.

  terse-controller --store /var/lib/terse/controller.db
  terse-controller --listen 0.0.0.0:7400 --store c.db --tokens tokens --tls-cert c.pem --tls-key k.pem)";

}  // namespace

int main(int argc, char** argv) {
  terse::controller::ServerOptions options;
  options.store = "terse-controller.db";
  CLI::App app(
      "Makes plans for jobs that train, and shows them to people, over gRPC "
      "(proto/terse/v1/controller.proto).");
  app.footer(kFooter);
  app.add_option("--listen", options.listen, "address and port, or unix:PATH; port 0: any")
      ->capture_default_str();
  app.add_option("--store", options.store, "file that keeps jobs and plans; :memory: for none")
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "file of the tokens that callers need");
  app.add_flag("--open", options.open, "allow an address that others can reach without --tokens");
  app.add_option("--tls-cert", options.certificate, "certificate, for TLS");
  app.add_option("--tls-key", options.key, "its private key");
  app.add_option("--tls-clients", options.clients,
                 "authority whose certificates callers need, for mutual TLS");
  app.add_option("--most-jobs", options.most_jobs, "jobs that are kept; the oldest that are over go")
      ->capture_default_str();
  app.set_version_flag("--version", TERSE_VERSION_STRING);
  CLI11_PARSE(app, argc, argv);

  auto log = spdlog::stderr_color_mt("terse-controller");
  log->set_pattern("%Y-%m-%dT%H:%M:%S.%e %n %l: %v");

  // Signals are waited for, not handled: every thread of gRPC's has them blocked.
  sigset_t stopping;
  sigemptyset(&stopping);
  sigaddset(&stopping, SIGINT);
  sigaddset(&stopping, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stopping, nullptr);

  auto server = terse::controller::Server::Start(options);
  if (!server.ok()) {
    log->error("{}", std::string(server.status().message()));
    return 2;
  }
  log->info("{} on {}, port {}, with {} jobs from {}", TERSE_VERSION_STRING, options.listen,
            (*server)->port(), (*server)->jobs(), options.store);
  if (options.certificate.empty() && !options.tokens.empty() && options.listen.rfind("127.", 0) != 0)
    log->warn("tokens go over the wire in clear: give --tls-cert and --tls-key");
  int signal = 0;
  sigwait(&stopping, &signal);
  log->info("stopping ({})", signal == SIGINT ? "interrupt" : "terminate");
  (*server)->Stop();
  (*server)->Wait();
  return 0;
}
