// Row ids seen so far, by open addressing: sized by what is held and not by N, so that it stays in
// cache however many rows the layer has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hashdl::cpu {

/// Row ids with a value each. Cleared by a new epoch.
class RowMap {
 public:
  /// Room for `capacity` rows.
  explicit RowMap(int64_t capacity) {
    int64_t size = 16;
    while (size < 2 * capacity) size *= 2;
    slots_.assign(size, Slot{0, 0, 0});
    mask_ = size - 1;
  }

  void clear() { ++epoch_; }

  bool contains(int32_t row) const { return slots_[place(row)].epoch == epoch_; }

  /// The value kept with `row`; where it is not there, -1 after adding it with `value`, if `room`
  /// allows.
  int32_t find_or_insert(int32_t row, int32_t value, bool room = true) {
    Slot& slot = slots_[place(row)];
    if (slot.epoch == epoch_) return slot.value;
    if (room) slot = {row, value, epoch_};
    return -1;
  }

  int64_t size() const { return mask_ + 1; }

 private:
  struct Slot {
    int32_t row;
    int32_t value;
    uint32_t epoch;
  };

  /// Where `row` stands, or the free place where it would go.
  int64_t place(int32_t row) const {
    int64_t i = (static_cast<uint32_t>(row) * 2654435769u >> 7) & mask_;
    while (slots_[i].epoch == epoch_ && slots_[i].row != row) i = (i + 1) & mask_;
    return i;
  }

  std::vector<Slot> slots_;
  int64_t mask_;
  uint32_t epoch_ = 1;
};

/// Row ids, quick where the answer is mostly no.
class RowSet {
 public:
  /// Room for `capacity` rows.
  explicit RowSet(int64_t capacity) : map_(capacity), filter_(map_.size() / 2, 0) {}

  void clear() {
    map_.clear();
    std::fill(filter_.begin(), filter_.end(), 0);
  }

  bool contains(int32_t row) const {
    return (filter_[word(row)] & bit(row)) != 0 && map_.contains(row);
  }

  /// False when the row was there already.
  bool insert(int32_t row) {
    filter_[word(row)] |= bit(row);
    return map_.find_or_insert(row, 0) < 0;
  }

 private:
  // A bit for each of 32 times the slots, set for the rows that are there: few others fall on a set
  // bit, so that a branch on it is foreseen.
  int64_t word(int32_t row) const { return row >> 6 & (filter_.size() - 1); }
  static uint64_t bit(int32_t row) { return uint64_t{1} << (row & 63); }

  RowMap map_;
  std::vector<uint64_t> filter_;
};

}  // namespace hashdl::cpu
