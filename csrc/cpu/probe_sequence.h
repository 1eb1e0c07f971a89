// The order in which a table's buckets are probed: query-directed multiprobe (Lv et al., VLDB 2007,
// section 4.3), for codes of sign bits and for codes of digits.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace hashdl::cpu {

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

  /// The P - 1 cheapest changes lie within so many places, since each place alone is a change.
  BestChanges(int64_t places, int64_t P) : P_(P), free_(std::min(places, P - 1)) {
    places_.resize(free_ + 1);
    heap_.reserve(kRankBits > 1 ? 2 * P + 3 : P + 2);
  }

  void clear() { count_ = 0; }

  /// Keeps those that may be changed, ascending by gap, ties by order of coming: by insertion, for
  /// there are few.
  void add(const Place& place) {
    int64_t at = count_;
    if (at == free_ && (at == 0 || places_[at - 1].gap <= place.gap)) return;
    for (; at > 0 && places_[at - 1].gap > place.gap; --at) places_[at] = places_[at - 1];
    places_[at] = place;
    count_ = std::min(count_ + 1, free_);
  }

  /// Writes the code and P - 1 changes of it to out[0], out[stride], ...
  void write(int32_t code, int32_t* out, int64_t stride) {
    out[0] = code;
    if (P_ == 1) return;
    heap_.assign(1, {0, places_[0].values[0].cost, 1});
    for (int64_t p = 1; p < P_; ++p) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Change change = heap_.back();
      heap_.pop_back();
      out[p * stride] = code ^ flip_of(change.ranks);
      push_successors(change);
    }
  }

  int64_t P_, free_;

 private:
  /// Ranks of the places, kRankBits each, the first place lowest; 0 = its own value. The costs are
  /// added in ascending order of the places, so that equal changes have equal costs to the bit.
  /// Ordered by cost, then ranks.
  struct Change {
    float below;  ///< the cost without the highest place
    float cost;
    uint32_t ranks;
    bool operator>(const Change& other) const {
      return cost != other.cost ? cost > other.cost : ranks > other.ranks;
    }
  };

  int32_t flip_of(uint32_t ranks) const {
    int32_t flip = 0;
    while (ranks != 0) {
      const int at = std::countr_zero(ranks) / kRankBits, shift = at * kRankBits;
      flip ^= places_[at].values[((ranks >> shift) & kRankMask) - 1].flip;
      ranks &= ~(kRankMask << shift);
    }
    return flip;
  }

  /// "Advance" takes the next value of the highest place, "shift" moves a first value one place up,
  /// "expand" adds the first value of the place above: every change is reached once, from one that
  /// is not dearer.
  void push_successors(const Change& change) {
    const int top = (std::bit_width(change.ranks) - 1) / kRankBits, next = top + 1;
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

  void push(const Change& change) {
    heap_.push_back(change);
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }

  std::vector<Place> places_;  ///< those that may be changed, and room for one more
  int64_t count_ = 0;          ///< of these
  std::vector<Change> heap_;
};

/// The codes that one table is probed at where codes are K sign bits: flipping a bit costs the
/// square of its projection.
class ProbeSequence : BestChanges<1> {
 public:
  ProbeSequence(int64_t K, int64_t P) : BestChanges(K, P), K_(K) {}

  /// Writes P codes to out[0], out[stride], ...
  void fill(const float* projections, int32_t code, int32_t* out, int64_t stride) {
    clear();
    for (int64_t k = 0; k < K_ && P_ > 1; ++k) {
      const float value = projections[k];
      add({std::fabs(value), {{value * value, 1 << k}}, 1});
    }
    write(code, out, stride);
  }

 private:
  int64_t K_;
};

}  // namespace hashdl::cpu
