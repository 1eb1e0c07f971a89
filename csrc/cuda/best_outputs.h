// The largest outputs of each sample, in order; the arguments are those of the CPU kernel.
#pragma once

#include "cpu/best_outputs.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// B samples, a block each.
template <typename T>
void best_outputs(const cpu::BestOutputs<T>& args, int64_t B, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
