// Row ids seen so far, by open addressing: sized by what is held and not by N, so that it stays in
// cache however many rows the layer has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hashdl::cpu {

/// Numbers 0, 1, ... of distinct row ids. Cleared by moving the range of stamps that count.
class RowMap {
 public:
  /// Room for `capacity` rows.
  explicit RowMap(int64_t capacity) : capacity_(static_cast<uint32_t>(capacity)) {
    int64_t size = 16;
    while (size < 4 * capacity) size *= 2;
    slots_.assign(size, Slot{0, 0});
    mask_ = size - 1;
  }

  void clear() {
    base_ += capacity_;
    if (base_ + capacity_ < base_) {  // the stamps ran out
      std::fill(slots_.begin(), slots_.end(), Slot{0, 0});
      base_ = capacity_;
    }
  }

  /// The number of `row`, or -1.
  int32_t find(int32_t row) const {
    const uint32_t number = slots_[place(row)].stamp - base_;
    return number < capacity_ ? static_cast<int32_t>(number) : -1;
  }

  /// The number of `row`: `next`, below the capacity, where it has had none. Without a branch on
  /// which of the two it is.
  int32_t number(int32_t row, int32_t next) {
    Slot& slot = slots_[place(row)];
    const uint32_t known = slot.stamp - base_;
    const uint32_t number = known < capacity_ ? known : static_cast<uint32_t>(next);
    slot = {row, base_ + number};
    return static_cast<int32_t>(number);
  }

  int64_t size() const { return mask_ + 1; }

 private:
  struct Slot {
    int32_t row;
    uint32_t stamp;  ///< base + number; older ones lie below base
  };

  /// Where `row` stands, or the free place where it would go.
  int64_t place(int32_t row) const {
    int64_t i = (static_cast<uint32_t>(row) * 2654435769u >> 7) & mask_;
    while (slots_[i].row != row && slots_[i].stamp - base_ < capacity_) i = (i + 1) & mask_;
    return i;
  }

  std::vector<Slot> slots_;
  int64_t mask_;
  uint32_t capacity_;
  uint32_t base_ = 1;
};

/// Row ids, quick where the answer is mostly no.
class RowSet {
 public:
  /// Room for `capacity` rows.
  explicit RowSet(int64_t capacity) : map_(capacity), filter_(map_.size() / 4, 0) {}

  void clear() {
    map_.clear();
    count_ = 0;
    std::fill(filter_.begin(), filter_.end(), 0);
  }

  bool contains(int32_t row) const {
    return (filter_[word(row)] & bit(row)) != 0 && map_.find(row) >= 0;
  }

  /// False when the row was there already.
  bool insert(int32_t row) {
    filter_[word(row)] |= bit(row);
    const bool added = map_.number(row, count_) == count_;
    count_ += added;
    return added;
  }

 private:
  // A bit for each of 16 times the slots, set for the rows that are there: few others fall on a set
  // bit, so that a branch on it is foreseen.
  int64_t word(int32_t row) const { return row >> 6 & (filter_.size() - 1); }
  static uint64_t bit(int32_t row) { return uint64_t{1} << (row & 63); }

  RowMap map_;
  int32_t count_ = 0;
  std::vector<uint64_t> filter_;
};

}  // namespace hashdl::cpu
