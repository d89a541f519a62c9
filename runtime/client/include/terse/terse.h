/* SPDX-License-Identifier: Apache-2.0
 *
 * Terse: an all-reduce for gradients that sends a fraction of the bytes and keeps what it did not send,
 * so that no part of a gradient is lost, only delayed.
 *
 * In one picture:
 *
 *     terse_group_open_mpi(MPI_COMM_WORLD, "compressor: quantize", &group);      (terse/terse_mpi.h)
 *     terse_tensor_register(group, "fc1.weight", TERSE_FLOAT32, shape, 2, &fc1);
 *     every step:
 *       terse_allreduce(group, fc1, gradient, gradient);
 *       ... the job's own optimizer ...
 *       terse_step(group, 1.0);
 *     terse_group_close(group);
 *
 * Every function returns a status; TERSE_OK is 0; terse_last_error() has the detail. Handles are opaque.
 * Memory that a function hands out is released by the function its comment names; memory handed in stays
 * the caller's.
 *
 * Collective functions are called by all ranks of the group in the same order. Ranks that disagree
 * (configuration, tensor table, order of calls) get TERSE_MISMATCH on every rank, with the first
 * difference named. A call waits for a peer only as long as that peer shows signs of life within
 * transport.timeout_s; then it is TERSE_UNAVAILABLE or TERSE_TIMEOUT, and the group is broken: every
 * later call on it returns the same, and closing it does not wait.
 *
 * Threads: one thread at a time uses a group; different groups may be used by different threads. The
 * library starts no thread that calls MPI.
 */
#ifndef TERSE_TERSE_H_
#define TERSE_TERSE_H_

#include <stddef.h>
#include <stdint.h>

#define TERSE_VERSION_MAJOR 0
#define TERSE_VERSION_MINOR 1
#define TERSE_VERSION_PATCH 0
#define TERSE_VERSION_NUMBER (TERSE_VERSION_MAJOR * 10000 + TERSE_VERSION_MINOR * 100 + TERSE_VERSION_PATCH)

#if defined(__GNUC__)
#define TERSE_API __attribute__((visibility("default")))
#else
#define TERSE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Pinned numbers: never reused, never renumbered. */
typedef enum terse_status {
  TERSE_OK = 0,
  TERSE_INVALID_ARGUMENT = 1, /* a wrong argument; nothing was done */
  TERSE_CONFIG_INVALID = 2,   /* the configuration: key, value and what is allowed are in the detail */
  TERSE_NOT_FOUND = 3,        /* a transport plug-in or a file that is not there */
  TERSE_MISMATCH = 4,         /* ranks disagree; the first difference is in the detail, on every rank */
  TERSE_UNAVAILABLE = 5,      /* a peer is gone, or the group was broken before */
  TERSE_TIMEOUT = 6,          /* a peer gave no sign of life for transport.timeout_s */
  TERSE_DATA_LOSS = 7,        /* bytes from a peer or a file that are not what they should be */
  TERSE_FAILED = 8,           /* the call does not fit the group's state, or the system refused it */
  TERSE_UNIMPLEMENTED = 9,    /* not in this build */
  TERSE_INTERNAL = 10,        /* a defect of this library: please report the detail */
  TERSE_INFEASIBLE = 11       /* terse_plan_solve: no plan is within the error budget */
} terse_status_t;

typedef enum terse_dtype {
  TERSE_FLOAT32 = 0,
  TERSE_FLOAT64 = 1,
  TERSE_FLOAT16 = 2,
  TERSE_BFLOAT16 = 3
} terse_dtype_t;

typedef struct terse_group terse_group_t;
typedef struct terse_request terse_request_t;
typedef int32_t terse_tensor_t; /* id of a registered tensor: 0, 1, 2, ... in order of registration */

/* ---- Version and errors: any thread ---- */

TERSE_API int32_t terse_version(void); /* TERSE_VERSION_NUMBER of the library that is loaded */
TERSE_API const char* terse_status_string(terse_status_t status); /* "TERSE_MISMATCH"; static */
/* Detail of this thread's last call that failed; valid until its next call; never NULL. */
TERSE_API const char* terse_last_error(void);

/* ---- Groups ---- */

/* Opens a group over the configured transport. `config_yaml` is YAML text; NULL reads the file that
 * TERSE_CONFIG names, if set. TERSE_<SECTION>_<KEY> variables override either. Collective. */
TERSE_API terse_status_t terse_group_open(const char* config_yaml, terse_group_t** out);

/* As terse_group_open, over a duplicate of an MPI communicator given by its Fortran handle; `abi` is
 * "openmpi" or "mpich". Call terse_group_open_mpi of <terse/terse_mpi.h>, which fills both in. Collective. */
TERSE_API terse_status_t terse_group_open_fcomm(int64_t fcomm, const char* abi, const char* config_yaml,
                                                terse_group_t** out);

/* Closes the group and frees it, also when it returns an error. Collective unless the group is broken.
 * Requests that have not been waited for are an error and are freed. NULL is allowed. */
