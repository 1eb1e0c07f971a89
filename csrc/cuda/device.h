// What the kernels share on the device: warps, blocks, shared memory, refusal of bad values.
#pragma once

#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>
#include <type_traits>

#include "cpu/score_order.h"
#include "cuda/scratch.h"

namespace hashdl::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }

/// Number of this thread among all.
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline int64_t value_of(const Step& step) {
  return step.device == nullptr ? step.value : *step.device;
}

/// The block's dynamic shared memory.
template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char hashdl_dynamic_shared[];
  return reinterpret_cast<T*>(hashdl_dynamic_shared);
}

/// Refuses a value as torch's own kernels do: with a message, and a failure of the whole device
/// context, for the host does not wait to hear of it. Nothing is read or written out of bounds.
__device__ inline void require(bool ok, const char* what) {
  if (ok) return;
  __assert_fail(what, "hashdl", 0, "");
  __builtin_unreachable();  // so that nothing is kept in registers for what comes after
}

/// The id at `i` of `count`, -1 beyond; `what` refuses one outside [-1, bound).
__device__ inline int32_t id_at(const int32_t* ids, int64_t i, int64_t count, int64_t bound,
                                const char* what) {
  if (i >= count) return -1;
  require(ids[i] >= -1 && ids[i] < bound, what);
  return ids[i];
}

/// The sum over a warp, in every lane, added in the same order each time.
template <typename T>
__device__ T warp_sum(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

template <typename T>
__device__ T warp_max(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;  // NaN is left to the sum
  }
  return value;
}

/// The least over a warp, in every lane.
template <typename T>
__device__ T warp_min(T value) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other < value ? other : value;
  }
  return value;
}

/// The bits that any lane has, in every lane.
__device__ inline unsigned warp_or(unsigned bits) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    bits |= __shfl_xor_sync(kAllLanes, bits, offset);
  }
  return bits;
}

/// Score and place in one word, smaller = better: ties go to the lower place.
__device__ inline uint64_t rank_of(float score, int64_t place) {
  return static_cast<uint64_t>(cpu::descending_bits(score)) << 32 | static_cast<uint64_t>(place);
}

/// reduce(value of each thread) over a block of Threads, in every thread.
template <int Threads, typename T, typename Reduce>
__device__ T block_reduce(T value, T neutral, const Reduce& reduce) {
  static __shared__ T parts[Threads / kWarp];
  const T mine = reduce(value);
  if (lane() == 0) parts[warp()] = mine;
  __syncthreads();
  const T all = reduce(lane() < Threads / kWarp ? parts[lane()] : neutral);
  __syncthreads();
  return all;
}

template <int Threads, typename T>
__device__ T block_sum(T value) {
  return block_reduce<Threads>(value, T(0), [](T part) { return warp_sum(part); });
}

template <int Threads, typename T>
__device__ T block_max(T value, T lowest) {
  return block_reduce<Threads>(value, lowest, [](T part) { return warp_max(part); });
}

/// Adds what the Warps of a block have; warp 0 has the sum after, in the order of the warps.
template <int Warps, typename A, int V>
__device__ void add_warps(A (&sums)[V]) {
  static __shared__ A parts[Warps][V][kWarp];  // lanes side by side: no bank conflicts
#pragma unroll
  for (int v = 0; v < V; ++v) parts[warp()][v][lane()] = sums[v];
  __syncthreads();
  for (int w = 1; w < Warps && warp() == 0; ++w) {
#pragma unroll
    for (int v = 0; v < V; ++v) sums[v] += parts[w][v][lane()];
  }
  __syncthreads();
}

/// What the threads before this one of a block of Threads add up to, and what all do.
template <typename T = int32_t>
struct Scanned {
  T before, total;
};

template <int Threads, typename T = int32_t>
__device__ Scanned<T> block_scan(std::type_identity_t<T> value) {
  static __shared__ T ends[Threads / kWarp];
  T end = value;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T other = __shfl_up_sync(kAllLanes, end, offset);
    if (lane() >= offset) end += other;
  }
  if (lane() == kWarp - 1) ends[warp()] = end;
  __syncthreads();
  T before = end - value, total = 0;
  for (int w = 0; w < Threads / kWarp; ++w) {
    before += w < warp() ? ends[w] : 0;
    total += ends[w];
  }
  __syncthreads();
  return {before, total};
}

}  // namespace hashdl::cuda
