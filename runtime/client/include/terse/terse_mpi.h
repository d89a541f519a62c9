/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens a group over an MPI communicator. A header with inline code on purpose: it is compiled with the
 * job's own mpi.h, so libterse itself is tied to no MPI.
 */
#ifndef TERSE_TERSE_MPI_H_
#define TERSE_TERSE_MPI_H_

#include <mpi.h>
#include <terse/terse.h>

/* The communicator is duplicated: the job's own traffic on it is never touched. Collective over `comm`.
 * MPI must be initialized; call terse_group_close before MPI_Finalize. */
static inline terse_status_t terse_group_open_mpi(MPI_Comm comm, const char* config_yaml,
                                                  terse_group_t** out) {
#if defined(OPEN_MPI)
  const char* abi = "openmpi";
#elif defined(MPICH_VERSION) || defined(MPICH_NAME)
  const char* abi = "mpich";
#else
  const char* abi = "unknown";
#endif
  return terse_group_open_fcomm((int64_t)MPI_Comm_c2f(comm), abi, config_yaml, out);
}

#endif /* TERSE_TERSE_MPI_H_ */
