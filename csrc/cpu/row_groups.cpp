#include "cpu/row_groups.h"

#include <utility>

namespace hashdl::cpu {
namespace {

constexpr int kDigitBits = 11;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;

// Row in the upper half, pair number in the lower: one word to move, and a stable order for free.
using Key = uint64_t;

void append_keys(const int32_t* rows, int64_t count, int64_t first_pair, std::vector<Key>& keys) {
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i] >= 0) {
      keys.push_back(static_cast<Key>(rows[i]) << 32 | static_cast<Key>(first_pair + i));
    }
  }
}

/// One stable counting sort by the digit of the row that starts at `shift`.
void sort_by_digit(const std::vector<Key>& from, std::vector<Key>& to, int shift) {
  std::vector<int64_t> place(kDigits + 1, 0);
  for (Key key : from) ++place[((key >> shift) & (kDigits - 1)) + 1];
  for (int64_t digit = 0; digit < kDigits; ++digit) place[digit + 1] += place[digit];
  for (Key key : from) to[place[(key >> shift) & (kDigits - 1)]++] = key;
}

void sort_by_row(std::vector<Key>& keys, int64_t N) {
  std::vector<Key> other(keys.size());
  for (int shift = 32; shift < 64 && ((N - 1) >> (shift - 32)) > 0; shift += kDigitBits) {
    sort_by_digit(keys, other, shift);
    std::swap(keys, other);
  }
}

}  // namespace

RowGroups group_by_row(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E, int64_t N) {
  std::vector<Key> keys;
  keys.reserve(P + E);
  append_keys(rows, P, 0, keys);
  append_keys(extra, E, P, keys);
  sort_by_row(keys, N);

  RowGroups groups;
  groups.pair.reserve(keys.size());
  for (Key key : keys) {
    const int32_t row = static_cast<int32_t>(key >> 32);
    if (groups.row.empty() || groups.row.back() != row) {
      groups.row.push_back(row);
      groups.start.push_back(static_cast<int64_t>(groups.pair.size()));
    }
    groups.pair.push_back(static_cast<uint32_t>(key));
  }
  groups.start.push_back(static_cast<int64_t>(keys.size()));
  return groups;
}

}  // namespace hashdl::cpu
