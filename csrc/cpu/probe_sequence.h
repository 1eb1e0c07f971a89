// The order in which a table's buckets are probed: query-directed multiprobe (Lv et al., VLDB 2007,
// section 4.3), for codes of sign bits and for codes of digits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "cpu/bits.h"
#include "cpu/host_device.h"

namespace hashdl::cpu {

/// Rounded before it goes into a sum, on every device.
HASHDL_HOST_DEVICE inline float rounded_square(float x) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(x, x);
#else
  return x * x;
#endif
}

/// The cheapest changes of a code, best first. A code has places (bits, or digits), and a place
/// other values than its own, each at a cost. A change gives some places another value, the one of
/// rank 1, 2, ... by cost, and costs their sum.
template <int kRankBits>
class BestChanges {
 protected:
  static constexpr uint32_t kRankMask = (1u << kRankBits) - 1;

  struct Value {
    float cost;
    int32_t flip;  ///< what the code is XORed with
  };
  struct Place {
    float gap;  ///< order of the places: their lowest cost, or what it is the square of
    Value values[kRankMask];
    int32_t count;  ///< of the values
  };

  /// Bytes of memory, on a boundary of 4, that the changes of so many places are found in.
  HASHDL_HOST_DEVICE static int64_t bytes(int64_t places, int64_t P) {
    const int64_t heap = kRankBits > 1 ? 2 * P + 3 : P + 2;
    return (free_places(places, P) + 1) * static_cast<int64_t>(sizeof(Place)) +
           heap * static_cast<int64_t>(sizeof(Change));
  }

  HASHDL_HOST_DEVICE BestChanges(int64_t places, int64_t P, void* memory)
      : P_(P),
        free_(free_places(places, P)),
        places_(static_cast<Place*>(memory)),
        heap_(reinterpret_cast<Change*>(places_ + free_ + 1)) {}

  HASHDL_HOST_DEVICE void clear() { count_ = 0; }

  /// Keeps those that may be changed, ascending by gap, ties by order of coming: by insertion, for
  /// there are few.
  HASHDL_HOST_DEVICE void add(const Place& place) {
    int64_t at = count_;
    if (at == free_ && (at == 0 || places_[at - 1].gap <= place.gap)) return;
    for (; at > 0 && places_[at - 1].gap > place.gap; --at) places_[at] = places_[at - 1];
    places_[at] = place;
    count_ = std::min(count_ + 1, free_);
  }

  /// Writes the code and P - 1 changes of it.
  HASHDL_HOST_DEVICE void write(int32_t code, int32_t* out) {
    out[0] = code;
    if (P_ == 1) return;
    held_ = 0;
    push({0, places_[0].values[0].cost, 1});
    for (int64_t p = 1; p < P_; ++p) {
      std::pop_heap(heap_, heap_ + held_, std::greater<>());
      const Change change = heap_[--held_];
      out[p] = code ^ flip_of(change.ranks);
      push_successors(change);
    }
  }

  int64_t P_, free_;

 private:
  /// The P - 1 cheapest changes lie within so many places, since each place alone is a change.
  HASHDL_HOST_DEVICE static int64_t free_places(int64_t places, int64_t P) {
    return std::min(places, P - 1);
  }

  /// Ranks of the places, kRankBits each, the first place lowest; 0 = its own value. The costs are
  /// added in ascending order of the places, so that equal changes have equal costs to the bit.
  /// Ordered by cost, then ranks.
  struct Change {
    float below;  ///< the cost without the highest place
    float cost;
    uint32_t ranks;
    HASHDL_HOST_DEVICE constexpr bool operator>(const Change& other) const {
      return cost != other.cost ? cost > other.cost : ranks > other.ranks;
    }
  };

  HASHDL_HOST_DEVICE int32_t flip_of(uint32_t ranks) const {
    int32_t flip = 0;
    while (ranks != 0) {
      const int at = lowest_bit(ranks) / kRankBits, shift = at * kRankBits;
      flip ^= places_[at].values[((ranks >> shift) & kRankMask) - 1].flip;
      ranks &= ~(kRankMask << shift);
    }
    return flip;
  }

  /// "Advance" takes the next value of the highest place, "shift" moves a first value one place up,
  /// "expand" adds the first value of the place above: every change is reached once, from one that
  /// is not dearer.
  HASHDL_HOST_DEVICE void push_successors(const Change& change) {
    const int top = highest_bit(change.ranks) / kRankBits, next = top + 1;
    const uint32_t one = uint32_t{1} << (top * kRankBits);
    const uint32_t rank = change.ranks >> (top * kRankBits);
    if constexpr (kRankBits > 1) {
      const Place& place = places_[top];
      if (static_cast<int32_t>(rank) < place.count) {
        push({change.below, change.below + place.values[rank].cost, change.ranks + one});
      }
    }
    if (next >= free_) return;
    const uint32_t above = one << kRankBits;
    const float cost = places_[next].values[0].cost;
    if (rank == 1) push({change.below, change.below + cost, (change.ranks ^ one) | above});
    push({change.cost, change.cost + cost, change.ranks | above});
  }

  HASHDL_HOST_DEVICE void push(const Change& change) {
    heap_[held_++] = change;
    std::push_heap(heap_, heap_ + held_, std::greater<>());
  }

  Place* places_;      ///< those that may be changed, and room for one more
  Change* heap_;       ///< changes to come
  int64_t count_ = 0;  ///< of the places
  int64_t held_ = 0;   ///< by the heap
};

/// The codes that one table is probed at where codes are K sign bits: flipping a bit costs the
/// square of its projection.
class ProbeSequence : BestChanges<1> {
 public:
  HASHDL_HOST_DEVICE static int64_t bytes(int64_t K, int64_t P) { return BestChanges::bytes(K, P); }

  HASHDL_HOST_DEVICE ProbeSequence(int64_t K, int64_t P, void* memory)
      : BestChanges(K, P, memory), K_(K) {}

  /// Writes P codes.
  HASHDL_HOST_DEVICE void fill(const float* projections, int32_t code, int32_t* out) {
    clear();
    for (int64_t k = 0; k < K_ && P_ > 1; ++k) {
      const float value = projections[k];
      add({value < 0 ? -value : value, {{rounded_square(value), 1 << k}}, 1});
    }
    write(code, out);
  }

 private:
  int64_t K_;
};

}  // namespace hashdl::cpu
