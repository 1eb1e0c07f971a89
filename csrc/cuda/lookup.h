// Look-up of queries in the tables: a cap on the rows read from one bucket, de-duplication, and a
// count of the tables' hits.
#pragma once

#include "cuda/launch.h"
#include "cuda/step.h"

namespace hashdl::cuda {

struct Lookup {
  const int32_t* buckets;  ///< (B, L, P) to read, -1 = none
  const int32_t* offsets;  ///< (L, width)
  const int32_t* rows;     ///< (L, N)
  int32_t* candidates;     ///< (B, C), written: distinct rows in order of discovery, then -1
  int32_t* hits;           ///< (B, C), written: in how many of the buckets the row stood
  int64_t B, N, L, P, C;
  int64_t width;  ///< buckets a table and one
  int64_t cap;    ///< most rows read from one bucket; from a random place on, around the end
  int64_t seed;
  Step step;
};

/// Probe 0 of every table is read first, then probe 1, and so on.
void lookup(const Lookup& args, Scratch& scratch, cudaStream_t stream);

}  // namespace hashdl::cuda
