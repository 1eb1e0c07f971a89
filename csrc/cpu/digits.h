// Codes of digits: a digit of r bits is the slot, of 2^r, that holds the largest value. A code of K
// bits has digits of 3 bits, the lowest first, and one of the bits that are left.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/probe_sequence.h"

namespace hashdl::cpu {

inline constexpr int64_t kDigitBits = 3, kSlots = 1 << kDigitBits;

/// Digits of a code of K bits.
inline int64_t digits_of(int64_t K) { return (K + kDigitBits - 1) / kDigitBits; }

/// Slots of the i-th digit.
inline int64_t slots_of(int64_t K, int64_t i) {
  return int64_t{1} << std::min(kDigitBits, K - kDigitBits * i);
}

/// Slots of a whole code.
inline int64_t all_slots(int64_t K) {
  return K / kDigitBits * kSlots + (K % kDigitBits > 0 ? int64_t{1} << (K % kDigitBits) : 0);
}

/// Codes of `count` groups of all_slots(K) values; ties go to the lower slot.
/// Returns false when a value is NaN or infinite.
bool pack_digits(const float* values, int64_t count, int64_t K, int32_t* codes);

/// The codes that one table is probed at: another slot of a digit costs the square of what its
/// value lacks of the largest one.
class DigitSequence : BestChanges<kDigitBits> {
 public:
  /// Bytes of memory, on a boundary of 4, that a sequence works in.
  static int64_t bytes(int64_t K, int64_t P) { return BestChanges::bytes(digits_of(K), P); }

  DigitSequence(int64_t K, int64_t P, void* memory) : BestChanges(digits_of(K), P, memory), K_(K) {}

  /// Writes P codes to out[0], ..., out[P - 1], the own one, `code`, first.
  void fill(const float* values, int32_t code, int32_t* out);

 private:
  Place place_of(const float* values, int64_t slots, int32_t own) const;

  int64_t K_;
};

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
