// Half precision by the compiler's own type.
#pragma once

#include <bit>
#include <cstdint>

struct __half_raw {
  unsigned short x;
};
struct __half {
  unsigned short x;
  __half(__half_raw raw) : x(raw.x) {}
  operator __half_raw() const { return {x}; }
};

inline float __half2float(__half value) {
  return static_cast<float>(std::bit_cast<_Float16>(value.x));
}
inline __half __float2half_rn(float value) {
  return __half_raw{std::bit_cast<unsigned short>(static_cast<_Float16>(value))};
}
