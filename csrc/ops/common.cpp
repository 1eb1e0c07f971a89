#include "ops/common.h"

#include <algorithm>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace hashdl::ops {
namespace {

#ifdef __linux__
// As of hashdl/huge_pages.py: less fits into small pages as it is.
constexpr int64_t kHugeFrom = 16 << 20, kPage = 4096;

/// Asks for large pages under new memory: to fault in 4 KB at a time takes longer than to fill it.
void prefer_huge_pages(const Tensor& tensor) {
  const int64_t bytes = tensor.numel() * tensor.element_size();
  if (bytes < kHugeFrom || !tensor.is_cpu()) return;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), (begin + bytes - first) / kPage * kPage, MADV_HUGEPAGE);
}
#else
void prefer_huge_pages(const Tensor&) {}
#endif

}  // namespace

std::string shape_string(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(tensor.size(i));
  }
  return text + (tensor.dim() == 1 ? ",)" : ")");
}

std::string dtype_string(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Byte:
      return "uint8";
    default:
      return "dtype number " + std::to_string(static_cast<int>(dtype));
  }
}

void check(bool ok, const char* op, const char* argument, std::string_view what) {
  if (ok) return;
  throw std::runtime_error(std::string("hashdl::") + op + ": " + argument + ": " +
                           std::string(what));
}

void check_shape(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* op,
                 const char* argument) {
  const int64_t* const sizes = shape.begin();
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; i < shape.size() && same; ++i) {
    same = sizes[i] < 0 || tensor.size(i) == sizes[i];
  }
  if (same) return;  // most calls: a single query would feel the making of texts
  std::string wanted = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    wanted += (i > 0 ? ", " : "") + (sizes[i] < 0 ? "*" : std::to_string(sizes[i]));
  }
  wanted += shape.size() == 1 ? ",)" : ")";
  check(false, op, argument, "got shape " + shape_string(tensor) + ", wanted " + wanted);
}

void check_dtype(const Tensor& tensor, ScalarType dtype, const char* op, const char* argument) {
  if (tensor.scalar_type() == dtype) return;
  check(false, op, argument,
        "got dtype " + dtype_string(tensor.scalar_type()) + ", wanted " + dtype_string(dtype));
}

void check_one_device(const char* op, std::initializer_list<std::optional<Tensor>> tensors) {
  const Tensor& first = **tensors.begin();
  for (const std::optional<Tensor>& tensor : tensors) {
    if (!tensor.has_value()) continue;
    const bool same = is_cuda(*tensor) == is_cuda(first) &&
                      tensor->get_device_index() == first.get_device_index();
    check(same, op, "device", "got tensors on different devices, wanted one");
  }
}

void check_floating(const Tensor& tensor, const char* op, const char* argument) {
  const ScalarType dtype = tensor.scalar_type();
  const bool floating = dtype == ScalarType::Float || dtype == ScalarType::Double ||
                        dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
  if (floating) return;
  check(false, op, argument,
        "got dtype " + dtype_string(dtype) + ", wanted float32, float64, bfloat16 or float16");
}

void check_in_place(const Tensor& tensor, const char* op, const char* argument) {
  check(tensor.is_contiguous(), op, argument,
        "got a non-contiguous tensor; it is updated in place");
}

void check_bits(int64_t bits, const char* op) {
  constexpr int64_t kMaxBits = 24;
  check(bits >= 1 && bits <= kMaxBits, op, "bits", [&] {
    return "got " + std::to_string(bits) + ", wanted 1 to " + std::to_string(kMaxBits);
  });
}

void check_sign_projections(const Tensor& projections, int64_t bits, const char* op,
                            const char* argument) {
  check(bits >= 1 && bits <= 32, op, "bits", "got " + std::to_string(bits) + ", wanted 1 to 32");
  check_dtype(projections, ScalarType::Float, op, argument);
  check_shape(projections, {-1, -1}, op, argument);
  check(projections.size(1) % bits == 0, op, argument,
        "got shape " + shape_string(projections) +
            ", wanted (*, multiple of bits = " + std::to_string(bits) + ")");
}

void check_rows(const Tensor& rows, int64_t lowest, int64_t N, const char* op,
                const char* argument) {
  if (is_cuda(rows)) return;
  const int32_t* ids = data<int32_t>(rows);
  const int64_t count = rows.numel();
  if (count == 0) return;
  // Two comparisons an id: the smallest and the largest take longer, and only an error tells them.
  const auto first = static_cast<int32_t>(lowest);
  const auto last = static_cast<int32_t>(std::min<int64_t>(N - 1, INT32_MAX));
  int32_t outside = 0;
  for (int64_t i = 0; i < count; ++i) outside |= (ids[i] < first) | (ids[i] > last);
  if (outside == 0) return;
  const auto [low, high] = std::minmax_element(ids, ids + count);
  check(false, op, argument,
        "got ids from " + std::to_string(*low) + " to " + std::to_string(*high) + ", wanted " +
            std::to_string(lowest) + " to " + std::to_string(N - 1));
}

int64_t read_step(const Tensor& step, const char* op) {
  check_dtype(step, ScalarType::Long, op, "step");
  check(step.numel() == 1, op, "step",
        [&] { return "got shape " + shape_string(step) + ", wanted one element"; });
  return is_cuda(step) ? 0 : *data<int64_t>(step);
}

Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
  // Not by torch::stable::new_empty: the dispatcher takes longer than the memory.
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) {
    strides[i] = stride;
  }
  const torch::stable::Device device = like.device();
  const auto number = [](auto value) {
    return torch::stable::detail::to<int32_t>(torch::stable::detail::from(value));
  };
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                  strides.data(), number(dtype),
                                                  number(device.type()), device.index(), &made));
  Tensor tensor(made);
  prefer_huge_pages(tensor);
  return tensor;
}

}  // namespace hashdl::ops
