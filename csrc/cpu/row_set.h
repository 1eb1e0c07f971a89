// A set of row ids with a slot number each: open addressing, sized by what it holds and not by N,
// so that it stays in cache however many rows the layer has. Cleared in O(1) by a new epoch.
#pragma once

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
  }

  void clear() { ++epoch_; }

  /// The slot number kept with `row`, or -1.
  int32_t find(int32_t row) const {
    const Slot& slot = slots_[place(row)];
    return slot.epoch == epoch_ ? slot.value : -1;
  }

  bool contains(int32_t row) const { return slots_[place(row)].epoch == epoch_; }

  /// Adds `row` with `value`; false when it was there already (its value stays).
  bool insert(int32_t row, int32_t value = 0) {
    Slot& slot = slots_[place(row)];
    if (slot.epoch == epoch_) return false;
    slot = {row, value, epoch_};
    return true;
  }

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

}  // namespace hashdl::cpu
