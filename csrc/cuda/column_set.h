// A set of columns that a block fills at once, and each member's place among them.
#pragma once

#include "cuda/device.h"

namespace hashdl::cuda {

/// A bit a column, and how many members there are before each word of these. All members but
/// `rank` are called by all of the block's Threads.
template <int Threads>
class ColumnSet {
 public:
  static constexpr int kBits = 32;

  /// Words of 32 bits that a set of d columns takes.
  __host__ __device__ static int64_t memory(int64_t d) { return 2 * ((d + kBits - 1) / kBits); }

  /// Over memory(d) words.
  __device__ ColumnSet(int32_t* memory, int64_t d)
      : words_((d + kBits - 1) / kBits),
        bits_(reinterpret_cast<uint32_t*>(memory)),
        before_(bits_ + words_) {}

  /// What fill(add) adds by add(column), any number of times, is all there is in the set. Returns
  /// the number of members.
  template <typename Fill>
  __device__ int32_t assign(const Fill& fill) {
    for (int64_t w = threadIdx.x; w < words_; w += Threads) bits_[w] = 0;
    __syncthreads();
    fill([&](int32_t column) { atomicOr(&bits_[column / kBits], 1u << column % kBits); });
    __syncthreads();
    int32_t count = 0;
    for (int64_t first = 0; first < words_; first += Threads) {
      const int64_t w = first + threadIdx.x;
      const Scanned scanned = block_scan<Threads>(w < words_ ? __popc(bits_[w]) : 0);
      if (w < words_) before_[w] = static_cast<uint32_t>(count + scanned.before);
      count += scanned.total;
    }
    __syncthreads();
    return count;
  }

  /// Members below `column`.
  __device__ int32_t rank(int32_t column) const {
    const int32_t w = column / kBits;
    const uint32_t below = bits_[w] & ((1u << column % kBits) - 1);
    return static_cast<int32_t>(before_[w]) + __popc(below);
  }

  /// out[rank] = column of each member: ascending.
  __device__ void list(int32_t* out) const {
    for (int64_t w = threadIdx.x; w < words_; w += Threads) {
      int32_t* to = out + before_[w];
      for (uint32_t left = bits_[w]; left != 0; left &= left - 1) {
        *to++ = static_cast<int32_t>(w * kBits) + __ffs(static_cast<int>(left)) - 1;
      }
    }
  }

 private:
  int64_t words_;
  uint32_t* bits_;
  uint32_t* before_;
};

}  // namespace hashdl::cuda
