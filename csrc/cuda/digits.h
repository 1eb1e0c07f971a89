// Codes of digits, and slots filled from sparse vectors.
#pragma once

#include "cuda/scratch.h"

namespace hashdl::cuda {

struct PackDigits {
  const float* projections;  ///< (codes, all_slots(K))
  int32_t* out;              ///< (codes), written
  int64_t codes, K;
};
void pack_digits(const PackDigits& args, Stream stream);

struct Densify {
  const float* vectors;      ///< (M, D)
  const int32_t* begins;     ///< (C): 1 where a digit begins, else 0
  const int32_t* functions;  ///< (T, C): coordinates of the slots, a row an attempt
  float* values;             ///< (M, C), written
  int64_t M, D, T, C;
};
void densify(const Densify& args, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
