// Look-up of queries in the tables; the arguments are those of the CPU kernel, but for the step.
#pragma once

#include "cpu/lookup.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

/// B samples, a block each.
void lookup(const cpu::Lookup& args, int64_t B, const Step& step, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
