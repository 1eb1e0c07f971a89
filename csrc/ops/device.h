// How an op runs on a GPU: on the current stream of its tensors' device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>

#include "ops/gpu.h"

namespace hashdl::ops {

/// The step for kernels: its place where it stands on the GPU, so that nothing waits for it.
inline cuda::Step step_for_gpu(const Tensor& step) {
  const auto* number = static_cast<const int64_t*>(step.const_data_ptr());
  return is_cuda(step) ? cuda::Step{number, 0} : cuda::Step{nullptr, *number};
}

/// launch(stream) on the GPU of `on`.
template <typename Launch>
void run_on_gpu(const Tensor& on, const Launch& launch) {
  const OnDevice device(on);
  launch(device.stream());
}

/// launch(scratch, stream) on the GPU of `on`: once to measure, once with memory from torch's
/// allocator, which gives it to later work of the same stream alone.
template <typename Launch>
void run_with_scratch(const Tensor& on, const Launch& launch) {
  const OnDevice device(on);
  cuda::Scratch measure;
  launch(measure, device.stream());
  const Tensor memory = torch::stable::new_empty(on, {std::max<int64_t>(measure.size(), 1)},
                                                 torch::headeronly::ScalarType::Byte);
  cuda::Scratch scratch(memory.mutable_data_ptr());
  launch(scratch, device.stream());
}

}  // namespace hashdl::ops
