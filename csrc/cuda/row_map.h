// Row ids and their numbers by open addressing, in shared or in global memory, filled by many
// threads at once. Where a row stands depends on who came first; what is asked of it does not.
#pragma once

#include "cuda/device.h"
#include "cuda/launch.h"

namespace hashdl::cuda {

constexpr uint32_t kNoNumber = 0xffffffffu;

/// Slots of a map with room for `capacity` rows: a power of two, at most two thirds full.
inline int64_t map_slots(int64_t capacity) {
  int64_t slots = kWarp;
  while (2 * slots < 3 * capacity) slots *= 2;
  return slots;
}

/// Words of 32 bits that so many slots take.
__host__ __device__ inline int64_t map_words(int64_t slots) { return 2 * slots; }

class RowMap {
 public:
  RowMap() = default;

  /// Over `words` of map_words(slots).
  __device__ RowMap(int32_t* words, int64_t slots)
      : rows_(words),
        numbers_(reinterpret_cast<uint32_t*>(words + slots)),
        mask_(static_cast<uint32_t>(slots - 1)) {}

  /// By all threads of the block; a barrier is due before the map is used.
  __device__ void clear() {
    for (uint32_t i = threadIdx.x; i <= mask_; i += blockDim.x) {
      rows_[i] = -1;
      numbers_[i] = kNoNumber;
    }
  }

  /// The slot of `row`, or -1.
  __device__ int64_t find(int32_t row) const {
    for (uint32_t i = first(row);; i = (i + 1) & mask_) {
      if (rows_[i] == row) return i;
      if (rows_[i] == -1) return -1;
    }
  }

  /// The slot of `row`, given one where it has had none.
  __device__ int64_t insert(int32_t row) {
    for (uint32_t i = first(row);; i = (i + 1) & mask_) {
      const int32_t there = atomicCAS(&rows_[i], -1, row);
      if (there == -1 || there == row) return i;
    }
  }

  __device__ bool contains(int32_t row) const { return find(row) >= 0; }
  __device__ uint32_t& number(int64_t slot) { return numbers_[slot]; }
  __device__ int32_t row(int64_t slot) const { return rows_[slot]; }
  __device__ int64_t slots() const { return static_cast<int64_t>(mask_) + 1; }

 private:
  __device__ uint32_t first(int32_t row) const {
    return (static_cast<uint32_t>(row) * 2654435769u >> 7) & mask_;
  }

  int32_t* rows_ = nullptr;
  uint32_t* numbers_ = nullptr;
  uint32_t mask_ = 0;
};

/// Memory of one block's maps: dynamic shared memory, or where that is too little global memory,
/// for which fewer blocks then take several samples each.
struct BlockMemory {
  /// Blocks that take turns where memory is global.
  static constexpr int64_t kMostBlocks = 512;

  int32_t* global;  ///< `words` a block, or null: shared
  int64_t words;

  /// For a kernel of at most `blocks` blocks.
  static BlockMemory make(int64_t words, int64_t blocks, Scratch& scratch) {
    BlockMemory memory{nullptr, words};
    if (!memory.fits()) memory.global = scratch.take<int32_t>(words * memory.blocks(blocks));
    return memory;
  }

  bool fits() const { return words * 4 <= kMostDynamic; }
  size_t shared_bytes() const { return fits() ? static_cast<size_t>(words * 4) : 0; }
  int64_t blocks(int64_t wanted) const {
    return fits() || wanted < kMostBlocks ? wanted : kMostBlocks;
  }

  __device__ int32_t* mine() const {
    return global == nullptr ? dynamic_shared<int32_t>() : global + blockIdx.x * words;
  }
};

}  // namespace hashdl::cuda
