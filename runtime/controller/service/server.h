// SPDX-License-Identifier: Apache-2.0
//
// A terse-controller: store, jobs and service behind one address, with the standard health service and
// reflection. Start, then Wait until another thread says Stop.
#ifndef TERSE_RUNTIME_CONTROLLER_SERVICE_SERVER_H_
#define TERSE_RUNTIME_CONTROLLER_SERVICE_SERVER_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"
#include "runtime/controller/service/job_table.h"
#include "runtime/controller/service/service.h"
#include "runtime/controller/service/store.h"
#include "runtime/controller/service/tokens.h"

namespace terse::controller {

struct ServerOptions {
  std::string listen = "127.0.0.1:7400";  // port 0: any that is free
  std::string store = ":memory:";         // path of the SQLite file
  std::string tokens;                     // path; empty: none are asked for
  std::string certificate;                // paths; empty: no TLS
  std::string key;
  std::string clients;  // authority of clients' certificates, for mutual TLS
  bool open = false;    // without tokens on an address that others can reach
  size_t most_jobs = 4096;
};

class Server {
 public:
  // Errors say which option is wrong, and how.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       JobTable::Clock clock = {});
  ~Server();

  int port() const { return port_; }
  size_t jobs() const { return jobs_->All().size(); }
  void Wait() { server_->Wait(); }
  // Finishes calls that run, for two seconds at most. From any thread.
  void Stop();

 private:
  Server() = default;

  std::unique_ptr<Store> store_;
  std::unique_ptr<JobTable> jobs_;
  std::optional<Tokens> tokens_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace terse::controller

#endif  // TERSE_RUNTIME_CONTROLLER_SERVICE_SERVER_H_
