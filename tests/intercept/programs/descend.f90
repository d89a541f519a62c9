! SPDX-License-Identifier: Apache-2.0
!
! A Fortran job that trains, with no word of Terse: gradient descent on three tensors, one summed in place by
! MPI_Allreduce, one by MPI_Iallreduce, one (where ALLREDUCE_INIT is defined) by a persistent request. Prints
! 'expect' and 'distance' as `descend.c` does. With F08 over `use mpi_f08`, else over `use mpi`.
#ifdef F08
#define REQUEST type(MPI_Request)
#else
#define REQUEST integer
#endif
program descend
#ifdef F08
  use mpi_f08
#else
  use mpi
#endif
  implicit none
  integer, parameter :: n = 8000, steps = 120
  real, asynchronous :: gradient(n, 3), total(n, 3)
  real :: weight(n, 3), velocity(n, 3), rate
  double precision :: squares, mean
  integer :: ierr, me, np, i, t, r, step, provided, persistent = 0
  REQUEST :: started, made
  call MPI_Init_thread(MPI_THREAD_MULTIPLE, provided, ierr)
  call MPI_Comm_rank(MPI_COMM_WORLD, me, ierr)
  call MPI_Comm_size(MPI_COMM_WORLD, np, ierr)
  weight = 0
  velocity = 0
#ifdef ALLREDUCE_INIT
  call ALLREDUCE_INIT(gradient(:, 3), total(:, 3), n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, MPI_INFO_NULL, made, ierr)
#endif
  do step = 1, steps
    do t = 1, 3
      gradient(:, t) = [(weight(i, t) - target_of(me, t, i), i = 1, n)]
    end do
    total(:, 1) = gradient(:, 1)
    call MPI_Allreduce(MPI_IN_PLACE, total(:, 1), n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, ierr)
    call MPI_Iallreduce(gradient(:, 2), total(:, 2), n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, started, ierr)
#ifdef ALLREDUCE_INIT
    call MPI_Start(made, ierr)
    persistent = persistent + 1
    call MPI_Wait(made, MPI_STATUS_IGNORE, ierr)
#else
    call MPI_Allreduce(gradient(:, 3), total(:, 3), n, MPI_REAL, MPI_SUM, MPI_COMM_WORLD, ierr)
#endif
    call MPI_Wait(started, MPI_STATUS_IGNORE, ierr)
    if (ierr /= MPI_SUCCESS) call MPI_Abort(MPI_COMM_WORLD, 2, ierr)
    rate = 0.05 * 0.97**step
    velocity = 0.5 * velocity + total / np
    weight = weight - rate * velocity
  end do
#ifdef ALLREDUCE_INIT
  call MPI_Request_free(made, ierr)
#endif
  squares = 0
  do t = 1, 3
    do i = 1, n
      mean = 0
      do r = 0, np - 1
        mean = mean + target_of(r, t, i) / dble(np)
      end do
      squares = squares + (weight(i, t) - mean)**2
    end do
  end do
  if (me == 0) then
    print '(a,f9.6)', 'distance ', sqrt(squares / (3 * n))
    print '(a,i0,a,i0,a,i0,a)', 'expect {"blocking": ', (2 * steps - persistent) * np, ', "nonblocking": ', &
      steps * np, ', "persistent": ', persistent * np, '}'
  end if
  call MPI_Finalize(ierr)
contains
  real function target_of(r, t, i)
    integer, intent(in) :: r, t, i
    target_of = real(mod(i * 31 + r * 17 + t * 7, 101)) / 50 - 1
  end function
end program
