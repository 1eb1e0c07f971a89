// A set of row ids with a slot number each: open addressing, sized by what it holds and not by N,
// so that it stays in cache however many rows the layer has. Cleared by a new epoch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hashdl::cpu {

class RowSet {
 public:
  /// Room for `capacity` rows.
  explicit RowSet(int64_t capacity) {
    int64_t size = 16;
    while (size < 2 * capacity) size *= 2;
    slots_.assign(size, Slot{0, 0, 0});
    mask_ = size - 1;
    filter_.assign(size / 2, 0);
  }

  void clear() {
    ++epoch_;
    std::fill(filter_.begin(), filter_.end(), 0);
  }

  /// The slot number kept with `row`, or -1.
  int32_t find(int32_t row) const {
    const Slot& slot = slots_[place(row)];
    return slot.epoch == epoch_ ? slot.value : -1;
  }

  /// Quick where the answer is mostly no.
  bool contains(int32_t row) const {
    return (filter_word(row) & filter_bit(row)) != 0 && slots_[place(row)].epoch == epoch_;
  }

  /// Adds `row` with `value`; false when it was there already (its value stays).
  bool insert(int32_t row, int32_t value = 0) {
    Slot& slot = slots_[place(row)];
    if (slot.epoch == epoch_) return false;
    slot = {row, value, epoch_};
    filter_[filter_place(row)] |= filter_bit(row);
    return true;
  }

 private:
  struct Slot {
    int32_t row;
    int32_t value;
    uint32_t epoch;
  };

  // The filter has a bit for each of 32 times the slots, set for the rows that are there: few
  // others fall on a set bit, so that a branch on it is foreseen.
  int64_t filter_place(int32_t row) const { return row >> 6 & (filter_.size() - 1); }
  static uint64_t filter_bit(int32_t row) { return uint64_t{1} << (row & 63); }
  uint64_t filter_word(int32_t row) const { return filter_[filter_place(row)]; }

  /// Where `row` stands, or the free place where it would go.
  int64_t place(int32_t row) const {
    int64_t i = (static_cast<uint32_t>(row) * 2654435769u >> 7) & mask_;
    while (slots_[i].epoch == epoch_ && slots_[i].row != row) i = (i + 1) & mask_;
    return i;
  }

  std::vector<Slot> slots_;
  std::vector<uint64_t> filter_;
  int64_t mask_;
  uint32_t epoch_ = 1;
};

}  // namespace hashdl::cpu
