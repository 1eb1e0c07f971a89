// The order in which a table's buckets are probed: query-directed multiprobe (Lv et al., VLDB 2007,
// section 4.3).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>

#include "cpu/host_device.h"

namespace hashdl::cpu {

/// The codes that one table is probed at, cheapest flips first.
class ProbeSequence {
 public:
  /// Bytes of memory, on a boundary of 4, that a sequence works in.
  HASHDL_HOST_DEVICE static int64_t bytes(int64_t K, int64_t P) {
    return (free_bits(K, P) + 1) * static_cast<int64_t>(sizeof(Bit)) +
           (P + 2) * static_cast<int64_t>(sizeof(Flip));
  }

  HASHDL_HOST_DEVICE ProbeSequence(int64_t K, int64_t P, void* memory)
      : K_(K),
        P_(P),
        free_(free_bits(K, P)),
        bits_(static_cast<Bit*>(memory)),
        heap_(reinterpret_cast<Flip*>(bits_ + free_ + 1)) {}

  /// Writes P codes.
  HASHDL_HOST_DEVICE void fill(const float* projections, int32_t code, int32_t* out) {
    out[0] = code;
    if (P_ == 1) return;
    sort_bits(projections);
    count_ = 0;
    push({0, bits_[0].square, 1});
    for (int64_t p = 1; p < P_; ++p) {
      std::pop_heap(heap_, heap_ + count_, std::greater<>());
      const Flip flip = heap_[--count_];
      out[p] = code ^ flipped_bits(flip.mask);
      push_successors(flip);
    }
  }

 private:
  /// The P cheapest sets lie within so many bits, since each bit alone is a set.
  HASHDL_HOST_DEVICE static int64_t free_bits(int64_t K, int64_t P) { return std::min(K, P - 1); }

  /// Rounded before it goes into a sum, on every device.
  HASHDL_HOST_DEVICE static float square(float x) {
#if defined(__CUDA_ARCH__)
    return __fmul_rn(x, x);
#else
    return x * x;
#endif
  }

  /// A set of bits to flip, as a mask over the bits sorted by |projection|, and its cost: the sum
  /// of the squared projections, added in ascending order, so that equal sets have equal costs to
  /// the bit. Ordered by cost, then mask.
  struct Flip {
    float below;  ///< the sum without the highest bit
    float cost;
    uint32_t mask;
    HASHDL_HOST_DEVICE constexpr bool operator>(const Flip& other) const {
      return cost != other.cost ? cost > other.cost : mask > other.mask;
    }
  };

  struct Bit {
    float magnitude, square;
    int32_t flip;  ///< the bit in the code
  };

  /// The bits that may be flipped, ascending by |projection|, ties by bit: insertion, for there are
  /// few.
  HASHDL_HOST_DEVICE void sort_bits(const float* projections) {
    for (int64_t k = 0; k < K_; ++k) {
      const float p = projections[k];
      const Bit bit{p < 0 ? -p : p, square(p), 1 << k};
      int64_t at = std::min(k, free_);
      if (at == free_ && at > 0 && bits_[at - 1].magnitude <= bit.magnitude) continue;
      for (; at > 0 && bits_[at - 1].magnitude > bit.magnitude; --at) bits_[at] = bits_[at - 1];
      bits_[at] = bit;
    }
  }

  HASHDL_HOST_DEVICE int32_t flipped_bits(uint32_t mask) const {
    int32_t bits = 0;
    for (; mask != 0; mask &= mask - 1) bits |= bits_[std::countr_zero(mask)].flip;
    return bits;
  }

  /// "Shift" moves the highest bit one up, "expand" adds the bit above it: every set of bits is
  /// reached once, from a cheaper one.
  HASHDL_HOST_DEVICE void push_successors(const Flip& flip) {
    const int next = std::bit_width(flip.mask);
    if (next >= free_) return;
    const uint32_t bit = uint32_t{1} << next;
    const float square = bits_[next].square;
    push({flip.below, flip.below + square, (flip.mask ^ (bit >> 1)) | bit});
    push({flip.cost, flip.cost + square, flip.mask | bit});
  }

  HASHDL_HOST_DEVICE void push(const Flip& flip) {
    heap_[count_++] = flip;
    std::push_heap(heap_, heap_ + count_, std::greater<>());
  }

  int64_t K_, P_, free_;
  Bit* bits_;   ///< the free ones, and room for one more
  Flip* heap_;  ///< P + 2 at most
  int64_t count_ = 0;
};

}  // namespace hashdl::cpu
