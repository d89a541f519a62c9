/* SPDX-License-Identifier: Apache-2.0
 *
 * For MPI programs that may run under Terse's preload library (docs/preload.md) and know what their gradients
 * are called. Nothing has to be linked: without the library the call does nothing.
 *
 *   terse_preload_name("layer1.weight");
 *   MPI_Allreduce(MPI_IN_PLACE, gradient, n, MPI_FLOAT, MPI_SUM, comm);
 *
 * The name is that of this thread's next all-reduce, and wins over what the library would learn: such a call
 * is that tensor wherever in the step it comes, and needs no period. All ranks of the call give the same
 * name, in every step; within a step a name comes once in a communicator. At most 1000 bytes of one line; a
 * call that is no sum of floats of at least min_elements stays exact, named or not.
 */
#ifndef TERSE_TERSE_PRELOAD_H_
#define TERSE_TERSE_PRELOAD_H_

#ifdef __cplusplus
extern "C" {
#endif

/* Exported by the preload library. Not to be called directly in a program that is not under it: it is null.
 */
__attribute__((weak)) void terse_preload_name_next(const char* name);

static inline void terse_preload_name(const char* name) {
  if (terse_preload_name_next) terse_preload_name_next(name);
}

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TERSE_TERSE_PRELOAD_H_ */
