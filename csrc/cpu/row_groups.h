// Grouping of (sample, row) pairs by row: what lets the backward pass and the optimizer read and
// write each row once, with no two threads on the same row.
#pragma once

#include <cstdint>
#include <vector>

namespace hashdl::cpu {

struct RowGroups {
  std::vector<int32_t> row;    ///< (U) distinct rows, ascending
  std::vector<int64_t> start;  ///< (U + 1) where each row's pairs begin in `pair`
  std::vector<uint32_t> pair;  ///< pair numbers grouped by row, ascending within a row
};

/// Groups the pairs 0..P-1 with rows `rows` (P), -1 = padding (left out), and the pairs
/// P..P+E-1 with rows `extra` (E), likewise. Stable: within a row, pairs keep their order.
/// P + E must be below 2^32.
RowGroups group_by_row(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E, int64_t N);

}  // namespace hashdl::cpu
