// The order in which a table's buckets are probed: query-directed multiprobe (Lv et al., VLDB 2007,
// section 4.3).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace hashdl::cpu {

/// The codes that one table is probed at, cheapest flips first.
class ProbeSequence {
 public:
  ProbeSequence(int64_t K, int64_t P) : K_(K), P_(P), free_(std::min(K, P - 1)), bits_(free_ + 1) {
    heap_.reserve(P + 2);
  }

  /// Writes P codes to out[0], out[stride], ...
  void fill(const float* projections, int32_t code, int32_t* out, int64_t stride) {
    out[0] = code;
    if (P_ == 1) return;
    sort_bits(projections);
    heap_.assign(1, {0, bits_[0].square, 1});
    for (int64_t p = 1; p < P_; ++p) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Flip flip = heap_.back();
      heap_.pop_back();
      out[p * stride] = code ^ flipped_bits(flip.mask);
      push_successors(flip);
    }
  }

 private:
  /// A set of bits to flip, as a mask over the bits sorted by |projection|, and its cost: the sum
  /// of the squared projections, added in ascending order, so that equal sets have equal costs to
  /// the bit. Ordered by cost, then mask.
  struct Flip {
    float below;  ///< the sum without the highest bit
    float cost;
    uint32_t mask;
    bool operator>(const Flip& other) const {
      return cost != other.cost ? cost > other.cost : mask > other.mask;
    }
  };

  struct Bit {
    float magnitude, square;
    int32_t flip;  ///< the bit in the code
  };

  /// The bits that may be flipped, ascending by |projection|, ties by bit: insertion, for there are
  /// few.
  void sort_bits(const float* projections) {
    for (int64_t k = 0; k < K_; ++k) {
      const Bit bit{std::fabs(projections[k]), projections[k] * projections[k], 1 << k};
      int64_t at = std::min(k, free_);
      if (at == free_ && at > 0 && bits_[at - 1].magnitude <= bit.magnitude) continue;
      for (; at > 0 && bits_[at - 1].magnitude > bit.magnitude; --at) bits_[at] = bits_[at - 1];
      bits_[at] = bit;
    }
  }

  int32_t flipped_bits(uint32_t mask) const {
    int32_t bits = 0;
    for (; mask != 0; mask &= mask - 1) bits |= bits_[std::countr_zero(mask)].flip;
    return bits;
  }

  /// "Shift" moves the highest bit one up, "expand" adds the bit above it: every set of bits is
  /// reached once, from a cheaper one.
  void push_successors(const Flip& flip) {
    const int next = std::bit_width(flip.mask);
    if (next >= free_) return;
    const uint32_t bit = uint32_t{1} << next;
    const float square = bits_[next].square;
    push({flip.below, flip.below + square, (flip.mask ^ (bit >> 1)) | bit});
    push({flip.cost, flip.cost + square, flip.mask | bit});
  }

  void push(const Flip& flip) {
    heap_.push_back(flip);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  int64_t K_, P_;
  int64_t free_;  ///< the P cheapest sets lie within so many bits, since each bit alone is a set
  std::vector<Bit> bits_;  ///< these, and room for one more
  std::vector<Flip> heap_;
};

}  // namespace hashdl::cpu
