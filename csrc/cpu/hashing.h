// Codes of rows and queries, and the tables over the rows.
// M vectors, N rows, L tables, K bits a table: a code is K sign bits of the projections.
#pragma once

#include <cstdint>

#include "cpu/host_device.h"
#include "cpu/random.h"

namespace hashdl::cpu {

/// codes[m, l] = sum over k of [projections[m, l*K + k] > 0] << k, for m in [begin, end).
/// Returns false when a projection in the range is NaN or infinite.
bool pack_signs(const float* projections, int64_t begin, int64_t end, int64_t L, int64_t K,
                int32_t* codes);

// A table: bucket c holds, in ascending order, rows[offsets[c] .. offsets[c + 1]). Sorted twice by
// counting, by the high bits of the codes and then by the low ones, so that every store goes to one
// of few places that are in cache. The N rows are cut into P parts, each counted and spread by
// itself: where a row comes to stand follows from the codes alone, however many parts there are.

/// A row and its code.
struct Coded {
  int32_t code, row;
};

/// High bits that a table of K bits is first sorted by: there are 2^H shelves.
int64_t high_bits(int64_t K);

/// counts[h] = how many of the rows in [begin, end) have the high bits h.
/// Returns false when a code in the range lies outside [0, 2^K).
bool count_codes(const int32_t* codes, int64_t begin, int64_t end, int64_t K, int32_t* counts);

/// shelves (2^H + 1): where each begins, and their end; `counts` (P, 2^H) become the place of each
/// part's first row on each shelf.
void place_shelves(int32_t* counts, int64_t P, int64_t K, int32_t* shelves);

/// The rows in [begin, end) to their shelves; `places` (2^H) are those of their part.
void fill_shelves(const int32_t* codes, int64_t begin, int64_t end, int64_t K, int32_t* places,
                  Coded* sorted);

/// The rows of the shelves in [begin, end) to their buckets, and the offsets of these buckets.
void fill_buckets(const Coded* sorted, const int32_t* shelves, int64_t begin, int64_t end,
                  int64_t K, int32_t* offsets, int32_t* rows);

/// A table of N rows, and one made of it whose buckets keep at most `capacity` rows.
struct LimitBuckets {
  const int32_t* offsets;    ///< (buckets + 1)
  const int32_t* rows;       ///< (N)
  int32_t* limited_offsets;  ///< (buckets + 1), written
  int32_t* limited_rows;     ///< written up to the last bucket's end
  int64_t buckets, N, capacity;
  bool reservoir;  ///< a uniform sample of a bucket's rows; else the last of them
  int64_t seed, table;
};

/// The offsets of all buckets. Returns false when a bucket ends before it starts, or outside rows.
bool limit_offsets(const LimitBuckets& args);

/// The rows of bucket c. Of a full bucket's reservoir, the i-th row (from 1) beyond the capacity
/// takes the slot of draw i below i, if there is such a slot: so each of the i rows so far is there
/// with the same probability (Vitter, ACM TOMS 1985, algorithm R).
HASHDL_HOST_DEVICE inline void limit_bucket(const LimitBuckets& args, int64_t c) {
  const int32_t* rows = args.rows + args.offsets[c];
  const int64_t size = args.offsets[c + 1] - args.offsets[c];
  const int64_t kept = size < args.capacity ? size : args.capacity;
  int32_t* slots = args.limited_rows + args.limited_offsets[c];
  const int32_t* first = args.reservoir ? rows : rows + size - kept;
  for (int64_t i = 0; i < kept; ++i) slots[i] = first[i];
  if (!args.reservoir) return;
  const uint64_t key = stream_key(args.seed, args.table, kReservoirStream + c);
  for (int64_t i = kept + 1; i <= size; ++i) {
    const int64_t slot = draw_below(key, i, i);
    if (slot < kept) slots[slot] = rows[i - 1];
  }
}

/// The rows of the buckets in [begin, end).
void limit_rows(const LimitBuckets& args, int64_t begin, int64_t end);

}  // namespace hashdl::cpu
