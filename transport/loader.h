// SPDX-License-Identifier: Apache-2.0
//
// Opens a group by the transport's name. "inproc" is compiled in; "mpi" is the plug-in for the MPI that
// is already in the process, or else the one whose launcher started it; any other name is looked up as
// libterse_transport_<name>.so, where plug-ins are (plugin_file.h). A plug-in of another ABI number is
// refused, both numbers named.
#ifndef TERSE_TRANSPORT_LOADER_H_
#define TERSE_TRANSPORT_LOADER_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "transport/transport.h"

namespace terse::transport {

// NOT_FOUND lists where it looked and what to install or set. Thread-safe; a plug-in stays loaded.
absl::StatusOr<std::unique_ptr<Group>> OpenGroup(std::string_view name, const OpenOptions& options);

// "mpi" -> "mpi_openmpi" or "mpi_mpich" by the MPI in the process, else by the launcher's environment,
// else mpi_openmpi. Other names unchanged.
std::string ResolveTransportName(std::string_view name);

}  // namespace terse::transport

#endif  // TERSE_TRANSPORT_LOADER_H_
