// SPDX-License-Identifier: Apache-2.0
//
// The one symbol that the plug-in exports. Built once for each MPI, whose ABIs differ.
#include <mpi.h>

#include "transport/mpi/group.h"

#define TERSE_TEXT(x) #x
#define TERSE_NUMBER(x) TERSE_TEXT(x)

#if defined(OPEN_MPI)
#define TERSE_MPI_NAME "mpi_openmpi"
#define TERSE_MPI_BUILD                                                                               \
  "Open MPI " TERSE_NUMBER(OMPI_MAJOR_VERSION) "." TERSE_NUMBER(OMPI_MINOR_VERSION) "." TERSE_NUMBER( \
      OMPI_RELEASE_VERSION)
#elif defined(MPICH_VERSION)
#define TERSE_MPI_NAME "mpi_mpich"
#define TERSE_MPI_BUILD "MPICH " MPICH_VERSION
#else
#error "This MPI is neither Open MPI nor MPICH"
#endif

extern "C" __attribute__((visibility("default"))) const terse::transport::PluginDescriptor*
terse_transport_plugin() {
  using terse::transport::Group;
  using terse::transport::OpenOptions;
  static const terse::transport::PluginDescriptor descriptor{
      .abi = terse::transport::kTransportAbi,
      .name = TERSE_MPI_NAME,
      .build_id = "Terse " TERSE_VERSION ", g++ " __VERSION__ ", " TERSE_MPI_BUILD,
      .open = [](const OpenOptions* options, absl::Status* error) -> Group* {
        auto group = terse::transport::OpenMpiGroup(*options);
        if (group.ok()) return group->release();
        *error = group.status();
        return nullptr;
      },
  };
  return &descriptor;
}
