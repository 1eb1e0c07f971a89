#include <ucontext.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "races.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace hashdl::cuda {
constexpr size_t kMostShared = 88 * 1024;
constexpr size_t kGuard = 64;
__align__(16) unsigned char hashdl_dynamic_shared[kMostShared + kGuard];
}  // namespace hashdl::cuda

namespace simt {
namespace {

using hashdl::cuda::hashdl_dynamic_shared;
using hashdl::cuda::kGuard;

constexpr size_t kStack = 64 * 1024;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned char kGarbage = 0xa5;  // what memory holds before a kernel writes it

/// Threads that wait for each other: the count of meetings so far tells whether one has happened.
struct Meeting {
  unsigned count = 0;
  unsigned arrived = 0;
};

struct Warp {
  Meeting meeting;
  uint64_t words[2][kWarp];  // of this meeting and of the last one, which may still be read
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
  const Meeting* waits_for = nullptr;
  unsigned seen = 0;   ///< waits_for->count when it began to wait
  unsigned syncs = 0;  ///< calls of __syncwarp, which alone orders what lanes do to memory
  bool done = false;

  bool ready() const { return !done && (waits_for == nullptr || waits_for->count != seen); }
};

/// The block that runs.
struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;  ///< kept from launch to launch
  std::vector<Warp> warps;
  Meeting barrier;
  unsigned threads = 0, alive = 0, current = 0;
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  bool running = false;  ///< a thread does, not the scheduler or a launcher
};
Block block;

/// 0: threads and blocks in their order; else in a random one, of this seed.
unsigned order_seed = 0;

void fiber_main() {
  try {
    (*block.body)();
  } catch (...) {
    if (!block.error) block.error = std::current_exception();
  }
  block.fibers[block.current]->done = true;
  --block.alive;
  // Those at the barrier need not wait for this thread.
  if (block.alive > 0 && block.barrier.arrived == block.alive) {
    block.barrier.arrived = 0;
    ++block.barrier.count;
  }
  swapcontext(&block.fibers[block.current]->context, &block.scheduler);
}

void meet(Meeting& meeting, unsigned all) {
  Fiber& fiber = *block.fibers[block.current];
  if (++meeting.arrived == all) {
    meeting.arrived = 0;
    ++meeting.count;
    return;
  }
  fiber.waits_for = &meeting;
  fiber.seen = meeting.count;
  swapcontext(&fiber.context, &block.scheduler);
  fiber.waits_for = nullptr;
}

std::vector<unsigned> order_of(unsigned count, unsigned salt) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (order_seed > 0) {
    std::minstd_rand generator(order_seed + salt);
    std::shuffle(order.begin(), order.end(), generator);
  }
  return order;
}

void start_fibers() {
  while (block.fibers.size() < block.threads) block.fibers.push_back(std::make_unique<Fiber>());
  for (unsigned t = 0; t < block.threads; ++t) {
    Fiber& fiber = *block.fibers[t];
    fiber.done = false;
    fiber.waits_for = nullptr;
    fiber.syncs = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

void run_block() {
  block.warps.assign((block.threads + kWarp - 1) / kWarp, Warp{});
  block.barrier = {};
  block.alive = block.threads;
  block.error = nullptr;
  start_fibers();
  forget_shared();
  for (unsigned round = blockIdx.x; block.alive > 0 && !block.error; ++round) {
    bool progress = false;
    for (unsigned t : order_of(block.threads, round)) {
      if (!block.fibers[t]->ready()) continue;
      progress = true;
      block.current = t;
      threadIdx = dim3(t);
      block.running = true;
      swapcontext(&block.scheduler, &block.fibers[t]->context);
      block.running = false;
      if (block.error) break;
    }
    if (!progress) throw std::runtime_error("simt: threads wait for others that never come");
  }
  if (block.error) std::rethrow_exception(block.error);
}

}  // namespace

void access_memory(const void* at, size_t bytes, Access access) {
  if (!block.running || order_seed == 0) return;
  const Fiber& fiber = *block.fibers[block.current];
  const auto* const byte = static_cast<const char*>(at);
  const char* const stack = fiber.stack.get();
  if (byte >= stack && byte < stack + kStack) return;
  for (const dim3* index : {&threadIdx, &blockIdx, &blockDim, &gridDim}) {
    if (byte >= reinterpret_cast<const char*>(index) &&
        byte < reinterpret_cast<const char*>(index + 1)) {
      return;
    }
  }
  note_access(at, bytes, access, {blockIdx.x, block.current, block.barrier.count, fiber.syncs});
}

void access_number(const void* at, size_t bytes, Access access) {
  if (block.running && reinterpret_cast<uintptr_t>(at) % bytes != 0) {
    fail("simt: a number or several stand off the boundary of their size");
  }
  access_memory(at, bytes, access);
}

void fail(const char* what) {
  block.error = std::make_exception_ptr(std::runtime_error(what));
  swapcontext(&block.fibers[block.current]->context, &block.scheduler);
  std::terminate();
}

void refuse(const char* what) { throw std::runtime_error(what); }

void block_barrier() { meet(block.barrier, block.alive); }

const uint64_t* exchange(unsigned mask, uint64_t word) {
  if (mask != 0xffffffffu) refuse("simt: only whole warps may shuffle and vote");
  Warp& warp = block.warps[block.current / kWarp];
  uint64_t* const words = warp.words[warp.meeting.count & 1];
  words[block.current % kWarp] = word;
  meet(warp.meeting, kWarp);
  return words;
}

void warp_barrier() {
  exchange(0xffffffffu, 0);
  ++block.fibers[block.current]->syncs;
}

void run_grid(unsigned blocks, unsigned threads, size_t shared, const std::function<void()>& body) {
  if (threads == 0 || threads > kMostThreads) refuse("simt: a block has 1 to 1024 threads");
  if (blocks == 0) refuse("simt: a launch needs a block");
  if (shared > hashdl::cuda::kMostShared) refuse("simt: more shared memory than a block may have");
  forget_accesses();
  blockDim = dim3(threads);
  gridDim = dim3(blocks);
  block.threads = threads;
  block.body = &body;
  unsigned char* const memory = hashdl_dynamic_shared;
  for (unsigned b : order_of(blocks, 0)) {
    std::fill(memory, memory + shared + kGuard, kGarbage);
    blockIdx = dim3(b);
    run_block();
    const bool intact = std::all_of(memory + shared, memory + shared + kGuard,
                                    [](unsigned char byte) { return byte == kGarbage; });
    if (!intact) refuse("simt: a block wrote beyond its dynamic shared memory");
  }
}

}  // namespace simt

extern "C" __attribute__((visibility("default"))) void simt_set_order(unsigned seed) {
  simt::order_seed = seed;
}
