#include "cpu/row_optimizers.h"

#include "cpu/adam_constants.h"
#include "cpu/random.h"
#include "cpu/vec.h"

namespace hashdl::cpu::HASHDL_SIMD_LEVEL {
namespace {

HASHDL_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
HASHDL_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// Rows ahead that are asked for: a row's weight and state lie in different places of memory.
constexpr int64_t kAhead = 4;

template <typename T>
HASHDL_INLINE void prefetch_state(const T* state, const int32_t* rows, int64_t u, int64_t end,
                                  int64_t d) {
  if (state != nullptr && u + kAhead < end) {
    prefetch_row(state + static_cast<int64_t>(rows[u + kAhead]) * d, d);
  }
}

/// Gradients lie one after the other, which the hardware does not see among rows here and there.
template <typename T>
HASHDL_INLINE void prefetch_update(const RowUpdate<T>& up, int64_t u, int64_t end) {
  if (u + kAhead < end) prefetch_row(up.grad + (u + kAhead) * up.d, up.d);
  prefetch_state(up.weight, up.rows, u, end, up.d);
}

/// Whether an entry is padding: its row is that of the entry before it.
HASHDL_INLINE bool repeats(const int32_t* rows, int64_t u) {
  return u > 0 && rows[u - 1] == rows[u];
}

/// Mean of the squares of one row's gradient, weight decay included.
template <typename T>
HASHDL_INLINE Accumulate<T> mean_square(const T* grad, const T* weight, int64_t d,
                                        Accumulate<T> decay) {
  using A = Accumulate<T>;
  A sum = 0;
  for (int64_t k = 0; k < d; ++k) {
    const A g = A(load1(grad + k)) + decay * A(load1(weight + k));
    sum += g * g;
  }
  return sum / A(d);
}

template <typename T>
void sgd(const SgdRows<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const RowUpdate<T>& up = args.update;
  const A lr = A(up.lr), decay = A(up.weight_decay), momentum = A(args.momentum);
  for (int64_t u = begin; u < end; ++u) {
    if (repeats(up.rows, u)) continue;
    prefetch_update(up, u, end);
    prefetch_state(args.momentum_buffer, up.rows, u, end, up.d);
    const int64_t row = static_cast<int64_t>(up.rows[u]) * up.d;
    T* w = up.weight + row;
    const T* grad = up.grad + u * up.d;
    A* buffer = args.momentum_buffer == nullptr ? nullptr : args.momentum_buffer + row;
    for (int64_t k = 0; k < up.d; ++k) {
      const A wk = load1(w + k);
      A g = A(load1(grad + k)) + decay * wk;
      if (buffer != nullptr) {
        buffer[k] = momentum * buffer[k] + g;
        g = args.nesterov ? g + momentum * buffer[k] : buffer[k];
      }
      store1(w + k, wk - lr * g);
    }
  }
}

template <typename T>
void adagrad(const AdagradRows<T>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const RowUpdate<T>& up = args.update;
  const A lr = A(up.lr), decay = A(up.weight_decay), eps = A(args.eps);
  for (int64_t u = begin; u < end; ++u) {
    if (repeats(up.rows, u)) continue;
    prefetch_update(up, u, end);
    prefetch_state(args.sum, up.rows, u, end, args.row_wise ? 1 : up.d);
    const int64_t row = up.rows[u];
    T* w = up.weight + row * up.d;
    const T* grad = up.grad + u * up.d;
    if (args.row_wise) {
      args.sum[row] += mean_square(grad, w, up.d, decay);
      const A rate = lr / (square_root(args.sum[row]) + eps);
      for (int64_t k = 0; k < up.d; ++k) {
        const A wk = load1(w + k);
        store1(w + k, wk - rate * (A(load1(grad + k)) + decay * wk));
      }
    } else {
      A* sum = args.sum + row * up.d;
      for (int64_t k = 0; k < up.d; ++k) {
        const A wk = load1(w + k);
        const A g = A(load1(grad + k)) + decay * wk;
        sum[k] += g * g;
        store1(w + k, wk - lr * g / (square_root(sum[k]) + eps));
      }
    }
  }
}

template <typename T>
HASHDL_INLINE void adam_full_row(const AdamConstants<Accumulate<T>>& c, T* __restrict w,
                                 const T* __restrict grad, Accumulate<T>* __restrict m,
                                 Accumulate<T>* __restrict v, int64_t d) {
  using A = Accumulate<T>;
  for (int64_t k = 0; k < d; ++k) {
    const A wk = A(load1(w + k)) * c.shrink;
    const A g = A(load1(grad + k)) + c.decay * wk;
    m[k] += c.rest1 * (g - m[k]);
    v[k] = c.beta2 * v[k] + c.rest2 * g * g;
    store1(w + k, wk - c.step_size * m[k] / (square_root(v[k]) * c.correction + c.eps));
  }
}

/// With one second moment for the row, whose root is in the rate.
template <typename T>
HASHDL_INLINE void adam_row_wise(const AdamConstants<Accumulate<T>>& c, Accumulate<T> rate,
                                 T* __restrict w, const T* __restrict grad,
                                 Accumulate<T>* __restrict m, int64_t d) {
  using A = Accumulate<T>;
  for (int64_t k = 0; k < d; ++k) {
    const A wk = A(load1(w + k)) * c.shrink;
    const A g = A(load1(grad + k)) + c.decay * wk;
    m[k] += c.rest1 * (g - m[k]);
    store1(w + k, wk - rate * m[k]);
  }
}

HASHDL_INLINE void store_state(float* p, float value, uint32_t) { *p = value; }
HASHDL_INLINE void store_state(double* p, double value, uint32_t) { *p = value; }
HASHDL_INLINE void store_state(BFloat16* p, float value, uint32_t bits) {
  p->bits = round_at_random(bit_copy<uint32_t>(value), bits);
}

/// body(first, count, m, v): a row's states, as numbers to update in place, and which columns they
/// belong to; `v` may be null.
template <typename A, typename Body>
HASHDL_INLINE void update_states(A* m, A* v, int64_t d, uint64_t, const Body& body) {
  body(0, d, m, v);
}

/// Those in bfloat16 are widened for it some columns at a time, and rounded after.
template <typename A, typename Body>
HASHDL_INLINE void update_states(BFloat16* m, BFloat16* v, int64_t d, uint64_t key,
                                 const Body& body) {
  constexpr int64_t kBlock = 64;
  A wide_m[kBlock], wide_v[kBlock];
  uint64_t draws[kBlock / 2];
  uint32_t bits[kBlock];
  for (int64_t first = 0; first < d; first += kBlock) {
    const int64_t count = d - first < kBlock ? d - first : kBlock;
    for (int64_t i = 0; i < count; ++i) wide_m[i] = load1(m + first + i);
    if (v != nullptr) {
      for (int64_t i = 0; i < count; ++i) wide_v[i] = load1(v + first + i);
    }
    body(first, count, wide_m, wide_v);
    for (int64_t i = 0; i < kBlock / 2; ++i) draws[i] = column_draw(key, first / 2 + i);
    std::memcpy(bits, draws, sizeof(bits));  // column_bits, where the lower half comes first
    for (int64_t i = 0; i < count; ++i) store_state(m + first + i, wide_m[i], bits[i]);
    if (v != nullptr) {
      for (int64_t i = 0; i < count; ++i) store_state(v + first + i, wide_v[i], bits[i] >> 16);
    }
  }
}

/// Rows of one element, as biases are: gathered to be updated a few vectors at a time.
template <typename T, typename S>
HASHDL_INLINE void adam_elements(const AdamConstants<Accumulate<T>>& c, const AdamRows<T, S>& args,
                                 int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 32;
  const RowUpdate<T>& up = args.update;
  T w[kBlock] = {}, grad[kBlock] = {};
  Accumulate<T> m[kBlock] = {}, v[kBlock] = {};
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = end - first < kBlock ? end - first : kBlock;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t u = first + i, row = up.rows[u];
      if (repeats(up.rows, u)) continue;
      w[i] = up.weight[row];
      grad[i] = up.grad[u];
      m[i] = load1(args.exp_avg + row);
      v[i] = load1(args.exp_avg_sq + row);
    }
    adam_full_row(c, w, grad, m, v, kBlock);  // all of it: the same code wherever ranges end
    for (int64_t i = 0; i < count; ++i) {
      const int64_t u = first + i, row = up.rows[u];
      if (repeats(up.rows, u)) continue;
      up.weight[row] = w[i];
      const uint32_t bits = column_bits(stream_key(args.seed, args.step, row), 0);
      store_state(args.exp_avg + row, m[i], bits);
      store_state(args.exp_avg_sq + row, v[i], bits >> 16);
    }
  }
}

