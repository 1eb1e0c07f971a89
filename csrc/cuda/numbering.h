// Numbers of distinct rows in the order of their first appearance: de-duplication of what a block
// reads, with the same outcome as reading it one by one.
#pragma once

#include "cuda/row_map.h"

namespace hashdl::cuda {

/// Rows a block of Threads reads, a tile of Threads rows after the other. All members are called by
/// all threads.
template <int Threads>
class Numbering {
 public:
  /// Slots of a map for at most `limit` numbers in `stages` stages (see set_limit): the tile in
  /// which the numbers of a stage give out leaves rows behind that have none.
  static int64_t slots(int64_t limit, int64_t stages = 1) {
    return map_slots(limit + stages * Threads);
  }

  __device__ explicit Numbering(const RowMap& map) : map_(map) {}

  /// Forgets all rows; numbers go up to `limit`.
  __device__ void start(int32_t limit) {
    __syncthreads();
    map_.clear();
    count_ = 0;
    limit_ = limit;
    __syncthreads();
  }

  /// Lets numbers go on: rows that had none may get one now.
  __device__ void set_limit(int32_t limit) { limit_ = limit; }

  /// The number of this thread's `row`, kNoNumber for -1 and where numbers have given out.
  __device__ uint32_t add(int32_t row) {
    const bool more = count_ < limit_;
    int64_t slot = -1;
    if (row >= 0) slot = more ? map_.insert(row) : map_.find(row);
    if (more) number_new(slot);
    return slot < 0 ? kNoNumber : map_.number(slot);
  }

  __device__ int32_t count() const { return count_; }
  __device__ RowMap& map() { return map_; }

 private:
  static constexpr uint32_t kPending = 0x80000000u;  ///< above every number

  /// Of the threads with the same new row the first one stands for it.
  __device__ void number_new(int64_t slot) {
    __syncthreads();  // others may still read numbers of the tile before
    if (slot >= 0) atomicMin(&map_.number(slot), kPending + threadIdx.x);
    __syncthreads();
    const bool first = slot >= 0 && map_.number(slot) == kPending + threadIdx.x;
    const Scanned scanned = block_scan<Threads>(first);
    const int32_t number = count_ + scanned.before;
    if (first) map_.number(slot) = number < limit_ ? static_cast<uint32_t>(number) : kNoNumber;
    count_ = count_ + scanned.total < limit_ ? count_ + scanned.total : limit_;
    __syncthreads();
  }

  RowMap map_;
  int32_t count_ = 0, limit_ = 0;
};

}  // namespace hashdl::cuda
