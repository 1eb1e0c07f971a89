// search: from queries to the largest outputs in one op, for a query has little time for many.
#include "cpu/projection.h"
#include "ops/find_best.h"
#include "ops/gather_linear.h"
#include "ops/probing.h"

namespace hashdl::ops {
namespace {

// Queries that are projected one by one: of more, a matrix product reads the functions once.
constexpr int64_t kFew = 4;

/// The float32 tensor whose bits a contiguous int32 one holds, which must outlive it.
Tensor float_of(const Tensor& bits) {
  std::vector<int64_t> sizes, strides;
  for (int64_t i = 0; i < bits.dim(); ++i) {
    sizes.push_back(bits.size(i));
    strides.push_back(bits.stride(i));
  }
  return torch::stable::from_blob(const_cast<void*>(bits.const_data_ptr()), sizes, strides,
                                  bits.device(), ScalarType::Float);
}

/// (x, 1) times functions (d + 1, F), which are the bits of float32.
Tensor project(const Tensor& x, const Tensor& functions) {
  const int64_t B = x.size(0), d = x.size(1), F = functions.size(1);
  if (is_cuda(x) || B > kFew) {
    Tensor planes = float_of(functions);
    const Tensor inputs = torch::stable::to(x, ScalarType::Float);
    const Tensor products = torch::stable::matmul(inputs, torch::stable::narrow(planes, 0, 0, d));
    return torch::stable::subtract(products, torch::stable::narrow(planes, 0, d, 1), -1.0);
  }
  const Tensor inputs = as_contiguous(x), projections = empty(x, {B, F}, ScalarType::Float);
  std::vector<int32_t> features(d);
  dispatch_floating(inputs, [&]<typename T>(T) {
    const cpu::Project<T> args{data<T>(inputs),
                               static_cast<const float*>(functions.const_data_ptr()),
                               mutable_data<float>(projections),
                               features.data(),
                               d,
                               F};
    cpu::projection_kernels<T>().project(args, 0, B);
  });
  return projections;
}

/// int32 (d + 1, *) beside the inputs.
Tensor checked_functions(const Tensor& functions, const Tensor& x, const char* op,
                         const char* argument) {
  check_dtype(functions, ScalarType::Int, op, argument);
  check_shape(functions, {x.size(1) + 1, -1}, op, argument);
  check_one_device(op, {x, functions});
  return as_contiguous(functions);
}

std::tuple<Tensor, Tensor> search(const Tensor& x, const Tensor& weight,
                                  const std::optional<Tensor>& bias, const Tensor& functions,
                                  const Tensor& offsets, const Tensor& table_rows,
                                  const std::optional<Tensor>& sketch_functions,
                                  const std::optional<Tensor>& sketches,
                                  const std::optional<Tensor>& norms, bool ordered,
                                  std::string probing, int64_t bits, int64_t probes, int64_t cap,
                                  int64_t candidates, int64_t active, int64_t k, int64_t seed,
                                  const Tensor& step) {
  constexpr auto op = "search";
  const bool columns = probing == "columns";
  check(columns || probing == "signs", op, "probing",
        [&] { return "got '" + probing + "', wanted 'columns' or 'signs'"; });
  check_bits(bits, op);
  check(probes >= 1, op, "probes",
        [&] { return "got " + std::to_string(probes) + ", wanted 1 or more"; });
  check_weight_and_input(x, weight, op);
  const Tensor of_tables = checked_functions(functions, x, op, "functions");
  const int64_t width = columns ? int64_t{1} << bits : bits, F = of_tables.size(1);
  check(F > 0 && F % width == 0, op, "functions", [&] {
    return "got shape " + shape_string(functions) + ", wanted columns for tables of " +
           std::to_string(width);
  });
  std::optional<Tensor> queries, lengths;
  std::optional<Tensor> lengths_bits;  // keeps alive what lengths views
  if (sketch_functions || sketches || norms) {
    check(sketch_functions && sketches && norms, op, "sketches",
          "got None, wanted sketch_functions, sketches and norms");
    queries = project(x, checked_functions(*sketch_functions, x, op, "sketch_functions"));
    check_dtype(*norms, ScalarType::Int, op, "norms");
    lengths_bits = as_contiguous(norms);
    lengths = float_of(*lengths_bits);
  }
  check(!ordered || (queries && table_rows.size(0) == 1 && !is_cuda(x)), op, "ordered",
        "got True, wanted False without sketches, for several tables and on a GPU");
  check(!ordered || table_rows.size(1) == weight.size(0), op, "ordered",
        "got True, wanted False for a table that lacks rows");
  const Tensor projections = project(x, of_tables);
  const Tensor buckets = columns ? best_columns(projections, F / width, probes, op)
                                 : probe_signs(projections, bits, probes, op);
  return find_best(op, buckets, offsets, table_rows, queries, sketches, lengths, x, weight, bias,
                   cap, candidates, active, k, seed, step, ordered);
}

}  // namespace
}  // namespace hashdl::ops

HASHDL_KERNELS(m) { m.impl("search", TORCH_BOX(&hashdl::ops::search)); }
