// Codes of digits: a digit of r bits is the slot, of 2^r, that holds the largest value. A code of K
// bits has digits of 3 bits, the lowest first, and one of the bits that are left.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/probe_sequence.h"
#include "cpu/random.h"

namespace hashdl::cpu {

inline constexpr int64_t kDigitBits = 3, kSlots = 1 << kDigitBits;

/// Digits of a code of K bits.
HASHDL_HOST_DEVICE inline int64_t digits_of(int64_t K) { return (K + kDigitBits - 1) / kDigitBits; }

/// Slots of the i-th digit.
HASHDL_HOST_DEVICE inline int64_t slots_of(int64_t K, int64_t i) {
  const int64_t left = K - kDigitBits * i;
  return int64_t{1} << (left < kDigitBits ? left : kDigitBits);
}

/// Slots of a whole code.
HASHDL_HOST_DEVICE inline int64_t all_slots(int64_t K) {
  return K / kDigitBits * kSlots + (K % kDigitBits > 0 ? int64_t{1} << (K % kDigitBits) : 0);
}

/// The slot that holds the largest value; ties go to the lower one.
HASHDL_HOST_DEVICE inline int32_t largest_slot(const float* values, int64_t slots) {
  return static_cast<int32_t>(std::max_element(values, values + slots) - values);
}

/// The code of all_slots(K) finite values.
HASHDL_HOST_DEVICE inline int32_t digit_code(const float* values, int64_t K) {
  int32_t code = 0;
  for (int64_t i = 0; i < digits_of(K); ++i) {
    code |= largest_slot(values, slots_of(K, i)) << (kDigitBits * i);
    values += slots_of(K, i);
  }
  return code;
}

/// Codes of `count` groups of all_slots(K) values.
/// Returns false when a value is NaN or infinite.
bool pack_digits(const float* values, int64_t count, int64_t K, int32_t* codes);

/// The codes that one table is probed at: another slot of a digit costs the square of what its
/// value lacks of the largest one.
class DigitSequence : BestChanges<kDigitBits> {
 public:
  /// Bytes of memory, on a boundary of 4, that a sequence works in.
  HASHDL_HOST_DEVICE static int64_t bytes(int64_t K, int64_t P) {
    return BestChanges::bytes(digits_of(K), P);
  }

  HASHDL_HOST_DEVICE DigitSequence(int64_t K, int64_t P, void* memory)
      : BestChanges(digits_of(K), P, memory), K_(K) {}

  /// Writes P codes to out[0], ..., out[P - 1], the own one, `code`, first.
  HASHDL_HOST_DEVICE void fill(const float* values, int32_t code, int32_t* out) {
    clear();
    for (int64_t i = 0; i < digits_of(K_) && P_ > 1; ++i) {
      const int64_t slots = slots_of(K_, i);
      const int32_t own = (code >> (kDigitBits * i)) & static_cast<int32_t>(slots - 1);
      Place place = place_of(values, slots, own);
      for (int32_t r = 0; r < place.count; ++r) place.values[r].flip <<= kDigitBits * i;
      add(place);
      values += slots;
    }
    write(code, out);
  }

 private:
  HASHDL_HOST_DEVICE static Place place_of(const float* values, int64_t slots, int32_t own) {
    // Other slots by descending value, ties by slot.
    int32_t order[kSlots] = {};
    int32_t count = 0;
    for (int32_t s = 0; s < slots; ++s) {
      if (s == own) continue;
      int32_t at = count++;
      for (; at > 0 && values[order[at - 1]] < values[s]; --at) order[at] = order[at - 1];
      order[at] = s;
    }
    Place place{values[own] - values[order[0]], {}, count};
    for (int32_t r = 0; r < count; ++r) {
      const float lacks = values[own] - values[order[r]];
      place.values[r] = {rounded_square(lacks), own ^ order[r]};
    }
    return place;
  }

  int64_t K_;
};

/// What a coordinate that is zero counts as: any other wins.
inline constexpr float kLowestValue = std::numeric_limits<float>::lowest();

/// One attempt: whether any of the slots holds a coordinate that is not zero.
HASHDL_HOST_DEVICE inline bool fill_slots(const float* vector, const int32_t* coordinates,
                                          int64_t slots, float* values) {
  bool any = false;
  for (int64_t s = 0; s < slots; ++s) {
    const float value = vector[coordinates[s]];
    values[s] = value == 0 ? kLowestValue : value;
    any |= value != 0;
  }
  return any;
}

/// The slot, of `slots`, that the largest coordinate gets where no attempt meets any.
HASHDL_HOST_DEVICE inline int64_t last_slot(int32_t coordinate, int64_t top, int64_t slots) {
  return draw_below(mix(static_cast<uint64_t>(coordinate)), top, slots);
}

/// Slots filled from sparse vectors: an empty digit borrows.
struct Densified {
  const float* vectors;      ///< (M, D)
  const int32_t* functions;  ///< (T, C): coordinates of the slots, a row an attempt
  const int64_t* ends;       ///< (digits): where each digit's slots end
  float* values;             ///< (M, C), written
  int64_t D, T, C, digits;
};

/// The vectors in [begin, end). Returns false when a coordinate is NaN or infinite.
bool densify(const Densified& args, int64_t begin, int64_t end);

}  // namespace hashdl::cpu
