#include "cuda/row_optimizers.h"

#include "cpu/adam_constants.h"
#include "cpu/random.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/numbers.h"

namespace hashdl::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void row_ids_kernel(RowIds args) {
  const int64_t u = thread_index();
  if (u >= args.U) return;
  const int64_t id = args.ids[u];
  require(id >> 31 == 0, "hashdl::row_ids: ids: got one outside 0 to 2^31 - 1");
  args.rows[u] = static_cast<int32_t>(id);
  volatile bool* const ascending = args.ascending;  // others store it too
  if (u > 0 && id <= args.ids[u - 1]) *ascending = false;
}

__device__ float root(float x) { return sqrtf(x); }
__device__ double root(double x) { return sqrt(x); }

/// A row is one warp's; or one thread's, where it is a single number (Lanes = 1).
template <int Lanes>
__device__ int64_t entry_index() {
  return thread_index() / Lanes;
}

/// The row of an entry, or -1: there is none, or it was the entry before.
template <typename T>
__device__ int64_t row_of(const cpu::RowUpdate<T>& update, int64_t u, int64_t U, int64_t N) {
  if (u >= U) return -1;
  const int32_t row = update.rows[u];
  require(row >= 0 && row < N, "hashdl: row optimizer: rows: got an id outside 0 to N - 1");
  return u > 0 && update.rows[u - 1] == row ? -1 : row;
}

/// body(k, w, g) for the lane's columns, V from k on: weight and gradient, L2 decay included.
template <int V, int Lanes, typename T, typename Body>
__device__ void for_columns(const cpu::RowUpdate<T>& update, int64_t u, int64_t row,
                            Accumulate<T> shrink, Accumulate<T> decay, const Body& body) {
  for (int64_t k = lane() % Lanes * V; k < update.d; k += Lanes * V) {
    Accumulate<T> w[V], g[V];
    load<V>(update.weight + row * update.d + k, w);
    load<V>(update.grad + u * update.d + k, g);
    for (int v = 0; v < V; ++v) {
      w[v] *= shrink;
      g[v] += decay * w[v];
    }
    body(k, w, g);
  }
}

/// Mean of the squares of one row's gradient, in every lane.
template <int V, typename T>
__device__ Accumulate<T> mean_square(const cpu::RowUpdate<T>& update, int64_t u, int64_t row,
                                     Accumulate<T> decay) {
  using A = Accumulate<T>;
  A sum = A(0);
  for_columns<V, kWarp>(update, u, row, A(1), decay, [&](int64_t, const A(&)[V], const A(&g)[V]) {
    for (int v = 0; v < V; ++v) sum += g[v] * g[v];
  });
  return warp_sum(sum) / static_cast<A>(update.d);
}

template <typename T, int V, int Lanes>
__global__ void __launch_bounds__(kThreads) sgd_kernel(cpu::SgdRows<T> args, int64_t U, int64_t N) {
  using A = Accumulate<T>;
  const cpu::RowUpdate<T>& up = args.update;
  const int64_t u = entry_index<Lanes>(), row = row_of(up, u, U, N);
  if (row < 0) return;
  const A lr = A(up.lr), momentum = A(args.momentum);
  for_columns<V, Lanes>(up, u, row, A(1), A(up.weight_decay), [&](int64_t k, A(&w)[V], A(&g)[V]) {
    if (args.momentum_buffer != nullptr) {
      A buffer[V];
      load_state<V>(args.momentum_buffer + row * up.d + k, buffer);
      for (int v = 0; v < V; ++v) {
        buffer[v] = momentum * buffer[v] + g[v];
        g[v] = args.nesterov ? g[v] + momentum * buffer[v] : buffer[v];
      }
      store_state<V>(buffer, args.momentum_buffer + row * up.d + k);
    }
    for (int v = 0; v < V; ++v) w[v] -= lr * g[v];
    store<V>(w, up.weight + row * up.d + k);
  });
}

