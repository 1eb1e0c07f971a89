// Launches, errors and scratch memory of the CUDA kernels. Nothing here waits for the device.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace hashdl::cuda {

/// Throws when a call of the CUDA runtime failed.
inline void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("hashdl: CUDA: ") + cudaGetErrorString(error));
  }
}

/// Blocks for `count` items, `each` of them a block.
inline int64_t blocks_for(int64_t count, int64_t each) { return (count + each - 1) / each; }

/// Runs kernel(args...) on `blocks` blocks of `threads` threads with so many bytes of dynamic
/// shared memory. No blocks: nothing happens.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
            cudaStream_t stream, const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (blocks == 0) return;
  if (blocks >= int64_t{1} << 31) throw std::runtime_error("hashdl: CUDA: 2^31 blocks or more");
  if (shared > kWithoutAsking) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

/// Scratch memory of a launcher, which is called twice: first without memory, to measure what it
/// takes, when it must not launch anything; then with as much as that.
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}

  /// `count` elements, uninitialized, on a boundary of 256 bytes; null while measuring.
  template <typename T>
  T* take(int64_t count) {
    char* const at = memory_ == nullptr ? nullptr : memory_ + size_;
    size_ += (static_cast<int64_t>(sizeof(T)) * count + 255) / 256 * 256;
    return reinterpret_cast<T*>(at);
  }

  bool measuring() const { return memory_ == nullptr; }
  int64_t size() const { return size_; }  ///< bytes taken

 private:
  char* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace hashdl::cuda
