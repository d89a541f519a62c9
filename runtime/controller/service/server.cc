// SPDX-License-Identifier: Apache-2.0
#include "runtime/controller/service/server.h"

#include <chrono>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/server_builder.h"
#include "proto/wire/text_file.h"

namespace terse::controller {
namespace {

constexpr int kMostMessage = 64 << 20;
constexpr int kMostThreads = 256;
constexpr std::chrono::seconds kStopWithin{2};

int64_t MachineNow() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Whether nobody outside of this machine can reach the address.
bool IsLocal(const std::string& address) {
  for (const char* const local : {"127.", "localhost:", "[::1]:", "unix:"}) {
    if (address.rfind(local, 0) == 0) return true;
  }
  return false;
}

// gRPC would take a port above 65535 for another one.
bool HasPort(const std::string& address) {
  if (address.rfind("unix:", 0) == 0) return true;
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  return colon != std::string::npos && absl::SimpleAtoi(address.substr(colon + 1), &port) && port <= 65535;
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> CredentialsOf(const ServerOptions& options) {
  if (options.certificate.empty() && options.key.empty()) {
    if (options.clients.empty()) return grpc::InsecureServerCredentials();
    return absl::InvalidArgumentError("--tls-clients needs --tls-cert and --tls-key");
  }
  if (options.certificate.empty() || options.key.empty())
    return absl::InvalidArgumentError("--tls-cert and --tls-key go together");
  const absl::StatusOr<std::string> certificate = wire::ReadTextFile("--tls-cert", options.certificate);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<std::string> key = wire::ReadTextFile("--tls-key", options.key);
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions ssl(options.clients.empty()
                                            ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                            : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_key_cert_pairs.push_back({*key, *certificate});
  if (!options.clients.empty()) {
    absl::StatusOr<std::string> clients = wire::ReadTextFile("--tls-clients", options.clients);
    if (!clients.ok()) return clients.status();
    ssl.pem_root_certs = *std::move(clients);
  }
  return grpc::SslServerCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, JobTable::Clock clock) {
  std::unique_ptr<Server> self(new Server);
  if (!options.tokens.empty()) {
    absl::StatusOr<Tokens> tokens = Tokens::Read(options.tokens);
    if (!tokens.ok())
      return absl::Status(tokens.status().code(), absl::StrCat("--tokens: ", tokens.status().message()));
    self->tokens_ = *std::move(tokens);
  } else if (!IsLocal(options.listen) && !options.open) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", options.listen,
        ": others can reach that address, and without --tokens anybody could command every job; give "
        "--tokens FILE, or --open if that is meant"));
  }
  if (!HasPort(options.listen)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen ", options.listen, ": HOST:PORT with a port of 0 to 65535, or unix:PATH, is needed"));
  }
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials = CredentialsOf(options);
  if (!credentials.ok()) return credentials.status();
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options.store);
  if (!store.ok())
    return absl::Status(store.status().code(), absl::StrCat("--store: ", store.status().message()));
  self->store_ = *std::move(store);
  absl::StatusOr<std::unique_ptr<JobTable>> jobs = JobTable::Load(
      self->store_.get(), options.most_jobs, clock ? std::move(clock) : JobTable::Clock(MachineNow));
  if (!jobs.ok()) return jobs.status();
  self->jobs_ = *std::move(jobs);
  self->service_ = std::make_unique<Service>(self->jobs_.get(), self->store_.get(), self->tokens_);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, *credentials, &self->port_);
  builder.RegisterService(self->service_.get());
  builder.SetMaxReceiveMessageSize(kMostMessage);
  // One controller an address: a second one that shared it would take half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.SetResourceQuota(grpc::ResourceQuota("controller").SetMaxThreads(kMostThreads));
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr || (self->port_ == 0 && options.listen.rfind("unix:", 0) != 0)) {
    return absl::UnavailableError(
        absl::StrCat("--listen: cannot listen on ", options.listen, "; is it this machine's, and free?"));
  }
  return self;
}

void Server::Stop() {
  service_->Stop();
  server_->Shutdown(std::chrono::system_clock::now() + kStopWithin);
}

Server::~Server() {
  if (server_ == nullptr) return;
  Stop();
  server_->Wait();
}

}  // namespace terse::controller
