! SPDX-License-Identifier: Apache-2.0
!
! Fortran 90 over `use mpi`: blocking, in place, nonblocking, each compared bit for bit with PMPI_ in C.
program surface
  use mpi
  implicit none
  integer, parameter :: n = 5000
  real :: a(n), b(n), c(n)
  integer :: ierr, me, np, i, step, request, comm, total(1)
  integer :: blocking = 0, nonblocking = 0
  call MPI_Init(ierr)
  call MPI_Comm_rank(MPI_COMM_WORLD, me, ierr)
  call MPI_Comm_size(MPI_COMM_WORLD, np, ierr)
  do step = 1, 4
    a = [(real(me + 1) / real(i + step), i = 1, n)]
    call reference(a, c, n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD)
    b = a
    call MPI_Allreduce(MPI_IN_PLACE, b, n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, ierr)
    call check()
    call MPI_Comm_split(MPI_COMM_WORLD, 0, me, comm, ierr)
    call MPI_Allreduce(a, b, n, MPI_REAL, MPI_SUM, comm, ierr)
    call check()
    call MPI_Iallreduce(a, b, n, MPI_REAL, MPI_SUM, comm, request, ierr)
    call MPI_Wait(request, MPI_STATUS_IGNORE, ierr)
    call check()
    call MPI_Comm_free(comm, ierr)
    blocking = blocking + 2
    nonblocking = nonblocking + 1
  end do
  total = me
  call MPI_Allreduce(MPI_IN_PLACE, total, 1, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD, ierr)
  if (total(1) /= np * (np - 1) / 2) call MPI_Abort(MPI_COMM_WORLD, 4, ierr)
  blocking = blocking + 1
  if (me == 0) print '(a,i0,a,i0,a)', 'expect {"blocking": ', blocking * np, ', "nonblocking": ', &
    nonblocking * np, ', "persistent": 0}'
  call MPI_Finalize(ierr)
contains
  subroutine check()
    if (ierr /= MPI_SUCCESS) call MPI_Abort(MPI_COMM_WORLD, 2, ierr)
    if (any(transfer(b, [0]) /= transfer(c, [0]))) call MPI_Abort(MPI_COMM_WORLD, 3, ierr)
    b = -1
  end subroutine
end program
