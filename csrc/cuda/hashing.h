// Codes of rows and queries, and the tables over the rows.
// M vectors, N rows, L tables, K bits a table.
#pragma once

#include "cpu/hashing.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

struct PackSigns {
  const float* projections;  ///< (M, L * K)
  int32_t* codes;            ///< (M, L), written
  int64_t M, L, K;
};
void pack_signs(const PackSigns& args, Stream stream);

struct BuildTables {
  const int32_t* codes;  ///< (L, N), in [0, 2^K)
  int32_t* offsets;      ///< (L, 2^K + 1), written
  int32_t* rows;         ///< (L, N), written: by code, then ascending
  int64_t L, N, K;
};
void build_tables(const BuildTables& args, Scratch& scratch, Stream stream);

/// Of one table, whose limited rows are `width`: -1 behind the last bucket.
void limit_buckets(const cpu::LimitBuckets& args, int64_t width, Scratch& scratch, Stream stream);

struct MarkRows {
  uint8_t* dirty;       ///< (N), written
  const int32_t* rows;  ///< (Q), -1 = none
  int64_t Q, N;
  uint8_t bits;
};
void mark_rows(const MarkRows& args, Stream stream);

}  // namespace hashdl::cuda