TERSE_API terse_status_t terse_group_close(terse_group_t* group);

TERSE_API terse_status_t terse_group_rank(const terse_group_t* group, int32_t* out);
TERSE_API terse_status_t terse_group_size(const terse_group_t* group, int32_t* out);

/* ---- Tensors ---- */

/* Registers a gradient under a name that is unique in the group. All ranks register the same tensors in
 * the same order before the first exchange that uses them; shape may be NULL when ndim is 0 (a scalar).
 * A tensor with no elements is allowed and is never exchanged. Not collective. */
TERSE_API terse_status_t terse_tensor_register(terse_group_t* group, const char* name, terse_dtype_t dtype,
                                               const int64_t* shape, int32_t ndim, terse_tensor_t* out);

/* Method onebit_adam: only the elements with mask[i] != 0 take part; NULL: all do. The others are not sent,
 * have no memory and enter no scale, and `recv` gets 0 there. For parameters that no gradient reaches, such
 * as position embeddings beyond the sequence length: a sign cannot say 0. `mask` has a byte an element and is
 * copied. All ranks set the same mask, between steps; it takes effect in the next collective call, where
 * ranks that differ get TERSE_MISMATCH and may set it again. No part of saved state. Not collective. */
TERSE_API terse_status_t terse_tensor_set_mask(terse_group_t* group, terse_tensor_t tensor,
                                               const uint8_t* mask);

/* Method dgc with dgc.job_momentum: says that since the tensor's last exchange the job has reduced and
 * applied `steps` gradients of it without the group, exactly. What the group's results left in the job's
 * momentum buffer has moved the parameters in these steps and has decayed; what waits is corrected by that,
 * so that no gradient counts twice. Without this call the job would keep what was moved too much. Other
 * methods do not mind. All ranks say the same, while the tensor is in no exchange; a later call takes the
 * place of an earlier one. It takes effect in the next collective call, where ranks that differ get
 * TERSE_MISMATCH and may say it again. Not collective. */
TERSE_API terse_status_t terse_tensor_set_steps_outside(terse_group_t* group, terse_tensor_t tensor,
                                                        int64_t steps);

/* ---- Exchanges. What `recv` gets depends on the method (docs/architecture.md):
 *   allreduce    the mean (or sum) of the gradients; the job's optimizer stays as it is
 *   dgc          the momentum-corrected sparse update: apply w -= lr * recv with no momentum of its own. With
 *                dgc.job_momentum: what makes an optimizer of that momentum move by the update; give it recv
 *                as its gradient, unclipped (or say in terse_step by what it was scaled)
 *   onebit_adam  the Adam direction m / (sqrt(v) + eps): apply w -= lr * recv
 * send == recv is allowed; other overlaps are not. send == NULL: this rank has no gradient for the tensor
 * in this step; it counts as zero. A NaN or Inf in any rank's gradient makes every element of a compressed
 * tensor's result NaN on every rank, so a loss scaler sees it; it never enters the residual. ---- */

/* One tensor, blocking. Collective. */
TERSE_API terse_status_t terse_allreduce(terse_group_t* group, terse_tensor_t tensor, const void* send,
                                         void* recv);

/* Several tensors at once, blocking: dense ones are fused, compressed ones share messages. The order of
 * the arrays does not matter; a tensor may appear once. Collective. */
TERSE_API terse_status_t terse_allreduce_many(terse_group_t* group, int32_t n, const terse_tensor_t* tensors,
                                              const void* const* send, void* const* recv);

/* Submits and returns. Ranks may submit in different orders; tensors are exchanged in the order of their
 * ids when a rank waits, tests or steps. The buffers stay in use until the request is done.
 * *out is freed by terse_wait, or by terse_test when *done becomes 1. */
TERSE_API terse_status_t terse_allreduce_async(terse_group_t* group, terse_tensor_t tensor, const void* send,
                                               void* recv, terse_request_t** out);
/* Blocks until the request is done and frees it, also on error. Collective: all ranks wait for it. */
TERSE_API terse_status_t terse_wait(terse_request_t* request);
/* *done = 1 and the request is freed when it is done, else 0. Starts what all ranks have submitted. */
TERSE_API terse_status_t terse_test(terse_request_t* request, int32_t* done);

/* Ends a step. applied: 1 the update was applied; 0 it was skipped (what was sent returns to the
 * residual, counters stay); between: the job scaled the update by it, the rest returns. Must be equal on
 * all ranks. Optional for `allreduce` when every step is applied; required by dgc and onebit_adam.
 * Finishes all submitted requests first. Collective. */
TERSE_API terse_status_t terse_step(terse_group_t* group, double applied);

/* Exchange and update in one: params[i] -= learning_rate * (result_i + weight decay by the method's
 * rule), then terse_step(group, 1), or (group, 0) with parameters untouched when some result is not
 * finite (*applied, may be NULL, says which). Parameters are fp32. With dgc.job_momentum, which is for the
 * job's own optimizer, TERSE_INVALID_ARGUMENT. Collective. */
