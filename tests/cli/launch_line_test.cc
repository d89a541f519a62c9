// SPDX-License-Identifier: Apache-2.0
#include "runtime/cli/launch_line.h"

#include <gtest/gtest.h>

#include <sstream>
#include <string>

namespace terse::cli {
namespace {

Words Split(const std::string& text) {
  std::istringstream in(text);
  Words words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

TEST(LaunchLine, FindsTheProgram) {
  const Words train = {"./train", "-n", "8"};
  for (const char* launcher :
       {"mpirun", "mpirun -n 4", "mpirun -np 4 --oversubscribe",
        "mpirun --mca btl self,tcp -x A=B -x C --bind-to none -n 2",
        "/opt/mpi/bin/mpirun --prefix /opt/mpi --hostfile hosts", "mpiexec -genv A B -ppn 2 -hosts a,b",
        "mpirun -n=4", "mpirun -n 2 env OMP_NUM_THREADS=1 A=./b"}) {
    EXPECT_EQ(ProgramWords(Split(std::string(launcher) + " ./train -n 8"), true), train) << launcher;
  }
  EXPECT_EQ(ProgramWords(train, false), train);
  EXPECT_EQ(ProgramWords(Split("env A=1 ./train -n 8"), false), train);
}

TEST(LaunchLine, TellsWhenThereIsNone) {
  EXPECT_EQ(ProgramWords(Split("mpirun"), true), Words());
  EXPECT_EQ(ProgramWords(Split("mpirun -n"), true), Words());
  EXPECT_EQ(ProgramWords(Split("mpirun -n 4 --oversubscribe"), true), Words());
  EXPECT_EQ(ProgramWords(Split("mpirun --mca a"), true), Words());
  EXPECT_EQ(ProgramWords(Split("env"), false), Words());
}

}  // namespace
}  // namespace terse::cli
