#include "cpu/digits.h"

#include <limits>

#include "cpu/random.h"

namespace hashdl::cpu {
namespace {

// What a coordinate that is zero counts as: any other wins.
constexpr float kLowest = std::numeric_limits<float>::lowest();

int32_t largest(const float* values, int64_t slots) {
  return static_cast<int32_t>(std::max_element(values, values + slots) - values);
}

/// One attempt: whether any of the slots holds a coordinate that is not zero.
bool fill_slots(const float* vector, const int32_t* coordinates, int64_t slots, float* values) {
  bool any = false;
  for (int64_t s = 0; s < slots; ++s) {
    const float value = vector[coordinates[s]];
    values[s] = value == 0 ? kLowest : value;
    any |= value != 0;
  }
  return any;
}

/// The vector's largest coordinate that is not zero, -1 where all are; and whether all are finite.
struct Top {
  int64_t at;
  bool finite;
};

Top top_of(const float* vector, int64_t D) {
  int64_t top = -1;
  float poison = 0;
  for (int64_t i = 0; i < D; ++i) {
    poison += vector[i] * 0.0f;
    if (vector[i] != 0 && (top < 0 || vector[i] > vector[top])) top = i;
  }
  return {top, poison == 0};
}

}  // namespace

bool pack_digits(const float* values, int64_t count, int64_t K, int32_t* codes) {
  float poison = 0;  // zero times NaN or infinity is NaN
  for (int64_t g = 0; g < count; ++g) {
    codes[g] = 0;
    for (int64_t i = 0; i < digits_of(K); ++i) {
      const int64_t slots = slots_of(K, i);
      for (int64_t s = 0; s < slots; ++s) poison += values[s] * 0.0f;
      codes[g] |= largest(values, slots) << (kDigitBits * i);
      values += slots;
    }
  }
  return poison == 0;
}

DigitSequence::Place DigitSequence::place_of(const float* values, int64_t slots,
                                             int32_t own) const {
  // Other slots by descending value, ties by slot.
  int32_t order[kSlots] = {};
  int64_t count = 0;
  for (int32_t s = 0; s < slots; ++s) {
    if (s == own) continue;
    int64_t at = count++;
    for (; at > 0 && values[order[at - 1]] < values[s]; --at) order[at] = order[at - 1];
    order[at] = s;
  }
  Place place{values[own] - values[order[0]], {}, static_cast<int32_t>(count)};
  for (int64_t r = 0; r < count; ++r) {
    const float lacks = values[own] - values[order[r]];
    place.values[r] = {lacks * lacks, own ^ order[r]};
  }
  return place;
}

void DigitSequence::fill(const float* values, int32_t code, int32_t* out) {
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

bool densify(const Densified& args, int64_t begin, int64_t end) {
  bool finite = true;
  for (int64_t m = begin; m < end; ++m) {
    const float* vector = args.vectors + m * args.D;
    float* values = args.values + m * args.C;
    const Top top = top_of(vector, args.D);
    finite &= top.finite;
    if (top.at < 0) {
      std::fill(values, values + args.C, 0.0f);
      continue;
    }
    for (int64_t i = 0, first = 0; i < args.digits; first = args.ends[i++]) {
      const int64_t slots = args.ends[i] - first;
      bool found = false;
      for (int64_t t = 0; t < args.T && !found; ++t) {
        found = fill_slots(vector, args.functions + t * args.C + first, slots, values + first);
      }
      if (found) continue;
      const uint64_t key = mix(static_cast<uint64_t>(args.functions[first]));
      values[first + draw_below(key, top.at, slots)] = vector[top.at];
    }
  }
  return finite;
}

}  // namespace hashdl::cpu
