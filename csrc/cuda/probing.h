// Which buckets a query probes, and which centroid a row is nearest to.
#pragma once

#include "cuda/scratch.h"

namespace hashdl::cuda {

struct Probe {
  const float* projections;  ///< (B, L * K), of digits (B, L * all_slots(K))
  int32_t* buckets;          ///< (B, L, P), written: see cpu/probe_sequence.h
  int64_t B, L, K, P;        ///< P at most 2^K
};
void probe_signs(const Probe& args, Scratch& scratch, Stream stream);
void probe_digits(const Probe& args, Scratch& scratch, Stream stream);

struct BestColumns {
  const float* scores;   ///< (groups, W)
  int32_t* columns;      ///< (groups, P), written: best first, ties to the lower column
  int64_t groups, W, P;  ///< P at most W
};
void best_columns(const BestColumns& args, Stream stream);

}  // namespace hashdl::cuda
