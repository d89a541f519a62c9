// SPDX-License-Identifier: Apache-2.0
//
// A caller of terse-controller: where it is, who calls, and what to do when a call fails. One thread.
#ifndef TERSE_RUNTIME_CLI_CONSOLE_CONNECTION_H_
#define TERSE_RUNTIME_CLI_CONSOLE_CONNECTION_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "proto/terse/v1/controller.grpc.pb.h"

namespace terse::cli {

struct ConnectionOptions {
  std::string address = "127.0.0.1:7400";
  std::string token_file;
  std::string ca;
  std::string certificate;
  std::string key;
};

// The flags of all subcommands that call a controller, with the environment names of a job's own keys.
void AddConnectionOptions(CLI::App* app, ConnectionOptions* options);

class Connection {
 public:
  // Throws CommandError for files that cannot be read.
  explicit Connection(const ConnectionOptions& options);

  // Calls the method. Throws CommandError: kCannotReach when nobody answers, else kFailure, with what the
  // controller said.
  template <typename Request, typename Response>
  Response Call(grpc::Status (v1::Controller::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request) {
    Response response;
    grpc::ClientContext context;
    Prepare(&context);
    Check((stub_.get()->*method)(&context, request, &response));
    return response;
  }

  std::vector<v1::Job> Jobs();
  // The job of that id, or of an id that begins so, if there is one alone; empty: the only job there is.
  std::string Resolve(const std::string& job);
  const std::string& address() const { return address_; }

 private:
  void Prepare(grpc::ClientContext* context) const;
  void Check(const grpc::Status& status) const;

  const std::string address_;
  std::string token_;
  std::unique_ptr<v1::Controller::Stub> stub_;
};

}  // namespace terse::cli

#endif  // TERSE_RUNTIME_CLI_CONSOLE_CONNECTION_H_
