#include "cpu/row_groups.h"

#include <algorithm>
#include <bit>

namespace hashdl::cpu {
namespace {

constexpr int kMostDigitBits = 8;
constexpr int64_t kMostDigits = int64_t{1} << kMostDigitBits;

/// Bits of a digit by which so many keys of so many bits are sorted soonest: a sort by one digit
/// looks at each of its values once, and at each key twice.
int digit_bits(int key_bits, int64_t count) {
  int best = kMostDigitBits;
  int64_t least = INT64_MAX;
  for (int bits = 1; bits <= kMostDigitBits; ++bits) {
    const int64_t work = (key_bits + bits - 1) / bits * ((int64_t{1} << bits) + 2 * count);
    if (work < least) {
      least = work;
      best = bits;
    }
  }
  return best;
}

}  // namespace

RowGrouper::RowGrouper(const int32_t* rows, int64_t P, const int32_t* extra, int64_t E, int64_t N)
    : rows_(rows), extra_(extra), P_(P), E_(E) {
  constexpr int kRangeBits = std::bit_width(static_cast<uint64_t>(kRanges - 1));
  const int row_bits = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(N - 1, 0)));
  range_bits_ = std::max(0, row_bits - kRangeBits);
}

/// body(row, pair) for the pairs of one part that are no padding.
template <typename Body>
void RowGrouper::for_pairs(int64_t part, const Body& body) const {
  const int64_t total = P_ + E_;
  const int64_t begin = total * part / kParts, end = total * (part + 1) / kParts;
  for (int64_t i = begin; i < std::min(end, P_); ++i) {
    if (rows_[i] >= 0) body(rows_[i], i);
  }
  for (int64_t i = std::max(begin, P_); i < end; ++i) {
    if (extra_[i - P_] >= 0) body(extra_[i - P_], i);
  }
}

void RowGrouper::count(int64_t part) {
  for_pairs(part, [&](int32_t row, int64_t) { ++place_[part][row >> range_bits_]; });
}

void RowGrouper::finish_count() {
  int64_t place = 0;
  for (int64_t range = 0; range < kRanges; ++range) {
    range_start_[range] = place;
    for (int64_t part = 0; part < kParts; ++part) {
      const int64_t count = place_[part][range];
      place_[part][range] = place;
      place += count;
    }
  }
  range_start_[kRanges] = place;
  digit_bits_ = digit_bits(range_bits_, place / kRanges);
  keys_.resize(place);
  groups.pair.resize(place);
  for (int64_t part = 0; part < kParts; ++part) {
    const auto first =
        std::lower_bound(range_start_.begin(), range_start_.end() - 1, place * part / kParts);
    first_range_[part] = part == 0 ? 0 : first - range_start_.begin();
  }
  first_range_[kParts] = kRanges;
}

void RowGrouper::scatter(int64_t part) {
  for_pairs(part, [&](int32_t row, int64_t pair) {
    const Key key = static_cast<Key>(row) << 32 | static_cast<Key>(pair);
    keys_[place_[part][row >> range_bits_]++] = key;
  });
}

void RowGrouper::sort(int64_t part) {
  std::vector<Key> other;
  for (int64_t range = first_range_[part]; range < first_range_[part + 1]; ++range) {
    sort_range(range, other);
    int64_t groups_here = 0;
    for (int64_t i = range_start_[range]; i < range_start_[range + 1]; ++i) {
      groups_here += begins_group(i, range_start_[range]);
    }
    group_start_[range + 1] = groups_here;
  }
}

/// Stable counting sorts by the digits of the row within its range, lowest first.
void RowGrouper::sort_range(int64_t range, std::vector<Key>& other) {
  const int64_t count = range_start_[range + 1] - range_start_[range];
  Key* from = keys_.data() + range_start_[range];
  if (count < 2) return;
  other.resize(std::max<size_t>(other.size(), count));
  Key* to = other.data();
  const int bits = digit_bits_;
  const int64_t digits = int64_t{1} << bits;
  std::array<uint32_t, kMostDigits + 1> place;
  for (int shift = 0; shift < range_bits_; shift += bits) {
    const auto digit = [=](Key key) { return (key >> (32 + shift)) & (digits - 1); };
    std::fill(place.begin(), place.begin() + digits + 1, 0);
    for (int64_t i = 0; i < count; ++i) ++place[digit(from[i]) + 1];
    for (int64_t d = 0; d < digits; ++d) place[d + 1] += place[d];
    for (int64_t i = 0; i < count; ++i) to[place[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from == other.data()) std::copy(from, from + count, to);
}

void RowGrouper::finish_sort() {
  for (int64_t range = 0; range < kRanges; ++range) group_start_[range + 1] += group_start_[range];
  groups.row.resize(group_start_[kRanges]);
  groups.start.resize(group_start_[kRanges] + 1);
  groups.start.back() = range_start_[kRanges];
}

void RowGrouper::emit(int64_t part) {
  const int64_t begin = range_start_[first_range_[part]];
  const int64_t end = range_start_[first_range_[part + 1]];
  int64_t group = group_start_[first_range_[part]] - 1;
  for (int64_t i = begin; i < end; ++i) {
    if (begins_group(i, begin)) {
      groups.row[++group] = static_cast<int32_t>(keys_[i] >> 32);
      groups.start[group] = i;
    }
    groups.pair[i] = static_cast<uint32_t>(keys_[i]);
  }
}

}  // namespace hashdl::cpu
