// Which tensors are on a GPU, its current stream, and for which devices ops are registered. The
// tests of the CUDA kernels have a header of their own in this one's place.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda/scratch.h"

#if HASHDL_CUDA
#include <torch/csrc/stable/accelerator.h>
#endif

namespace hashdl::ops {

using torch::stable::Tensor;

/// Whether this build has CUDA kernels. Code for them stands in `if constexpr (kCuda)`, so that a
/// build without them neither links them nor needs a toolkit.
#if HASHDL_CUDA
inline constexpr bool kCuda = true;
#else
inline constexpr bool kCuda = false;
#endif

inline bool is_cuda(const Tensor& tensor) { return kCuda && tensor.is_cuda(); }

/// Makes the GPU of a tensor the current one, for as long as it lives.
class OnDevice {
 public:
#if HASHDL_CUDA
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream_ = static_cast<cuda::Stream>(current);
  }
#else
  explicit OnDevice(const Tensor&) {}
#endif

  /// Its current stream.
  cuda::Stream stream() const { return stream_; }

 private:
#if HASHDL_CUDA
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cuda::Stream stream_ = nullptr;
};

}  // namespace hashdl::ops

/// What follows in braces registers ops as `m.impl(name, function)`, for each device with kernels.
#if HASHDL_CUDA
#define HASHDL_KERNELS(m)                                                \
  static void hashdl_register(torch::stable::detail::StableLibrary&);    \
  STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, ops) { hashdl_register(ops); }  \
  STABLE_TORCH_LIBRARY_IMPL(hashdl, CUDA, ops) { hashdl_register(ops); } \
  static void hashdl_register(torch::stable::detail::StableLibrary& m)
#else
#define HASHDL_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m)
#endif
