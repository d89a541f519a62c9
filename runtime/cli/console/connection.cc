// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/console/connection.h"

#include <chrono>

#include "grpcpp/create_channel.h"
#include "proto/wire/text_file.h"
#include "runtime/cli/exit_code.h"

namespace terse::cli {
namespace {

constexpr std::chrono::seconds kPatience{10};

std::string ReadFile(const std::string& flag, const std::string& path) {
  absl::StatusOr<std::string> text = wire::ReadTextFile(flag, path);
  if (!text.ok()) throw CommandError(kConfigInvalid, std::string(text.status().message()));
  return *std::move(text);
}

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const ConnectionOptions& options) {
  if (options.ca.empty()) {
    if (options.certificate.empty() && options.key.empty()) return grpc::InsecureChannelCredentials();
    throw CommandError(kUsage, "--tls-cert and --tls-key need --tls-ca");
  }
  if (options.certificate.empty() != options.key.empty())
    throw CommandError(kUsage, "--tls-cert and --tls-key go together");
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = ReadFile("--tls-ca", options.ca);
  if (!options.certificate.empty()) {
    ssl.pem_cert_chain = ReadFile("--tls-cert", options.certificate);
    ssl.pem_private_key = ReadFile("--tls-key", options.key);
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

void AddConnectionOptions(CLI::App* app, ConnectionOptions* options) {
  constexpr char kGroup[] = "Controller";
  app->add_option("--controller", options->address, "Where terse-controller listens")
      ->type_name("HOST:PORT")
      ->envname("TERSE_CONTROLLER_ADDRESS")
      ->capture_default_str()
      ->group(kGroup);
  app->add_option("--token-file", options->token_file, "File with the token that it asks for")
      ->type_name("FILE")
      ->envname("TERSE_CONTROLLER_TOKEN_FILE")
      ->group(kGroup);
  app->add_option("--tls-ca", options->ca, "Authority of its certificate; turns TLS on")
      ->type_name("FILE")
      ->envname("TERSE_TLS_CA")
      ->group(kGroup);
  app->add_option("--tls-cert", options->certificate, "Own certificate, for mutual TLS")
      ->type_name("FILE")
      ->envname("TERSE_TLS_CERT")
      ->group(kGroup);
  app->add_option("--tls-key", options->key, "Its private key")
      ->type_name("FILE")
      ->envname("TERSE_TLS_KEY")
      ->group(kGroup);
}

Connection::Connection(const ConnectionOptions& options) : address_(options.address) {
  if (!options.token_file.empty()) {
    token_ = ReadFile("--token-file", options.token_file);
    token_.erase(token_.find_last_not_of(" \t\r\n") + 1);
    token_.erase(0, token_.find_first_not_of(" \t\r\n"));
  }
  stub_ = v1::Controller::NewStub(grpc::CreateChannel(address_, CredentialsOf(options)));
}

void Connection::Prepare(grpc::ClientContext* context) const {
  context->set_deadline(std::chrono::system_clock::now() + kPatience);
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
}

void Connection::Check(const grpc::Status& status) const {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      throw CommandError(kCannotReach, "no terse-controller answers at " + address_ + " (" +
                                           status.error_message() +
                                           "); start one, or say --controller HOST:PORT");
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      throw CommandError(kFailure, "the controller at " + address_ + " refuses: " + status.error_message() +
                                       " (--token-file)");
    default:
      throw CommandError(kFailure, status.error_message());
  }
}

std::vector<v1::Job> Connection::Jobs() {
  const v1::ListJobsResponse response = Call(&v1::Controller::Stub::ListJobs, v1::ListJobsRequest());
  return {response.jobs().begin(), response.jobs().end()};
}

std::string Connection::Resolve(const std::string& job) {
  std::vector<std::string> fitting;
  std::string all;
  for (const v1::Job& one : Jobs()) {
    if (one.id() == job) return job;
    if (one.id().rfind(job, 0) == 0) fitting.push_back(one.id());
    all += (all.empty() ? "" : ", ") + one.id();
  }
  if (fitting.size() == 1) return fitting.front();
  if (all.empty()) throw CommandError(kFailure, "the controller at " + address_ + " has no jobs");
  throw CommandError(
      kFailure,
      (job.empty() ? "which job? There are " : "no one job is called " + job + "; there are ") + all);
}

}  // namespace terse::cli
