// Codes of rows and queries, and the tables over the rows.
// M vectors, N rows, L tables, K bits a table: a code is K sign bits of the projections.
#pragma once

#include <cstdint>

namespace hashdl::cpu {

/// codes[m, l] = sum over k of [projections[m, l*K + k] > 0] << k, for m in [begin, end).
/// Returns false when a projection in the range is NaN or infinite.
bool pack_signs(const float* projections, int64_t begin, int64_t end, int64_t L, int64_t K,
                int32_t* codes);

/// Table `l` by counting sort, for l in [begin, end): bucket c of it holds, in ascending order,
/// rows[l, offsets[l, c] .. offsets[l, c + 1]) . offsets (L, 2^K + 1), rows (L, N).
/// Returns false when a code in the range lies outside [0, 2^K).
bool build_tables(const int32_t* codes, int64_t begin, int64_t end, int64_t N, int64_t L, int64_t K,
                  int32_t* offsets, int32_t* rows);

}  // namespace hashdl::cpu