template <typename T, int V, int Lanes>
__global__ void __launch_bounds__(kThreads)
    adagrad_kernel(cpu::AdagradRows<T> args, int64_t U, int64_t N) {
  using A = Accumulate<T>;
  const cpu::RowUpdate<T>& up = args.update;
  const int64_t u = entry_index<Lanes>(), row = row_of(up, u, U, N);
  if (row < 0) return;
  const A lr = A(up.lr), decay = A(up.weight_decay), eps = A(args.eps);
  A rate = A(0);
  if (Lanes > 1 && args.row_wise) {
    const A total = args.sum[row] + mean_square<V>(up, u, row, decay);
    __syncwarp();
    if (lane() == 0) args.sum[row] = total;
    rate = lr / (root(total) + eps);
  }
  for_columns<V, Lanes>(up, u, row, A(1), decay, [&](int64_t k, A(&w)[V], A(&g)[V]) {
    if (args.row_wise) {
      for (int v = 0; v < V; ++v) w[v] -= rate * g[v];
    } else {
      A sum[V];
      load_state<V>(args.sum + row * up.d + k, sum);
      for (int v = 0; v < V; ++v) {
        sum[v] += g[v] * g[v];
        w[v] -= lr * g[v] / (root(sum[v]) + eps);
      }
      store_state<V>(sum, args.sum + row * up.d + k);
    }
    store<V>(w, up.weight + row * up.d + k);
  });
}

/// States of Adam, V of them from column k on. As they are; or in bfloat16, rounded at random.
template <int V, typename A>
__device__ void load_averages(const A* from, A (&to)[V]) {
  load_state<V>(from, to);
}
template <int V, typename A>
__device__ void load_averages(const BFloat16* from, A (&to)[V]) {
  float wide[V];
  load_state<V>(from, wide);
  for (int v = 0; v < V; ++v) to[v] = static_cast<A>(wide[v]);
}

template <int V, typename A>
__device__ void store_averages(const A (&from)[V], A* to, uint64_t, int64_t, int) {
  store_state<V>(from, to);
}
/// `shift`: where in the bits of a column those of this state begin.
template <int V, typename A>
__device__ void store_averages(const A (&from)[V], BFloat16* to, uint64_t key, int64_t k,
                               int shift) {
  Pack<BFloat16, V> pack;
  for (int v = 0; v < V; ++v) {
    const uint32_t number = std::bit_cast<uint32_t>(static_cast<float>(from[v]));
    pack.set(v, {cpu::round_at_random(number, cpu::column_bits(key, k + v) >> shift)});
  }
  *reinterpret_cast<Pack<BFloat16, V>*>(to) = pack;
}

/// One thread: what follows from the number of a step that stands on the device.
template <typename T, typename S>
__global__ void adam_constants_kernel(cpu::AdamRows<T, S> args, const float* step,
                                      cpu::AdamConstants<Accumulate<T>>* out) {
  require(*step >= 1, "hashdl::adam_rows_: step: got a number below 1");
  args.step = static_cast<int64_t>(*step);
  *out = cpu::adam_constants(args);
}

/// Blocks of a multiprocessor that registers are to suffice for; 0: as the compiler sees fit, which
/// with half precision spills one.
template <typename T>
constexpr int kAdamBlocks = std::is_same_v<T, Half> ? 3 : 0;

/// `constants`, or what stands on the device, if anything.
template <typename T, typename S, int V, int Lanes>
__global__ void __launch_bounds__(kThreads, kAdamBlocks<T>)
    adam_kernel(cpu::AdamRows<T, S> args, cpu::AdamConstants<Accumulate<T>> constants,
                const cpu::AdamConstants<Accumulate<T>>* on_device, int64_t U, int64_t N) {
  using A = Accumulate<T>;
  const cpu::AdamConstants<A> c = on_device == nullptr ? constants : *on_device;
  const cpu::RowUpdate<T>& up = args.update;
  const int64_t u = entry_index<Lanes>(), row = row_of(up, u, U, N);
  if (row < 0) return;
  const uint64_t key = cpu::stream_key(args.seed, c.step, row);
  A rate = A(0);
  if (Lanes > 1 && args.row_square != nullptr) {
    const A mean = c.rest2 * mean_square<V>(up, u, row, c.decay);
    const A total = c.beta2 * args.row_square[row] + mean;
    __syncwarp();
    if (lane() == 0) args.row_square[row] = total;
    rate = c.step_size / (root(total) * c.correction + c.eps);
  }
  for_columns<V, Lanes>(up, u, row, c.shrink, c.decay, [&](int64_t k, A(&w)[V], A(&g)[V]) {
    A m[V];
    load_averages<V>(args.exp_avg + row * up.d + k, m);
    for (int v = 0; v < V; ++v) m[v] += c.rest1 * (g[v] - m[v]);
    store_averages<V>(m, args.exp_avg + row * up.d + k, key, k, 0);
    if (args.row_square != nullptr) {
      for (int v = 0; v < V; ++v) w[v] -= rate * m[v];
    } else {
      A square[V];
      load_averages<V>(args.exp_avg_sq + row * up.d + k, square);
      for (int v = 0; v < V; ++v) {
        square[v] = c.beta2 * square[v] + c.rest2 * g[v] * g[v];
        w[v] -= c.step_size * m[v] / (root(square[v]) * c.correction + c.eps);
      }
      store_averages<V>(square, args.exp_avg_sq + row * up.d + k, key, k, 16);
    }
    store<V>(w, up.weight + row * up.d + k);
  });
}

