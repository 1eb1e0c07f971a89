// What every op needs: names for the stable ABI's types, argument checks with one wording, and
// dispatch over the storage type. The contract of each op (schema, shapes, meaning) is in
// hashdl/ops/.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cpu/dtypes.h"
#include "ops/device.h"

namespace hashdl::ops {

using torch::headeronly::ScalarType;

/// "(2, 3)"
std::string shape_string(const Tensor& tensor);
std::string dtype_string(ScalarType dtype);

/// Throws "hashdl::OP: ARGUMENT: WHAT" unless `ok`.
void check(bool ok, const char* op, const char* argument, std::string_view what);

/// With a text that is made when it is needed: of a single query's time, texts would be a part.
template <std::invocable What>
void check(bool ok, const char* op, const char* argument, const What& what) {
  if (!ok) check(false, op, argument, what());
}

/// Shape with -1 for "any".
void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* op,
                 const char* argument);
void check_dtype(const Tensor& tensor, ScalarType dtype, const char* op, const char* argument);

/// All on the device of the first, those that are there.
void check_one_device(const char* op, std::initializer_list<std::optional<Tensor>> tensors);

/// float32, float64, bfloat16 or float16.
void check_floating(const Tensor& tensor, const char* op, const char* argument);

/// Contiguous, for a tensor that the op writes.
void check_in_place(const Tensor& tensor, const char* op, const char* argument);

/// Bits a table: 1 to 24.
void check_bits(int64_t bits, const char* op);

/// float32 (M, L * bits), for codes of 1 to 32 sign bits.
void check_sign_projections(const Tensor& projections, int64_t bits, const char* op,
                            const char* argument = "projections");

/// Every id in [lowest, N). Ids on a GPU are looked at by the kernels.
void check_rows(const Tensor& rows, int64_t lowest, int64_t N, const char* op,
                const char* argument);

/// The single int64 of `step`; 0 where it stands on a GPU, see step_for_gpu.
int64_t read_step(const Tensor& step, const char* op);

/// An empty tensor beside `like`, with its device; of a large one the system is asked for large
/// pages.
Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype);

/// float32 where T accumulates in float32, float64 for float64.
inline ScalarType accumulate_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

/// A contiguous copy, or the tensor itself. It must outlive the pointers taken from it.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline std::optional<Tensor> as_contiguous(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional(as_contiguous(*tensor)) : std::nullopt;
}
template <typename T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

/// Calls body(T{}) with the storage type of `tensor`, which check_floating has seen.
template <typename Body>
void dispatch_floating(const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return body(double{});
    case ScalarType::BFloat16:
      return body(cpu::BFloat16{});
    case ScalarType::Half:
      return body(cpu::Half{});
    default:
      return body(float{});
  }
}

/// Runs body(begin, end) -> bool over [0, size) in parallel; true when every part was. An exception
/// inside a parallel region would lose its message, so bodies report and the caller throws.
template <typename Body>
bool parallel_all(int64_t size, int64_t grain, const Body& body) {
  std::atomic<bool> ok{true};
  torch::stable::parallel_for(0, size, grain, [&](int64_t begin, int64_t end) {
    if (!body(begin, end)) ok.store(false, std::memory_order_relaxed);
  });
  return ok.load();
}

}  // namespace hashdl::ops
