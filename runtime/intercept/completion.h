// SPDX-License-Identifier: Apache-2.0
//
// How a program learns that a call which the library makes on a thread is over: by a request that every form
// of waiting and testing knows, wrapped or not (decisions 0030 and 0031). It is a receive of an empty message
// from this process to itself; that of a persistent call is persistent, too, and MPI_Start posts it. The
// thread sends the message.
//
// A failed call is a message that is too long. Its communicator's error handler has been told by then, and
// whoever waits gets an error, of which no other handler hears: the messages' communicator returns errors.
// (The errors of a generalized request go to the handler of MPI_COMM_WORLD. So do MPICH's of receives that
// failed before somebody waited.)
//
// The messages travel in a communicator of all ranks: in one of this process alone MPICH 4.0 does not wake
// the thread that waits.
//
// Needs MPI_THREAD_MULTIPLE. Any thread.
#ifndef TERSE_RUNTIME_INTERCEPT_COMPLETION_H_
#define TERSE_RUNTIME_INTERCEPT_COMPLETION_H_

#include <mpi.h>

#include "runtime/intercept/signature.h"

namespace terse::intercept {

// In MPI_Init: the library's own communicator of all ranks, which returns errors, and this process's rank.
// Without it there are no requests.
void SetMessages(MPI_Comm comm, int rank);
// Makes the request that stands for a call which does not block, and the tag of its message; negative where
// MPI refused.
int MakeRequest(Form form, MPI_Request* request);
// Once for each call, after its start. Error handlers are told of a failure by the caller.
void CompleteRequest(int tag, bool failed);

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_COMPLETION_H_
