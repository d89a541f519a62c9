# SPDX-License-Identifier: Apache-2.0
#
# cmake -DNM=nm -DPLUGIN=file -P: the plug-in exports its entry alone and calls MPI by PMPI names only,
# so that neither collides with the job nor passes through a preloaded MPI wrapper.
execute_process(COMMAND ${NM} -D --defined-only ${PLUGIN} OUTPUT_VARIABLE defined COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^ \n]+\n" exported "${defined}")
list(TRANSFORM exported STRIP)
if(NOT exported STREQUAL "terse_transport_plugin")
  message(FATAL_ERROR "${PLUGIN} exports: ${exported}")
endif()
execute_process(COMMAND ${NM} -D --undefined-only ${PLUGIN} OUTPUT_VARIABLE undefined COMMAND_ERROR_IS_FATAL ANY)
if(NOT undefined MATCHES " PMPI_Isend")
  message(FATAL_ERROR "${PLUGIN} calls no PMPI function: has nm's output changed?\n${undefined}")
endif()
string(REGEX MATCHALL " MPI_[A-Z][a-z][A-Za-z_]*" called "${undefined}")
if(called)
  message(FATAL_ERROR "${PLUGIN} calls${called}; PMPI names only")
endif()
