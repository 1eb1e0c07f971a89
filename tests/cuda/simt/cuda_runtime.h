// A GPU on the host: compiles the CUDA kernels with an ordinary C++ compiler and runs them, one
// block after the other, each thread of a block as a fiber of its own. Barriers, shuffles and votes
// wait for the threads that they need; a launch fails when these do not come, when a kernel refuses
// a value, and when it writes beyond its dynamic shared memory.
//
// Only what the kernels use is here. This folder stands before csrc in the include path, and its
// headers in the place of the toolkit's.
#pragma once

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "races.h"

#define __global__
#define __device__
#define __host__
#define __shared__  // `static` or `extern` beside it does the rest: one block runs at a time
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __assert_fail(what, ...) simt::refuse(what)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

/// Of a function whose accesses of memory are none of the kernel's.
#define SIMT_UNWATCHED __attribute__((noinline, no_sanitize_thread))

namespace simt {

constexpr int kWarp = 32;

[[noreturn]] void refuse(const char* what);

/// Waits for all threads of the block that are still there.
void block_barrier();

/// The words of all lanes of this thread's warp, when every one of them has given its own.
const uint64_t* exchange(unsigned mask, uint64_t word);

/// Waits for all lanes of this thread's warp, and orders what they do to memory.
void warp_barrier();

void run_grid(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& body);

template <typename T>
SIMT_UNWATCHED T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  const uint64_t* words = exchange(mask, word);
  if (source >= 0 && source < kWarp) std::memcpy(&value, &words[source], sizeof(T));
  return value;
}

inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

}  // namespace simt

// ---- what kernels call --------------------------------------------------------------------------

inline void __syncthreads() { simt::block_barrier(); }
inline void __syncwarp() { simt::warp_barrier(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return simt::shuffle(mask, value, source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  return simt::shuffle(mask, value, simt::lane() ^ offset);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int offset) {
  return simt::shuffle(mask, value, simt::lane() - offset);
}
SIMT_UNWATCHED inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const uint64_t* votes = simt::exchange(mask, vote);
  unsigned word = 0;
  for (int lane = 0; lane < simt::kWarp; ++lane) word |= static_cast<unsigned>(votes[lane]) << lane;
  return word;
}

inline int __popc(unsigned word) { return __builtin_popcount(word); }
inline int __ffs(int word) { return __builtin_ffs(word); }

SIMT_UNWATCHED inline int32_t atomicCAS(int32_t* at, int32_t expected, int32_t wanted) {
  simt::access_memory(at, sizeof(*at), simt::Access::kAtomic);
  const int32_t before = *at;
  if (before == expected) *at = wanted;
  return before;
}
SIMT_UNWATCHED inline uint32_t atomicMin(uint32_t* at, uint32_t value) {
  simt::access_memory(at, sizeof(*at), simt::Access::kAtomic);
  const uint32_t before = *at;
  if (value < before) *at = value;
  return before;
}
SIMT_UNWATCHED inline uint32_t atomicOr(uint32_t* at, uint32_t bits) {
  simt::access_memory(at, sizeof(*at), simt::Access::kAtomic);
  const uint32_t before = *at;
  *at |= bits;
  return before;
}
SIMT_UNWATCHED inline int32_t atomicAdd(int32_t* at, int32_t value) {
  simt::access_memory(at, sizeof(*at), simt::Access::kAtomic);
  const int32_t before = *at;
  *at += value;
  return before;
}

// ---- what launchers call ------------------------------------------------------------------------

enum cudaError_t { cudaSuccess };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline const char* cudaGetErrorString(cudaError_t) { return ""; }

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  if (bytes == 0) simt::refuse("simt: nothing to set, which no CUDA graph takes");
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  simt::run_grid(config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes,
                 [&] { kernel(arguments...); });
  return cudaSuccess;
}
