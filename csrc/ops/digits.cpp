// Codes of digits: pack_digits, probe_digits and densified_projections.
#include "cpu/digits.h"

#include "cuda/digits.h"
#include "ops/probing.h"

namespace hashdl::ops {
namespace {

/// The number of codes in a row of slots.
int64_t check_digits(const Tensor& projections, int64_t bits, const char* op) {
  check_bits(bits, op);
  check_dtype(projections, ScalarType::Float, op, "projections");
  check_shape(projections, {-1, -1}, op, "projections");
  const int64_t slots = cpu::all_slots(bits), width = projections.size(1);
  check(width % slots == 0, op, "projections",
        "got shape " + shape_string(projections) + ", wanted (*, multiple of " +
            std::to_string(slots) + "), the slots of " + std::to_string(bits) + " bits");
  return width / slots;
}

Tensor pack_digits(const Tensor& projections, int64_t bits) {
  constexpr auto op = "pack_digits";
  const int64_t L = check_digits(projections, bits, op);
  const int64_t M = projections.size(0), width = projections.size(1);
  const Tensor source = as_contiguous(projections);
  const Tensor codes = empty(source, {M, L}, ScalarType::Int);
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      run_on_gpu(source, [&](cuda::Stream stream) {
        cuda::pack_digits({data<float>(source), mutable_data<int32_t>(codes), M * L, bits}, stream);
      });
      return codes;
    }
  }
  const bool finite = parallel_all(M, 64, [&](int64_t begin, int64_t end) {
    return cpu::pack_digits(data<float>(source) + begin * width, (end - begin) * L, bits,
                            mutable_data<int32_t>(codes) + begin * L);
  });
  check(finite, op, "projections", "got NaN or infinity, wanted finite values");
  return codes;
}

Tensor probe_digits(const Tensor& projections, int64_t bits, int64_t probes) {
  constexpr auto op = "probe_digits";
  const int64_t L = check_digits(projections, bits, op);
  const auto pack = [&](const float* values, int64_t count, int32_t* codes) {
    return cpu::pack_digits(values, count, bits, codes);
  };
  const auto on_gpu = [](const cuda::Probe& args, cuda::Scratch& scratch, cuda::Stream stream) {
    cuda::probe_digits(args, scratch, stream);
  };
  return probe<cpu::DigitSequence>(projections, L, cpu::all_slots(bits), bits, probes, op, pack,
                                   on_gpu);
}

/// Where each digit's slots end.
std::vector<int64_t> digit_ends(const int32_t* begins, int64_t C, const char* op) {
  std::vector<int64_t> ends;
  for (int64_t c = 0; c < C; ++c) {
    check(begins[c] == 1 || (begins[c] == 0 && c > 0), op, "functions",
          "got " + std::to_string(begins[c]) + " in column " + std::to_string(c) +
              " of the first row, wanted 1 where a digit begins, else 0");
    if (begins[c] == 1 && c > 0) ends.push_back(c);
  }
  if (C > 0) ends.push_back(C);
  return ends;
}

Tensor densified_projections(const Tensor& vectors, const Tensor& functions) {
  constexpr auto op = "densified_projections";
  check_dtype(vectors, ScalarType::Float, op, "vectors");
  check_shape(vectors, {-1, -1}, op, "vectors");
  check_dtype(functions, ScalarType::Int, op, "functions");
  check_shape(functions, {-1, -1}, op, "functions");
  const int64_t T = functions.size(0) - 1, C = functions.size(1);
  check(T >= 1, op, "functions",
        "got shape " + shape_string(functions) + ", wanted two rows or more");
  const int64_t M = vectors.size(0), D = vectors.size(1);
  const Tensor source = as_contiguous(vectors);
  Tensor all = as_contiguous(functions);
  check_one_device(op, {source, all});
  if constexpr (kCuda) {
    if (is_cuda(source)) {
      const Tensor projections = empty(source, {M, C}, ScalarType::Float);
      const int32_t* const begins = data<int32_t>(all);
      const cuda::Densify args{
          data<float>(source), begins, begins + C, mutable_data<float>(projections), M, D, T, C};
      run_with_scratch(source, [&](cuda::Scratch& scratch, cuda::Stream stream) {
        cuda::densify(args, scratch, stream);
      });
      return projections;
    }
  }
  const std::vector<int64_t> ends = digit_ends(data<int32_t>(all), C, op);
  const Tensor coordinates = torch::stable::narrow(all, 0, 1, T);
  check_rows(coordinates, 0, D, op, "functions");
  const Tensor projections = empty(source, {M, C}, ScalarType::Float);
  const cpu::Densified args{data<float>(source),
                            data<int32_t>(coordinates),
                            ends.data(),
                            mutable_data<float>(projections),
                            D,
                            T,
                            C,
                            static_cast<int64_t>(ends.size())};
  const bool finite = parallel_all(
      M, 16, [&](int64_t begin, int64_t end) { return cpu::densify(args, begin, end); });
  check(finite, op, "vectors", "got NaN or infinity, wanted finite values");
  return projections;
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) {
  m.impl("pack_digits", TORCH_BOX(&hashdl::ops::pack_digits));
  m.impl("probe_digits", TORCH_BOX(&hashdl::ops::probe_digits));
  m.impl("densified_projections", TORCH_BOX(&hashdl::ops::densified_projections));
}
