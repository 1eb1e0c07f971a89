// Look-up of queries in the tables: query-directed multiprobe (Lv et al., VLDB 2007), a cap on the
// rows read from one bucket, de-duplication, and a count of the tables' hits.
#pragma once

#include <cstdint>

namespace hashdl::cpu {

struct Lookup {
  const float* projections;  ///< (B, L * K) of the queries
  const int32_t* offsets;    ///< (L, 2^K + 1)
  const int32_t* rows;       ///< (L, N)
  int32_t* candidates;       ///< (B, C), written: distinct rows in order of discovery, then -1
  int32_t* hits;             ///< (B, C), written: in how many probed buckets the row stood
  int64_t N, L, K, P, C;     ///< P at most 2^K
  int64_t cap;         ///< most rows read from one bucket; from a random place on, around the end
  int64_t seed, step;  ///< key of the random places
};

/// What was found wrong on the way: a projection that is NaN or infinite, a bucket that does not
/// lie within its table (such a bucket is not read).
struct LookupChecks {
  bool finite, tables_ok;
};

/// The samples in [begin, end). Probe 0 of every table is read first, then probe 1, and so on:
/// when C candidates are found, what is dropped comes from the least likely buckets.
LookupChecks lookup(const Lookup& args, int64_t begin, int64_t end);

}  // namespace hashdl::cpu
