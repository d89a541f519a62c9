/* SPDX-License-Identifier: Apache-2.0 */
int MPI_Allreduce(void);
int small(void);
int small(void) { return MPI_Allreduce(); }
