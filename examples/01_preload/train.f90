! SPDX-License-Identifier: Apache-2.0
!
! The core of train.cc in Fortran: the same network, the same exchanges in every step, the same SGD with momentum.
! The images are made up: ten patterns, each of which is seen through noise.
!
!   mpifort -O3 train.f90 -o train_fortran && mpirun -n 4 ./train_fortran

module network
  use mpi_f08
  implicit none
  private
  public :: layer, make_layer, forward, backward, update

  ! A fully connected layer. The last column of `parameters` are the biases, so that one exchange is enough for
  ! weights and biases.
  type layer
    integer :: inputs, outputs
    real, allocatable :: parameters(:, :), gradient(:, :), velocity(:, :)
    real, allocatable :: values(:, :)  ! outputs of a batch, after Backward their derivatives
  end type layer

contains

  subroutine make_layer(self, inputs, outputs)
    type(layer), intent(out) :: self
    integer, intent(in) :: inputs, outputs
    self%inputs = inputs
    self%outputs = outputs
    allocate (self%parameters(outputs, inputs + 1), self%gradient(outputs, inputs + 1))
    allocate (self%velocity(outputs, inputs + 1))
    call random_number(self%parameters)
    self%parameters = (2 * self%parameters - 1) * sqrt(6.0 / inputs)
    self%parameters(:, inputs + 1) = 0
    self%velocity = 0
  end subroutine make_layer

  subroutine forward(self, x, relu)
    type(layer), intent(inout) :: self
    real, intent(in) :: x(:, :)
    logical, intent(in) :: relu
    self%values = matmul(self%parameters(:, 1:self%inputs), x) &
      + spread(self%parameters(:, self%inputs + 1), 2, size(x, 2))
    if (relu) self%values = max(self%values, 0.0)
  end subroutine forward

  ! The gradient of a layer with input x, and the derivative with respect to x.
  subroutine backward(self, x, dx)
    type(layer), intent(inout) :: self
    real, intent(in) :: x(:, :)
    real, intent(out), optional :: dx(:, :)
    self%gradient(:, 1:self%inputs) = matmul(self%values, transpose(x))
    self%gradient(:, self%inputs + 1) = sum(self%values, 2)
    if (present(dx)) dx = matmul(transpose(self%parameters(:, 1:self%inputs)), self%values)
  end subroutine backward

  ! Adds up the ranks' gradients, of which each is a mean over that rank's images, and takes the step.
  subroutine update(self, ranks, learning_rate, momentum)
    type(layer), intent(inout) :: self
    integer, intent(in) :: ranks
    real, intent(in) :: learning_rate, momentum
    call MPI_Allreduce(MPI_IN_PLACE, self%gradient, size(self%gradient), MPI_REAL, MPI_SUM, MPI_COMM_WORLD)
    self%velocity = momentum * self%velocity + self%gradient / ranks
    self%parameters = self%parameters - learning_rate * self%velocity
  end subroutine update

end module network

program train
  use, intrinsic :: iso_fortran_env, only: int64, real64, error_unit
  use mpi_f08
  use network
  implicit none

  integer, parameter :: pixels = 784, classes = 10
  real, parameter :: contrast = 0.25
  integer :: steps = 400, batch = 8, hidden = 768, seed = 1
  real :: learning_rate = 0.01, momentum = 0.9
  integer :: rank, ranks, step, l, correct
  type(layer) :: layers(3)
  real, allocatable :: patterns(:, :), images(:, :), derivative(:, :)
  integer, allocatable :: labels(:)
  real(real64) :: loss, seconds, begin
  logical :: equal

  call MPI_Init()
  call MPI_Comm_rank(MPI_COMM_WORLD, rank)
  call MPI_Comm_size(MPI_COMM_WORLD, ranks)
  call read_options()

  call seed_random(seed)
  allocate (patterns(pixels, classes), images(pixels, batch), labels(batch), derivative(hidden, batch))
  call random_number(patterns)
  call make_layer(layers(1), pixels, hidden)
  call make_layer(layers(2), hidden, hidden)
  call make_layer(layers(3), hidden, classes)
  ! Each rank has images of its own.
  call seed_random(seed + 1000 * (rank + 1))

  if (rank == 0) print '(i0, a, i0, a, i0, a, i0, a)', sum([(size(layers(l)%parameters), l=1, 3)]), &
    ' parameters, ', ranks, ' ranks with ', batch, ' images each, ', steps, ' steps'
  seconds = 0
  do step = 1, steps
    call make_images()
    begin = MPI_Wtime()
    call run_network()
    call backward(layers(3), layers(2)%values, derivative)
    where (layers(2)%values <= 0) derivative = 0
    call pass_back(layers(2))
    call backward(layers(2), layers(1)%values, derivative)
    where (layers(1)%values <= 0) derivative = 0
    call pass_back(layers(1))
    call backward(layers(1), images)
    do l = 1, 3
      call update(layers(l), ranks, learning_rate, momentum)
    end do
    call MPI_Allreduce(MPI_IN_PLACE, loss, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD)
    call MPI_Allreduce(MPI_IN_PLACE, correct, 1, MPI_INTEGER, MPI_SUM, MPI_COMM_WORLD)
    seconds = seconds + MPI_Wtime() - begin
    if (rank == 0 .and. (step == 1 .or. mod(step, max(1, steps / 4)) == 0)) &
      print '(a, i0, a, f0.4, a, f0.2, a)', 'step ', step, ': loss ', loss / (batch * ranks), ', accuracy ', &
      100.0 * correct / (batch * ranks), ' %'
  end do
  if (rank == 0) print '(f0.2, a, f0.3, a)', steps / seconds, ' steps/s, mean step ', seconds / steps * 1e3, ' ms'
  call compare_ranks(equal)
  if (rank == 0) print '(a, a)', "the ranks' parameters are ", trim(merge('equal    ', 'NOT equal', equal))
  call MPI_Finalize()
  if (.not. equal) stop 1