TERSE_API terse_status_t terse_optimizer_step(terse_group_t* group, int32_t n, const terse_tensor_t* tensors,
                                              const void* const* grads, void* const* params,
                                              double learning_rate, int32_t* applied);

/* Gradients arrive multiplied by `scale` (> 0, finite) and results leave multiplied by it; residuals are
 * kept without. Must be equal on all ranks. */
TERSE_API terse_status_t terse_group_set_loss_scale(terse_group_t* group, double scale);

/* Tells how many samples make up a step, over all ranks. The first call says what is so; a later one with
 * another number makes onebit_adam warm up again, because the variance of its gradients changes: first one
 * exact step of momentum, which hands on all that compression had kept back, then the warm-up as at the
 * start. Other methods do not mind. All ranks give the same number, between steps; it takes effect in the
 * next collective call, where ranks that differ get TERSE_MISMATCH and may set it again. Not collective. */
TERSE_API terse_status_t terse_group_set_global_batch(terse_group_t* group, int64_t samples);

/* exact != 0: from the next collective call on every exchange is dense, whatever the plan says, and what
 * waits in residuals goes along with it, a share in each exchange; 0, as at the start: exchanges go as
 * planned. For the last steps of a job, and for steps in which compression must not show. All ranks set it
 * alike, between exchanges; ranks that differ get TERSE_MISMATCH in the next collective call and may set it
 * again. Not collective. */
TERSE_API terse_status_t terse_group_set_exact(terse_group_t* group, int32_t exact);

/* How many exchanges in a row the tensor has gone dense because that is faster (`dense_when_faster`) since it
 * was last compressed or tried, or because its plan never was another; 0 with `dense: deterministic`. The
 * same on all ranks. A caller that has another way to sum may leave the group out for a while then; what
 * waits in the residual waits on, and conditions that change are noticed by the exchanges that still come.
 * Not collective. */
TERSE_API terse_status_t terse_tensor_dense_run(terse_group_t* group, terse_tensor_t tensor,
                                                int64_t* exchanges);

/* ---- State ---- */

/* Saves what the group needs to go on: every rank's memories, warm-ups, counters and the plan, in the folder
 * `path`, which is made where it is missing. It may be one for all ranks or one on each node. A save is there
 * whole or not at all: until the last rank has written its file, the one before stays; then it is removed.
 * Between steps: after terse_step, or with a job of method allreduce that never calls it, after any exchange.
 * Saving changes nothing. Parameters, masks and the loss scale are the job's, and not saved. Collective. */
TERSE_API terse_status_t terse_state_save(terse_group_t* group, const char* path);

/* Loads the newest whole save in `path`, in place of all that the group has. Before: the same tensors are
 * registered in the same order, masks set as they were. With the same configuration and number of ranks the
 * job goes on bit by bit, but that dense_when_faster times tensors anew. With another number what waits in
 * the memories is divided anew, and every rank must find all files. The configuration may differ in what
 * memories do not depend on (docs/methods.md).
 * On an error, which all ranks get alike, nothing has changed and the group goes on. Collective.
 *   TERSE_NOT_FOUND         no save is whole on all ranks
 *   TERSE_DATA_LOSS         a damaged file, or files of several saves
 *   TERSE_INVALID_ARGUMENT  another configuration or other tensors
 *   TERSE_FAILED            in the middle of a step, a file of another version, or the file system refused */
TERSE_API terse_status_t terse_state_load(terse_group_t* group, const char* path);

/* What is saved in `path`, as JSON (docs/cli.md), after every checksum has been verified. Needs no group; any
 * thread. Freed by terse_string_free. */
TERSE_API terse_status_t terse_state_show(const char* path, char** json);

/* ---- Plans ---- */

/* Solves what L-GreCo's controller solves, offline: for each layer one of its candidates, so that errors keep
 * a budget and sizes (or, with `ready`, the time at which the last layer is done) are least. Problem and
 * answer are JSON, as docs/cli.md has them under `terse plan solve`; with less than 64 candidates in all the
 * answer is exact, else near, and it says how near at most.
 * TERSE_INVALID_ARGUMENT: no such problem, and where; TERSE_INFEASIBLE. Needs no group; any thread. *answer
 * is freed by terse_string_free. */
TERSE_API terse_status_t terse_plan_solve(const char* problem, char** answer);

/* ---- Reports and configuration ---- */

/* What the group did so far, as JSON (docs/report.md). *json is freed by terse_string_free. */
TERSE_API terse_status_t terse_group_report(terse_group_t* group, char** json);

/* The configuration that `config_yaml` (NULL: TERSE_CONFIG) and the environment give, a line a key with
 * where each value came from. With help != 0: the table of all keys instead. Freed by terse_string_free. */
TERSE_API terse_status_t terse_config_show(const char* config_yaml, int32_t help, char** text);
TERSE_API void terse_string_free(char* string);

#ifdef __cplusplus
}
#endif

#endif /* TERSE_TERSE_H_ */