/// Blocks for so many entries.
template <int Lanes>
int64_t entry_blocks(int64_t U) {
  return blocks_for(U, kThreads / Lanes);
}

/// body.template operator()<V, Lanes>(), for rows of d numbers that stand at `rows`.
template <typename T, typename Body, typename... Pointers>
void with_shape(int64_t d, bool row_wise, const Body& body, const Pointers*... rows) {
  if (d == 1 && !row_wise) {
    body.template operator()<1, 1>();
  } else {
    with_width<T>(d, [&]<int V>() { body.template operator()<V, kWarp>(); }, rows...);
  }
}

}  // namespace

void row_ids(const RowIds& args, Stream stream) {
  fill_bytes(args.ascending, 1, 1, stream);
  launch(row_ids_kernel, blocks_for(args.U, kThreads), kThreads, 0, stream, args);
}

template <typename T>
void sgd_rows(const cpu::SgdRows<T>& args, int64_t U, int64_t N, Stream stream) {
  const auto run = [&]<int V, int Lanes>() {
    launch(sgd_kernel<T, V, Lanes>, entry_blocks<Lanes>(U), kThreads, 0, stream, args, U, N);
  };
  with_shape<T>(args.update.d, false, run, args.update.weight, args.update.grad,
                args.momentum_buffer);
}

template <typename T>
void adagrad_rows(const cpu::AdagradRows<T>& args, int64_t U, int64_t N, Stream stream) {
  const auto run = [&]<int V, int Lanes>() {
    launch(adagrad_kernel<T, V, Lanes>, entry_blocks<Lanes>(U), kThreads, 0, stream, args, U, N);
  };
  with_shape<T>(args.update.d, args.row_wise, run, args.update.weight, args.update.grad, args.sum);
}

template <typename T, typename S>
void adam_rows(const cpu::AdamRows<T, S>& args, const float* step, int64_t U, int64_t N,
               Scratch& scratch, Stream stream) {
  using Constants = cpu::AdamConstants<Accumulate<T>>;
  Constants* const on_device = step == nullptr ? nullptr : scratch.take<Constants>(1);
  if (scratch.measuring()) return;
  if (step != nullptr) launch(adam_constants_kernel<T, S>, 1, 1, 0, stream, args, step, on_device);
  const Constants constants = cpu::adam_constants(args);
  const auto run = [&]<int V, int Lanes>() {
    launch(adam_kernel<T, S, V, Lanes>, entry_blocks<Lanes>(U), kThreads, 0, stream, args,
           constants, on_device, U, N);
  };
  with_shape<T>(args.update.d, args.row_square != nullptr, run, args.update.weight,
                args.update.grad, args.exp_avg, args.exp_avg_sq);
}

#define HASHDL_ADAM(T, S)                                                                   \
  template void adam_rows<T, S>(const cpu::AdamRows<T, S>&, const float*, int64_t, int64_t, \
                                Scratch&, Stream);
#define HASHDL_INSTANTIATE(T)                                                          \
  template void sgd_rows<T>(const cpu::SgdRows<T>&, int64_t, int64_t, Stream);         \
  template void adagrad_rows<T>(const cpu::AdagradRows<T>&, int64_t, int64_t, Stream); \
  HASHDL_ADAM(T, Accumulate<T>)                                                        \
  HASHDL_ADAM(T, BFloat16)
HASHDL_INSTANTIATE(float)
HASHDL_INSTANTIATE(double)
HASHDL_INSTANTIATE(BFloat16)
HASHDL_INSTANTIATE(Half)
#undef HASHDL_INSTANTIATE
#undef HASHDL_ADAM

}  // namespace hashdl::cuda
