// (sample, row) pairs grouped by row, so that each row's gradient is summed in a fixed order, and
// each row is read and written once, with no atomics.
#pragma once

#include "cuda/scratch.h"

namespace hashdl::cuda {

struct GroupRows {
  const int32_t* rows;   ///< (P), -1 = padding, left out
  const int32_t* extra;  ///< (E), likewise: pairs P..P+E-1; may be null when E = 0
  int32_t* touched;      ///< (G), written: see group_rows
  int64_t P, E, G;
  int64_t N;
};

/// The groups of some pairs, in scratch memory.
struct RowGroups {
  int64_t* start;  ///< (G + 1) where each row's pairs begin in `pair`
  uint32_t* pair;  ///< pair numbers grouped by row, ascending within a row
};

/// G is at least the number U of distinct rows, which the host does not learn: touched are the
/// distinct rows, ascending, then the last of them again and again, with no pairs. Where there are
/// no pairs at all that is row 0.
RowGroups group_rows(const GroupRows& args, Scratch& scratch, Stream stream);

}  // namespace hashdl::cuda
