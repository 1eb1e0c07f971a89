// The largest outputs among what a look-up finds, for the ops that want them.
#pragma once

#include "ops/common.h"

namespace hashdl::ops {

/// See hashdl.ops.find_best, and for `ordered` hashdl.ops.search. `op` is named in errors.
std::tuple<Tensor, Tensor> find_best(const char* op, const Tensor& buckets, const Tensor& offsets,
                                     const Tensor& table_rows,
                                     const std::optional<Tensor>& sketch_queries,
                                     const std::optional<Tensor>& sketches,
                                     const std::optional<Tensor>& norms, const Tensor& x,
                                     const Tensor& weight, const std::optional<Tensor>& bias,
                                     int64_t cap, int64_t candidates, int64_t active, int64_t k,
                                     int64_t seed, const Tensor& step, bool ordered);

}  // namespace hashdl::ops
