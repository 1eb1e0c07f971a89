// Launches, and errors of the CUDA runtime. Nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/scratch.h"

namespace hashdl::cuda {

/// Throws when a call of the CUDA runtime failed.
inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("hashdl: CUDA: ") + cudaGetErrorString(error));
  }
}

/// Sets all of `count` numbers' bytes; nothing where there are none, which no graph would take.
template <typename T>
void fill_bytes(T* numbers, int byte, int64_t count, Stream stream) {
  if (count == 0) return;
  check(cudaMemsetAsync(numbers, byte, static_cast<size_t>(count) * sizeof(T), stream));
}

/// Dynamic shared memory of a block: what every GPU since sm_80 lets it have (99 KB), without the
/// kernels' static arrays.
constexpr int64_t kMostDynamic = 88 * 1024;

/// Blocks for `count` items, `each` of them a block.
inline int64_t blocks_for(int64_t count, int64_t each) { return (count + each - 1) / each; }

/// Bits that a radix sort has to look at in keys up to `largest`.
inline int key_bits(uint64_t largest) { return static_cast<int>(std::bit_width(largest | 1)); }

/// Runs kernel(args...) on `blocks` blocks of `threads` threads with so many bytes of dynamic
/// shared memory. No blocks: nothing happens.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            Stream stream, const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 32 * 1024;  // of 48 KB, some for static arrays
  if (blocks == 0) return;
  if (blocks >= int64_t{1} << 31) throw std::runtime_error("hashdl: CUDA: 2^31 blocks or more");
  if (shared > kWithoutAsking) {
    // The same for all launches: another thread may be about to launch the kernel with more.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostDynamic));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

}  // namespace hashdl::cuda