contains

  subroutine seed_random(value)
    integer, intent(in) :: value
    integer :: length, i
    call random_seed(size=length)
    call random_seed(put=[(value * 7919 + i * 104729, i=1, length)])
  end subroutine seed_random

  subroutine make_images()
    real :: places(batch)
    call random_number(places)
    labels = 1 + int(places * classes)
    call random_number(images)
    images = 2 * images - 1 + contrast * patterns(:, labels)
  end subroutine make_images

  ! Outputs of the last layer become the derivative of the mean loss.
  subroutine run_network()
    integer :: b
    real(real64) :: probabilities(classes)
    call forward(layers(1), images, .true.)
    call forward(layers(2), layers(1)%values, .true.)
    call forward(layers(3), layers(2)%values, .false.)
    loss = 0
    correct = 0
    do b = 1, batch
      if (maxloc(layers(3)%values(:, b), 1) == labels(b)) correct = correct + 1
      probabilities = exp(real(layers(3)%values(:, b) - maxval(layers(3)%values(:, b)), real64))
      probabilities = probabilities / sum(probabilities)
      loss = loss - log(max(probabilities(labels(b)), 1e-300_real64))
      probabilities(labels(b)) = probabilities(labels(b)) - 1
      layers(3)%values(:, b) = real(probabilities / batch)
    end do
  end subroutine run_network

  subroutine pass_back(self)
    type(layer), intent(inout) :: self
    self%values = derivative
  end subroutine pass_back

  subroutine compare_ranks(all_equal)
    logical, intent(out) :: all_equal
    real, allocatable :: first(:, :)
    logical :: mine
    mine = .true.
    do l = 1, 3
      first = layers(l)%parameters
      call MPI_Bcast(first, size(first), MPI_REAL, 0, MPI_COMM_WORLD)
      mine = mine .and. all(first == layers(l)%parameters)
    end do
    call MPI_Allreduce(mine, all_equal, 1, MPI_LOGICAL, MPI_LAND, MPI_COMM_WORLD)
  end subroutine compare_ranks

  subroutine read_options()
    character(len=64) :: name, text
    integer :: i, status
    i = 1
    do while (i <= command_argument_count())
      call get_command_argument(i, name)
      if (name == '--help') then
        if (rank == 0) print '(a)', 'usage: train_fortran [--steps N] [--batch N] [--hidden N] [--seed N] ' // &
          '[--learning-rate R] [--momentum M]', &
          'Trains a network of three layers on made-up images, on all ranks of an MPI job.'
        call MPI_Finalize()
        stop
      end if
      call get_command_argument(i + 1, text)
      status = 1
      select case (name)
      case ('--steps')
        read (text, *, iostat=status) steps
      case ('--batch')
        read (text, *, iostat=status) batch
      case ('--hidden')
        read (text, *, iostat=status) hidden
      case ('--seed')
        read (text, *, iostat=status) seed
      case ('--learning-rate')
        read (text, *, iostat=status) learning_rate
      case ('--momentum')
        read (text, *, iostat=status) momentum
      end select
      if (status /= 0 .or. min(steps, batch, hidden) < 1) then
        if (rank == 0) write (error_unit, '(4a)') 'train_fortran: wrong option or value: ', trim(name), ' ', trim(text)
        call MPI_Finalize()
        stop 2
      end if
      i = i + 2
    end do
  end subroutine read_options

end program train
