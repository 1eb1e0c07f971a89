// In the place of csrc/ops/gpu.h: every tensor counts as one on a GPU, and ops are registered as
// torch.ops.hashdl_simt for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include "cuda/scratch.h"

namespace hashdl::ops {

using torch::stable::Tensor;

inline constexpr bool kCuda = true;

inline bool is_cuda(const Tensor&) { return true; }

class OnDevice {
 public:
  explicit OnDevice(const Tensor&) {}
  cuda::Stream stream() const { return nullptr; }
};

}  // namespace hashdl::ops

#define HASHDL_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(hashdl_simt, CPU, m)
