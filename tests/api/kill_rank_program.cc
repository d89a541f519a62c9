// SPDX-License-Identifier: Apache-2.0
//
// A training job of which rank 2 is killed: at the beginning of a step (argument "between") or while the
// ranks exchange ("within"). The second argument is the configuration. Survivors print one line per
// completed step, "rank 0 step 4 hash 1234", and at the end "rank 0 error TERSE_...: ...".
// Run by kill_rank_test.
#include <mpi.h>
#include <signal.h>
#include <sys/time.h>
#include <terse/terse_mpi.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <terse/terse.hpp>
#include <vector>

namespace {

constexpr int kVictim = 2;
constexpr int kFatalStep = 8;
constexpr int kSteps = 400;
constexpr size_t kElements = 400000;

// FNV-1a over the bits.
uint64_t Hash(const std::vector<float>& values) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
  for (size_t i = 0; i < values.size() * sizeof(float); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

void Die(int /*signal*/) { (void)kill(getpid(), SIGKILL); }

void DieSoon() {
  (void)signal(SIGALRM, Die);
  const itimerval soon = {{0, 0}, {0, 1500}};
  (void)setitimer(ITIMER_REAL, &soon, nullptr);
}

void Train(terse::Group& group, bool within) {
  const int rank = group.rank();
  const terse::TensorId tensor = group.Register("weight", {static_cast<int64_t>(kElements)});
  std::vector<float> w(kElements);
  std::vector<float> gradient(kElements);
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < kElements; ++i) {
      gradient[i] = w[i] - static_cast<float>((i * 31 + static_cast<size_t>(rank + step)) % 17);
    }
    if (rank == kVictim && step == kFatalStep) {
      if (within) {
        DieSoon();
      } else {
        Die(SIGALRM);
      }
    }
    group.Allreduce(tensor, gradient.data(), gradient.data());
    for (size_t i = 0; i < kElements; ++i) w[i] -= 0.1f * gradient[i];
    group.Step();
    std::printf("rank %d step %d hash %llu\n", rank, step, static_cast<unsigned long long>(Hash(w)));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  MPI_Init(&argc, &argv);
  // A lost peer is an error to be returned, not the end of this process.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = -1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  try {
    terse_group_t* handle = nullptr;
    terse::Check(terse_group_open_mpi(MPI_COMM_WORLD, argv[2], &handle));
    terse::Group group(handle);
    Train(group, std::string(argv[1]) == "within");
    std::printf("rank %d finished\n", rank);
  } catch (const terse::Error& error) {
    std::printf("rank %d error %s\n", rank, error.what());
  }
  std::fflush(stdout);
  // MPI_Finalize would wait for the dead.
  _exit(0);
}
