// Checks of a linear layer, for the ops that compute some of its rows.
#pragma once

#include "cpu/gather_linear.h"
#include "ops/common.h"

namespace hashdl::ops {

/// weight (N, d) floating, x (B, d) of its dtype.
void check_weight_and_input(const Tensor& x, const Tensor& weight, const char* op);

/// (N,) of the weight's dtype, if there is one.
void check_bias(const std::optional<Tensor>& bias, const Tensor& weight, const char* op);

}  // namespace hashdl::ops