template <typename T, typename S>
void adam(const AdamRows<T, S>& args, int64_t begin, int64_t end) {
  using A = Accumulate<T>;
  const RowUpdate<T>& up = args.update;
  const AdamConstants<A> c = adam_constants(args);
  const bool row_wise = args.row_square != nullptr;
  if (up.d == 1 && !row_wise) return adam_elements(c, args, begin, end);
  for (int64_t u = begin; u < end; ++u) {
    if (repeats(up.rows, u)) continue;
    prefetch_update(up, u, end);
    prefetch_state(args.exp_avg, up.rows, u, end, up.d);
    prefetch_state(args.exp_avg_sq, up.rows, u, end, up.d);
    prefetch_state(args.row_square, up.rows, u, end, 1);
    const int64_t row = up.rows[u];
    T* w = up.weight + row * up.d;
    const T* grad = up.grad + u * up.d;
    S* m = args.exp_avg + row * up.d;
    S* v = row_wise ? nullptr : args.exp_avg_sq + row * up.d;
    const uint64_t key = stream_key(args.seed, args.step, row);
    A rate = 0;
    if (row_wise) {
      A& square = args.row_square[row];
      square = c.beta2 * square + c.rest2 * mean_square(grad, w, up.d, c.decay);
      rate = c.step_size / (square_root(square) * c.correction + c.eps);
    }
    update_states<A>(m, v, up.d, key, [&](int64_t first, int64_t count, A* wide_m, A* wide_v) {
      if (row_wise) {
        adam_row_wise(c, rate, w + first, grad + first, wide_m, count);
      } else {
        adam_full_row(c, w + first, grad + first, wide_m, wide_v, count);
      }
    });
  }
}

}  // namespace

template <typename T>
const RowOptimizerKernels<T>& row_optimizer_kernels() {
  static constexpr RowOptimizerKernels<T> kernels{sgd<T>, adagrad<T>, adam<T, Accumulate<T>>,
                                                  adam<T, BFloat16>};
  return kernels;
}

template const RowOptimizerKernels<float>& row_optimizer_kernels<float>();
template const RowOptimizerKernels<double>& row_optimizer_kernels<double>();
template const RowOptimizerKernels<BFloat16>& row_optimizer_kernels<BFloat16>();
template const RowOptimizerKernels<Half>& row_optimizer_kernels<Half>();

}  // namespace hashdl::cpu::HASHDL_SIMD_LEVEL
