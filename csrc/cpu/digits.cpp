#include "cpu/digits.h"

namespace hashdl::cpu {
namespace {

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
  const int64_t slots = all_slots(K);
  float poison = 0;  // zero times NaN or infinity is NaN
  for (int64_t g = 0; g < count; ++g, values += slots) {
    for (int64_t s = 0; s < slots; ++s) poison += values[s] * 0.0f;
    codes[g] = digit_code(values, K);
  }
  return poison == 0;
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
      values[first + last_slot(args.functions[first], top.at, slots)] = vector[top.at];
    }
  }
  return finite;
}

}  // namespace hashdl::cpu
