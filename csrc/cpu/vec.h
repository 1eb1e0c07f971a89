// Vectors of the instruction set that this translation unit is built for. Included by the sources
// in SIMD_SOURCES (setup.py) alone; everything is in the level's namespace, so that no two levels
// share a symbol.
#pragma once

#ifndef HASHDL_SIMD_LEVEL
#error "cpu/vec.h belongs to sources that are built once per SIMD level"
#endif

#include <cstdint>
#include <cstring>

#include "cpu/dtypes.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

#define HASHDL_INLINE inline __attribute__((always_inline))

/// A vector of kVectorBytes of the accumulation type A.
template <typename A>
struct VecOf {
  static constexpr int64_t lanes = kVectorBytes / sizeof(A);
  typedef A type __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vec = typename VecOf<A>::type;

typedef uint32_t VecU32 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfVecU16 __attribute__((vector_size(kVectorBytes / 2)));
typedef int32_t VecI32 __attribute__((vector_size(kVectorBytes)));

template <typename To, typename From>
HASHDL_INLINE To bit_copy(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// ---- one element ------------------------------------------------------------------------------

HASHDL_INLINE float load1(const float* p) { return *p; }
HASHDL_INLINE double load1(const double* p) { return *p; }
HASHDL_INLINE float load1(const BFloat16* p) {
  return bit_copy<float>(static_cast<uint32_t>(p->bits) << 16);
}
HASHDL_INLINE float load1(const Half* p) {
  // Shift the exponent and mantissa in place and rescale by 2^112: exact, subnormals included.
  const uint32_t magnitude = (p->bits & 0x7fffu) << 13;
  const uint32_t sign = static_cast<uint32_t>(p->bits & 0x8000u) << 16;
  if (magnitude >= 0x0f800000u) return bit_copy<float>(sign | 0x70000000u | magnitude);
  return bit_copy<float>(sign | bit_copy<uint32_t>(bit_copy<float>(magnitude) * 0x1p112f));
}

HASHDL_INLINE void store1(float* p, float value) { *p = value; }
HASHDL_INLINE void store1(double* p, double value) { *p = value; }
HASHDL_INLINE void store1(BFloat16* p, float value) {
  const uint32_t bits = bit_copy<uint32_t>(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  p->bits = nan ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
HASHDL_INLINE void store1(Half* p, float value) {
  const uint32_t bits = bit_copy<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN
    p->bits = sign | 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    p->bits = sign | 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: let the addition round to multiples of 2^-24
    p->bits = sign | static_cast<uint16_t>(bit_copy<uint32_t>(bit_copy<float>(magnitude) + 0.5f) -
                                           0x3f000000u);
  } else {
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    p->bits = sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
  }
}

// ---- one vector -------------------------------------------------------------------------------

HASHDL_INLINE Vec<float> load(const float* p) {
  Vec<float> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
HASHDL_INLINE Vec<double> load(const double* p) {
  Vec<double> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
HASHDL_INLINE Vec<float> load(const BFloat16* p) {
  HalfVecU16 raw;
  std::memcpy(&raw, p, sizeof(raw));
  return bit_copy<Vec<float>>(__builtin_convertvector(raw, VecU32) << 16);
}
HASHDL_INLINE Vec<float> load(const Half* p) {
  HalfVecU16 raw;
  std::memcpy(&raw, p, sizeof(raw));
  const VecU32 wide = __builtin_convertvector(raw, VecU32);
  const VecU32 magnitude = (wide & 0x7fffu) << 13;
  const VecU32 finite = bit_copy<VecU32>(bit_copy<Vec<float>>(magnitude) * 0x1p112f);
  const VecU32 special = bit_copy<VecU32>(magnitude >= 0x0f800000u) & 0x70000000u;
  const VecU32 body = special ? (magnitude | special) : finite;
  return bit_copy<Vec<float>>(body | ((wide & 0x8000u) << 16));
}

HASHDL_INLINE void store(float* p, Vec<float> v) { std::memcpy(p, &v, sizeof(v)); }
HASHDL_INLINE void store(double* p, Vec<double> v) { std::memcpy(p, &v, sizeof(v)); }
template <typename T>
HASHDL_INLINE void store(T* p, Vec<float> v) {
  for (int64_t i = 0; i < VecOf<float>::lanes; ++i) store1(p + i, v[i]);
}

/// a b + c: in one rounding, where the level has an instruction for it.
HASHDL_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);  // 4: rounding as usual
#elif defined(__FMA__)
  return __builtin_ia32_vfmaddps256(a, b, c);
#else
  return a * b + c;
#endif
}

/// Store past the caches, what is read again much later: the line need not be read first. `p` is
/// aligned to a vector, and `end_streaming` comes before another thread reads it.
HASHDL_INLINE void stream(float* p, Vec<float> v) {
#if defined(__AVX512F__)
  __builtin_ia32_movntps512(p, v);
#elif defined(__AVX__)
  __builtin_ia32_movntps256(p, v);
#elif defined(__SSE__)
  __builtin_ia32_movntps(p, v);
#else
  store(p, v);
#endif
}
HASHDL_INLINE void stream(double* p, Vec<double> v) {
  stream(reinterpret_cast<float*>(p), bit_copy<Vec<float>>(v));
}
template <typename T>
HASHDL_INLINE void stream(T* p, Vec<float> v) {
  store(p, v);
}
HASHDL_INLINE void end_streaming() {
#if defined(__SSE__)
  __builtin_ia32_sfence();
#endif
}

/// Sum of the lanes, by halves: the order is the same for every call. In shuffles: by way of memory
/// it would take longer than the products of a row of 128.
template <typename A, typename V>
HASHDL_INLINE A reduce_halves(V v) {
  constexpr int lanes = sizeof(V) / sizeof(A);
  if constexpr (lanes == 2) {
    return v[0] + v[1];
  } else if constexpr (lanes == 4) {
    return reduce_halves<A>(__builtin_shufflevector(v, v, 0, 1) +
                            __builtin_shufflevector(v, v, 2, 3));
  } else if constexpr (lanes == 8) {
    return reduce_halves<A>(__builtin_shufflevector(v, v, 0, 1, 2, 3) +
                            __builtin_shufflevector(v, v, 4, 5, 6, 7));
  } else {
    static_assert(lanes == 16);
    return reduce_halves<A>(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                            __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  }
}
template <typename A>
HASHDL_INLINE A reduce(Vec<A> v) {
  return reduce_halves<A>(v);
}

/// e^x, one unit in the last place off or so: 0 for -inf and wherever a float would be subnormal
/// (which is slow), inf for inf, NaN for NaN.
HASHDL_INLINE Vec<float> exp(Vec<float> x) {
  constexpr float kLowest = -87.336540f;  // 126 ln 2: the smallest normal float
  constexpr float kHighest = 89.0f;       // e^89 is inf already
  constexpr float kLog2e = 1.44269504f;
  // ln 2 in two parts: a multiple of the first one, below 2^8 of it, is exact.
  constexpr float kLn2 = 0.693359375f, kLn2Rest = -2.12194440e-4f;
  constexpr float kRound = 0x1.8p23f;  // added, it leaves the integer next to a float in its bits
  const Vec<float> low = x < kLowest ? Vec<float>{} + kLowest : x;
  const Vec<float> clamped = low > kHighest ? Vec<float>{} + kHighest : low;
  // e^x = 2^n e^r with |r| <= ln 2 / 2; the polynomial is that of Cephes' expf (Moshier).
  const Vec<float> shifted = clamped * kLog2e + kRound;
  const Vec<float> rounded = shifted - kRound;
  const Vec<float> r = clamped - rounded * kLn2 - rounded * kLn2Rest;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n = 128 does not fit the exponent of one.
  const VecI32 n = bit_copy<VecI32>(shifted) - bit_copy<int32_t>(kRound);
  const VecI32 half = n >> 1;
  const Vec<float> scaled =
      p * bit_copy<Vec<float>>((half + 127) << 23) * bit_copy<Vec<float>>((n - half + 127) << 23);
  return x < kLowest ? Vec<float>{} : scaled;
}
HASHDL_INLINE Vec<double> exp(Vec<double> x) {
  for (int64_t i = 0; i < VecOf<double>::lanes; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

/// Ask for the first lines of a row that will be read soon. The hardware fetches what follows.
template <typename T>
HASHDL_INLINE void prefetch_row(const T* row, int64_t d) {
  const char* bytes = reinterpret_cast<const char*>(row);
  const int64_t size = d * static_cast<int64_t>(sizeof(T));
  const int64_t limit = size < 1024 ? size : 1024;
  for (int64_t offset = 0; offset < limit; offset += 64) __builtin_prefetch(bytes + offset);
}

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
