// SPDX-License-Identifier: Apache-2.0
//
// What the generated wrappers do around the next definition of their function: one template for each kind.
// `forward` makes the original call with the original arguments; a Fortran one takes the address for the
// error code, because mpi_f08 programs may leave that argument out.
#ifndef TERSE_RUNTIME_INTERCEPT_WRAPPER_H_
#define TERSE_RUNTIME_INTERCEPT_WRAPPER_H_

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

#include "runtime/intercept/forensics.h"
#include "runtime/intercept/library.h"
#include "runtime/intercept/observer.h"
#include "runtime/intercept/signature.h"
#include "runtime/intercept/tick.h"

#define TERSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace terse::intercept {

// `raised` is the same call with MPI_THREAD_MULTIPLE.
template <typename Forward, typename Raised>
int Init(const Forward& forward, const Raised& raised) {
  const Frame frame;
  const bool raise = frame.observes() && raising_threads.load(std::memory_order_relaxed);
  const int result = raise ? raised() : forward();
  if (frame.observes() && result == MPI_SUCCESS) NoteInit();
  return result;
}

// An all-reduce that is looked at.
template <typename Forward>
int Observe(const AllReduceCall& call, const Forward& forward) {
  const int64_t begin = Now();
  Inside inside(call.form, call.count, call.type, call.op, call.comm, begin);
  int result = MPI_SUCCESS;
  if (!compressing.load(std::memory_order_relaxed) || !TakeCall(call, &result)) result = forward();
  const int64_t ticks = Now() - begin;
  inside.Leave(result == MPI_SUCCESS, begin + ticks);
  if (result == MPI_SUCCESS)
    NoteCall(call.binding, call.form, call.count, call.type, call.op, call.comm, ticks);
  return result;
}

template <typename Forward>
int AllReduce(const AllReduceCall& call, const Forward& forward) {
  const Frame frame;
  return frame.observes() ? Observe(call, forward) : forward();
}

template <typename Forward>
int AllReduceInit(Binding binding, int64_t count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                  MPI_Request* request, const Forward& forward) {
  const Frame frame;
  const int result = forward();
  if (frame.observes() && result == MPI_SUCCESS) NotePersistent(binding, count, type, op, comm, *request);
  return result;
}

// `handle` turns the i-th of the program's requests into MPI's.
template <typename Forward, typename Handle>
int StartThen(int count, const Handle& handle, const Forward& forward) {
  const Frame frame;
  if (!frame.observes() || persistent_requests.load(std::memory_order_relaxed) == 0) return forward();
  if (compressing.load(std::memory_order_relaxed)) {
    for (int i = 0; i < count; ++i) NoteStarting(handle(i));
  }
  const int64_t begin = Now();
  const int result = forward();
  const int64_t ticks = count > 0 ? (Now() - begin) / count : 0;
  for (int i = 0; i < count && result == MPI_SUCCESS; ++i) NoteStarted(handle(i), ticks);
  return result;
}

template <typename Forward>
int Start(int count, MPI_Request* requests, const Forward& forward) {
  return StartThen(
      count, [&](int i) { return requests[i]; }, forward);
}

// `freed` is asked for the request before it is gone.
template <typename Forward, typename Handle>
int FreeThen(const Handle& freed, const Forward& forward) {
  const Frame frame;
  if (!frame.observes() || persistent_requests.load(std::memory_order_relaxed) == 0) return forward();
  const uintptr_t request = Bits(freed());
  const int result = forward();
  if (result == MPI_SUCCESS) ForgetPersistent(request);
  return result;
}

template <typename Forward>
int RequestFree(MPI_Request* request, const Forward& forward) {
  return FreeThen([&] { return *request; }, forward);
}

// Makes a Fortran call and returns its error code, which reaches the program where it asked for it.
template <typename Forward>
int CallFortran(MPI_Fint* ierror, const Forward& forward) {
  MPI_Fint error = MPI_SUCCESS;
  forward(ierror != nullptr ? ierror : &error);
  return static_cast<int>(ierror != nullptr ? *ierror : error);
}

template <typename Forward, typename Raised>
void FortranInit(MPI_Fint* ierror, const Forward& forward, const Raised& raised) {
  Init([&] { return CallFortran(ierror, forward); }, [&] { return CallFortran(ierror, raised); });
}

// `request` is null for a blocking call.
template <typename Forward>
void FortranAllReduce(Binding binding, const void* send, void* recv, int64_t count, MPI_Fint type,
                      MPI_Fint op, MPI_Fint comm, MPI_Fint* request, MPI_Fint* ierror,
                      const Forward& forward) {
  const Frame frame;
  if (!frame.observes()) {
    CallFortran(ierror, forward);
    return;
  }
  const Pmpi& pmpi = GetPmpi();
  // Buffers are looked at where calls are compressed.
  const bool in_place = compressing.load(std::memory_order_relaxed) && FortranInPlace(send);
  MPI_Request taken{};
  const AllReduceCall call{binding,
                           request == nullptr ? Form::kBlocking : Form::kNonblocking,
                           in_place ? MPI_IN_PLACE : send,
                           recv,
                           count,
                           pmpi.Type_f2c(type),
                           pmpi.Op_f2c(op),
                           pmpi.Comm_f2c(comm),
                           &taken};
  const int result = Observe(call, [&] { return CallFortran(ierror, forward); });
  if (ierror != nullptr) *ierror = static_cast<MPI_Fint>(result);
  if (taken != MPI_Request{}) *request = pmpi.Request_c2f(taken);
}

template <typename Forward>
void FortranAllReduceInit(Binding binding, int64_t count, MPI_Fint type, MPI_Fint op, MPI_Fint comm,
                          MPI_Fint* request, MPI_Fint* ierror, const Forward& forward) {
  const Frame frame;
  const int result = CallFortran(ierror, forward);
  if (!frame.observes() || result != MPI_SUCCESS) return;
  const Pmpi& pmpi = GetPmpi();
  NotePersistent(binding, count, pmpi.Type_f2c(type), pmpi.Op_f2c(op), pmpi.Comm_f2c(comm),
                 pmpi.Request_f2c(*request));
}

template <typename Forward>
void FortranStart(MPI_Fint count, MPI_Fint* requests, MPI_Fint* ierror, const Forward& forward) {
  StartThen(
      static_cast<int>(count), [&](int i) { return GetPmpi().Request_f2c(requests[i]); },
      [&] { return CallFortran(ierror, forward); });
}

template <typename Forward>
void FortranRequestFree(MPI_Fint* request, MPI_Fint* ierror, const Forward& forward) {
  FreeThen([&] { return GetPmpi().Request_f2c(*request); }, [&] { return CallFortran(ierror, forward); });
}

}  // namespace terse::intercept

#endif  // TERSE_RUNTIME_INTERCEPT_WRAPPER_H_
