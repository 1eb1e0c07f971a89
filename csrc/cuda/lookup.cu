#include "cuda/lookup.h"

#include "cpu/random.h"
#include "cuda/numbering.h"

namespace hashdl::cuda {
namespace {

using cpu::Lookup;

constexpr int kThreads = 256;

/// What a probe reads of a bucket: `read` of `size` rows from the `start`-th on, around its end.
struct Bucket {
  int64_t first;  ///< place of the bucket in (L, N)
  int32_t size, start, read;
};

__device__ Bucket locate(const Lookup& args, int64_t b, int64_t i, uint64_t of_step) {
  const int64_t p = i / args.L, l = i % args.L;
  const int32_t bucket = args.buckets[(b * args.L + l) * args.P + p];
  require(bucket >= -1 && bucket < args.width - 1,
          "hashdl::lookup: buckets: got a bucket outside -1 to 2^K - 1");
  if (bucket < 0) return {0, 0, 0, 0};
  const int32_t* offset = args.offsets + l * args.width + bucket;
  const int32_t first = offset[0], last = offset[1];
  require(first >= 0 && last >= first && last <= args.N,
          "hashdl::lookup: offsets: got a bucket that ends before it starts, or outside rows");
  Bucket found{l * args.N + first, last - first, 0, last - first};
  if (found.size > args.cap) {
    const uint64_t key = cpu::stream_key(of_step, bucket);
    found.start = static_cast<int32_t>(cpu::draw_below(key, l, found.size));
    found.read = static_cast<int32_t>(args.cap);
  }
  return found;
}

/// The last of the kThreads buckets that starts at `read` or before.
__device__ int bucket_of(const int64_t* starts, int64_t read) {
  int low = 0, high = kThreads;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (starts[middle] <= read ? low : high) = middle;
  }
  return low;
}

/// One sample: buckets kThreads at a time, their rows kThreads at a time.
__device__ void look_up(const Lookup& args, const Step& step, int64_t b, Numbering<kThreads>& found,
                        int32_t* hits) {
  static __shared__ Bucket buckets[kThreads];
  static __shared__ int64_t starts[kThreads];  // buckets of a whole block may have 2^31 rows
  const uint64_t of_step = cpu::step_key(args.seed, value_of(step));
  found.start(static_cast<int32_t>(args.C));
  for (int64_t c = threadIdx.x; c < args.C; c += kThreads) hits[c] = 0;
  for (int64_t first = 0; first < args.P * args.L; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const Bucket mine = i < args.P * args.L ? locate(args, b, i, of_step) : Bucket{};
    const auto reads = block_scan<kThreads, int64_t>(mine.read);
    buckets[threadIdx.x] = mine;
    starts[threadIdx.x] = reads.before;
    __syncthreads();
    for (int64_t tile = 0; tile < reads.total; tile += kThreads) {
      const int64_t read = tile + threadIdx.x;
      int32_t row = -1;
      if (read < reads.total) {
        const int k = bucket_of(starts, read);
        const Bucket bucket = buckets[k];
        const int64_t at = bucket.start + read - starts[k];
        row = args.rows[bucket.first + (at < bucket.size ? at : at - bucket.size)];
        require(row >= 0, "hashdl::lookup: rows: got a negative id");
      }
      const uint32_t number = found.add(row);
      if (number < args.C) atomicAdd(&hits[number], 1);
    }
    __syncthreads();
  }
}

__global__ void lookup_kernel(Lookup args, Step step, int64_t B, BlockMemory memory,
                              int64_t slots) {
  int32_t* const words = memory.mine();
  int32_t* const hits = words + map_words(slots);
  Numbering<kThreads> found(RowMap(words, slots));
  for (int64_t b = blockIdx.x; b < B; b += gridDim.x) {
    look_up(args, step, b, found, hits);
    int32_t* const candidates = args.candidates + b * args.C;
    for (int64_t slot = threadIdx.x; slot < slots; slot += kThreads) {
      const uint32_t number = found.map().number(slot);
      if (number < args.C) candidates[number] = found.map().row(slot);
    }
    for (int64_t c = threadIdx.x; c < args.C; c += kThreads) {
      args.hits[b * args.C + c] = hits[c];
      if (c >= found.count()) candidates[c] = -1;
    }
  }
}

}  // namespace

void lookup(const Lookup& args, int64_t B, const Step& step, Scratch& scratch, Stream stream) {
  const int64_t slots = Numbering<kThreads>::slots(args.C);
  const BlockMemory memory = BlockMemory::make(map_words(slots) + args.C, B, scratch);
  if (scratch.measuring()) return;
  launch(lookup_kernel, memory.blocks(B), kThreads, memory.shared_bytes(), stream, args, step, B,
         memory, slots);
}

}  // namespace hashdl::cuda
