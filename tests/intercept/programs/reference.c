/* SPDX-License-Identifier: Apache-2.0
 *
 * For the Fortran programs: the sum as PMPI_ in C gives it, which no preload library sees.
 */
#include <mpi.h>

void reference_(const float* send, float* recv, const MPI_Fint* count, const MPI_Fint* type,
                const MPI_Fint* op, const MPI_Fint* comm);

void reference_(const float* send, float* recv, const MPI_Fint* count, const MPI_Fint* type,
                const MPI_Fint* op, const MPI_Fint* comm) {
  PMPI_Allreduce(send, recv, (int)*count, MPI_Type_f2c(*type), MPI_Op_f2c(*op), MPI_Comm_f2c(*comm));
}
