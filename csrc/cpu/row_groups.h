// Grouping of (sample, row) pairs by row: what lets the backward pass and the optimizer read and
// write each row once, with no two threads on the same row.
#pragma once

#include <array>
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
///
/// A counting sort into ranges of rows, then a radix sort of each range, which fits into cache.
/// Work is cut into kParts whatever the number of threads; the parts of a stage may run at once,
/// and the stages follow each other: count, scatter, sort, emit.
class RowGrouper {
 public:
  static constexpr int64_t kParts = 16;

  RowGrouper(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E, int64_t N);

  void count(int64_t part);
  void scatter(int64_t part);
  void sort(int64_t part);
  void emit(int64_t part);

  void finish_count();  ///< between count and scatter
  void finish_sort();   ///< between sort and emit

  RowGroups groups;  ///< complete after emit

 private:
  // Row in the upper half, pair number in the lower: one word to move, and a stable order for free.
  using Key = uint64_t;
  static constexpr int64_t kRanges = 256;

  template <typename Body>
  void for_pairs(int64_t part, const Body& body) const;
  void sort_range(int64_t range, std::vector<Key>& other);
  /// Whether sorted key i is the first of its row; `first` is a key that is the first of its own.
  bool begins_group(int64_t i, int64_t first) const {
    return i == first || keys_[i] >> 32 != keys_[i - 1] >> 32;
  }

  const int32_t* rows_;
  const int32_t* extra_;
  int64_t P_, E_;
  int range_bits_;      ///< bits of a row within its range
  int digit_bits_ = 1;  ///< of which so many are sorted by at once
  std::vector<Key> keys_;
  std::array<std::array<int64_t, kRanges>, kParts> place_{};  ///< counts, then where keys go
  std::array<int64_t, kRanges + 1> range_start_{};            ///< of keys
  std::array<int64_t, kRanges + 1> group_start_{};            ///< of groups
  std::array<int64_t, kParts + 1> first_range_{};             ///< ranges of each part, alike full
};

}  // namespace hashdl::cpu
