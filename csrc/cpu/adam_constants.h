// The scalars of one step of Adam.
#pragma once

#include "cpu/dtypes.h"
#include "cpu/host_device.h"
#include "cpu/row_optimizers.h"

namespace hashdl::cpu {

template <typename A>
struct AdamConstants {
  A rest1, beta2, rest2, eps, decay, shrink, step_size, correction;  ///< rest: 1 - beta
  int64_t step;
};

/// Computed in double as torch does: 1 - beta and 1 - beta^t cancel in float. Always inlined: a
/// function that instruction sets shared could be linked with instructions that the machine lacks.
template <typename T, typename S>
HASHDL_HOST_DEVICE __attribute__((always_inline)) inline AdamConstants<Accumulate<T>>
adam_constants(const AdamRows<T, S>& args) {
  using A = Accumulate<T>;
  const double t = static_cast<double>(args.step);
  const double correction1 = 1 - __builtin_pow(args.beta1, t);
  const double correction2 = 1 - __builtin_pow(args.beta2, t);
  const double lr = args.update.lr, decay = args.update.weight_decay;
  return {A(1 - args.beta1),
          A(args.beta2),
          A(1 - args.beta2),
          A(args.eps),
          A(args.decoupled ? 0 : decay),
          A(args.decoupled ? 1 - lr * decay : 1),
          A(lr / correction1),
          A(1 / __builtin_sqrt(correction2)),
          args.step};
}

}  // namespace hashdl::cpu
