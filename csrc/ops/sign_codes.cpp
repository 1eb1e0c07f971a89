// sign_codes: from rows to their codes in one op; on a GPU there is nothing to gain by that.
#include "cpu/sign_codes.h"

#include "ops/gather_linear.h"

namespace hashdl::ops {
namespace {

// Rows that are worth a thread of their own.
constexpr int64_t kGrain = 64;

/// Planes (d + 1, F) as the kernels read them, and what a projection begins with: minus that of the
/// centre.
struct Planes {
  Planes(const Tensor& center, const Tensor& planes, int64_t lanes)
      : W((planes.size(1) + lanes - 1) / lanes * lanes), columns(planes.size(0) * W), offsets(W) {
    const int64_t F = planes.size(1), stride = planes.stride(0);
    const float *from = data<float>(planes), *middle = data<float>(center);
    for (int64_t k = 0; k < planes.size(0); ++k) {
      float* to = columns.data() + k * W;
      for (int64_t f = 0; f < F; ++f) {
        to[f] = from[k * stride + f];
        offsets[f] -= middle[k] * to[f];
      }
    }
  }

  int64_t W;
  std::vector<float> columns, offsets;
};

Tensor sign_codes(const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& center,
                  const Tensor& planes, int64_t bits) {
  constexpr auto op = "sign_codes";
  check_floating(weight, op, "weight");
  check_shape(weight, {-1, -1}, op, "weight");
  const int64_t M = weight.size(0), d = weight.size(1);
  check_bias(bias, weight, op);
  check_dtype(center, ScalarType::Float, op, "center");
  check_shape(center, {d + 1}, op, "center");
  check_sign_projections(planes, bits, op, "planes");
  check_shape(planes, {d + 1, -1}, op, "planes");
  check_one_device(op, {weight, bias, center, planes});
  const int64_t L = planes.size(1) / bits;
  const Tensor rows = as_contiguous(weight), middle = as_contiguous(center);
  const Tensor functions = planes.stride(1) == 1 ? planes : as_contiguous(planes);
  const std::optional<Tensor> biases = as_contiguous(bias);
  const Tensor codes = empty(weight, {L, M}, ScalarType::Int);
  bool finite = true;
  dispatch_floating(rows, [&]<typename T>(T) {
    const auto& kernels = cpu::sign_codes_kernels<T>();
    const Planes packed(middle, functions, kernels.lanes);
    const cpu::SignCodes<T> args{data<T>(rows),
                                 data_or_null<T>(biases),
                                 packed.columns.data(),
                                 packed.offsets.data(),
                                 mutable_data<int32_t>(codes),
                                 M,
                                 d,
                                 L,
                                 bits,
                                 packed.W};
    // Whole blocks of rows a thread.
    const int64_t blocks = (M + kernels.rows - 1) / kernels.rows;
    finite = parallel_all(blocks, kGrain / kernels.rows, [&](int64_t begin, int64_t end) {
      const int64_t R = kernels.rows;
      std::vector<float> floats(R * (d + packed.W));
      std::vector<int32_t> ints(R * L);
      const cpu::SignCodesRoom room{floats.data(), floats.data() + R * d, ints.data()};
      return kernels.codes(args, begin * R, std::min(end * R, M), room);
    });
  });
  check(finite, op, "weight", "got NaN or infinity, wanted finite values");
  return codes;
}

}  // namespace
}  // namespace hashdl::ops

STABLE_TORCH_LIBRARY_IMPL(hashdl, CPU, m) {
  m.impl("sign_codes", TORCH_BOX(&hashdl::ops::sign_codes));
}
