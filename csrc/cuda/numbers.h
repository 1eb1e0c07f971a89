// Numbers in memory and in registers: loads and stores of several at once, arithmetic in
// Accumulate<T>.
#pragma once

#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "cpu/dtypes.h"

namespace hashdl::cuda {

using cpu::Accumulate;
using cpu::BFloat16;
using cpu::Half;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
__device__ inline float widen(Half value) {
  return __half2float(__half(std::bit_cast<__half_raw>(value.bits)));
}

__device__ inline void narrow(float value, float& out) { out = value; }
__device__ inline void narrow(double value, double& out) { out = value; }
/// To the nearest, ties to even; NaN stays NaN.
__device__ inline void narrow(float value, BFloat16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  out.bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}
__device__ inline void narrow(float value, Half& out) {
  out.bits = std::bit_cast<uint16_t>(static_cast<__half_raw>(__float2half_rn(value)));
}

/// V numbers that are loaded and stored at once; of 16 bits, two a register.
template <typename T, int V>
class alignas(sizeof(T) * V) Pack {
 public:
  __device__ T get(int v) const {
    if constexpr (kPairs) {
      return {static_cast<uint16_t>(words_[v / 2] >> v % 2 * 16)};
    } else {
      return words_[v];
    }
  }

  /// For v = 0, 1, ..., V - 1, in this order.
  __device__ void set(int v, T value) {
    if constexpr (kPairs) {
      const uint32_t bits = value.bits;
      words_[v / 2] = v % 2 == 0 ? bits : words_[v / 2] | bits << 16;
    } else {
      words_[v] = value;
    }
  }

 private:
  static constexpr bool kPairs = sizeof(T) == 2 && V % 2 == 0;
  std::conditional_t<kPairs, uint32_t, T> words_[kPairs ? V / 2 : V];
};

/// Numbers in a load of 16 bytes.
template <typename T>
constexpr int kPacked = 16 / static_cast<int>(sizeof(T));

/// to[0 .. V) = from[0 .. V)
template <int V, typename T>
__device__ void load(const T* from, Pack<T, V>& to) {
  to = *reinterpret_cast<const Pack<T, V>*>(from);
}

template <int V, typename T>
__device__ void widen(const Pack<T, V>& pack, Accumulate<T> (&to)[V]) {
  for (int v = 0; v < V; ++v) to[v] = widen(pack.get(v));
}

/// to[0 .. V) = from[0 .. V), widened.
template <int V, typename T>
__device__ void load(const T* from, Accumulate<T> (&to)[V]) {
  Pack<T, V> pack;
  load<V>(from, pack);
  widen(pack, to);
}

template <int V, typename T>
__device__ void store(const Accumulate<T> (&from)[V], T* to) {
  Pack<T, V> pack;
  for (int v = 0; v < V; ++v) {
    T number;
    narrow(from[v], number);
    pack.set(v, number);
  }
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

/// An optimizer's state, V numbers at a time: 32 bytes of them beside 16-bit weights, in two loads.
template <int V, typename S>
__device__ void load_state(const S* from, Accumulate<S> (&to)[V]) {
  constexpr int part = V < kPacked<S> ? V : kPacked<S>;
  for (int v = 0; v < V; v += part) {
    load<part>(from + v, *reinterpret_cast<Accumulate<S>(*)[part]>(to + v));
  }
}

template <int V, typename A>
__device__ void store_state(const A (&from)[V], A* to) {
  constexpr int part = V < kPacked<A> ? V : kPacked<A>;
  for (int v = 0; v < V; v += part) {
    store<part>(*reinterpret_cast<const A(*)[part]>(from + v), to + v);
  }
}

/// Whether rows of d numbers from `base` on all stand on boundaries of 16 bytes.
template <typename T>
bool packs(const T* base, int64_t d) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && d % kPacked<T> == 0;
}

/// body.template operator()<V>(): V numbers at once where all rows of d numbers allow it, else 1.
template <typename T, typename Body, typename... Pointers>
void with_width(int64_t d, const Body& body, const Pointers*... rows) {
  if ((packs(reinterpret_cast<const T*>(rows), d) && ...)) {
    body.template operator()<kPacked<T>>();
  } else {
    body.template operator()<1>();
  }
}

}  // namespace hashdl::cuda
