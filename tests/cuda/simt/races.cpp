#include "races.h"

#include <link.h>

#include <algorithm>
#include <array>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace simt {
namespace {

/// Accesses of a warp between two meetings of its own.
struct WarpAccess {
  unsigned block, barriers, warp, syncs;
  uint32_t lanes;

  bool unordered(const Position& now) const {
    if (block != now.block) return true;  // blocks run at once
    if (barriers != now.barriers) return false;
    if (warp != now.thread / 32) return true;
    return syncs == now.syncs && (lanes & ~(1u << now.thread % 32)) != 0;
  }
};

/// Accesses of one kind to one word, but for those that others stand for: later ones of the block
/// that runs, and one of all other blocks.
class Accesses {
 public:
  bool unordered(const Position& now) const {
    return std::any_of(all_.begin(), all_.end(),
                       [&](const WarpAccess& access) { return access.unordered(now); });
  }

  void add(const Position& now) {
    const unsigned warp = now.thread / 32, lane = 1u << now.thread % 32;
    for (WarpAccess& access : all_) {
      const bool same = access.block == now.block && access.barriers == now.barriers;
      if (!same || access.warp != warp) continue;
      access.lanes = access.syncs == now.syncs ? access.lanes | lane : lane;
      access.syncs = now.syncs;
      return;
    }
    bool other = false;
    std::erase_if(all_, [&](const WarpAccess& access) {
      if (access.block == now.block) return access.barriers != now.barriers;
      return std::exchange(other, true);
    });
    all_.push_back({now.block, now.barriers, warp, now.syncs, lane});
  }

  void clear() { all_.clear(); }

 private:
  std::vector<WarpAccess> all_;
};

struct Word {
  unsigned era = 0;  ///< when the rest was written: see Memory
  bool written = false;
  Accesses reads, writes, atomics;
};

constexpr uintptr_t kWordBytes = 2;  // of the smallest number that more than one thread writes

/// Words by address. What is older than `era` counts as forgotten.
class Memory {
 public:
  void forget() { ++era_; }

  Word& at(uintptr_t address) {
    const uintptr_t line = address / kLineBytes;
    if (line != last_ || words_ == nullptr) find(line);
    Word& word = (*words_)[address % kLineBytes / kWordBytes];
    if (word.era != era_) {
      word.era = era_;
      word.written = false;
      for (Accesses* accesses : {&word.reads, &word.writes, &word.atomics}) accesses->clear();
    }
    return word;
  }

 private:
  static constexpr uintptr_t kLineBytes = 64;
  // Beyond these all is forgotten, as what most blocks of a launch had to themselves.
  static constexpr size_t kMostLines = 50'000;
  using Line = std::array<Word, kLineBytes / kWordBytes>;

  void find(uintptr_t line) {
    if (lines_.size() >= kMostLines && !lines_.contains(line)) lines_.clear();
    auto& words = lines_[line];
    if (!words) words = std::make_unique<Line>();
    last_ = line;
    words_ = words.get();
  }

  unsigned era_ = 1;
  uintptr_t last_ = 0;
  Line* words_ = nullptr;
  std::unordered_map<uintptr_t, std::unique_ptr<Line>> lines_;
};

// Accesses that are noted in one launch: later blocks do what the first ones did.
constexpr int kMostNoted = 1'000'000;

int noted = 0;
Memory global_memory, shared_memory;

/// Where variables of this library stand: those of kernels are in shared memory.
struct Variables {
  uintptr_t begin = 0, end = 0;

  Variables() {
    dl_iterate_phdr(
        [](dl_phdr_info* library, size_t, void* found) {
          for (int i = 0; i < library->dlpi_phnum; ++i) {
            const ElfW(Phdr) & segment = library->dlpi_phdr[i];
            const uintptr_t begin = library->dlpi_addr + segment.p_vaddr;
            const uintptr_t end = begin + segment.p_memsz;
            const auto here = reinterpret_cast<uintptr_t>(&global_memory);
            if (segment.p_type != PT_LOAD || here < begin || here >= end) continue;
            *static_cast<Variables*>(found) = Variables(begin, end);
            return 1;
          }
          return 0;
        },
        this);
  }
  Variables(uintptr_t begin_, uintptr_t end_) : begin(begin_), end(end_) {}
};

bool is_shared(uintptr_t address) {
  static const Variables variables;
  return address >= variables.begin && address < variables.end;
}

/// The accesses that an access of this kind must not meet.
bool meets_another(const Word& word, Access access, const Position& position) {
  if (word.writes.unordered(position)) return true;
  if (access != Access::kRead && word.reads.unordered(position)) return true;
  return access != Access::kAtomic && word.atomics.unordered(position);
}

}  // namespace

void forget_accesses() {
  global_memory.forget();
  noted = 0;
}
void forget_shared() { shared_memory.forget(); }

void note_access(const void* at, size_t bytes, Access access, const Position& position) {
  if (++noted > kMostNoted) return;
  const auto first = reinterpret_cast<uintptr_t>(at);
  const bool shared = is_shared(first);
  for (uintptr_t address = first; address < first + bytes; address += kWordBytes) {
    Word& word = (shared ? shared_memory : global_memory).at(address);
    if (shared && access != Access::kWrite && !word.written) {
      fail("simt: shared memory is read that no thread of the block has written");
    }
    if (meets_another(word, access, position)) {
      fail(shared ? "simt: race: nothing orders two accesses to shared memory"
                  : "simt: race: nothing orders two accesses to global memory");
    }
    word.written = true;
    Accesses& accesses = access == Access::kRead    ? word.reads
                         : access == Access::kWrite ? word.writes
                                                    : word.atomics;
    accesses.add(position);
  }
}

}  // namespace simt

// ---- what -fsanitize=thread calls
// ----------------------------------------------------------------

#define SIMT_ACCESSES(bytes)                                                                   \
  void __tsan_read##bytes(void* at) { simt::access_number(at, bytes, simt::Access::kRead); }   \
  void __tsan_write##bytes(void* at) { simt::access_number(at, bytes, simt::Access::kWrite); } \
  /* Volatile: as atomics, for what several threads may store at once. */                      \
  void __tsan_volatile_read##bytes(void* at) {                                                 \
    simt::access_number(at, bytes, simt::Access::kAtomic);                                     \
  }                                                                                            \
  void __tsan_volatile_write##bytes(void* at) {                                                \
    simt::access_number(at, bytes, simt::Access::kAtomic);                                     \
  }

extern "C" {
SIMT_ACCESSES(1)
SIMT_ACCESSES(2)
SIMT_ACCESSES(4)
SIMT_ACCESSES(8)
SIMT_ACCESSES(16)
void __tsan_read_range(void* at, size_t bytes) {
  simt::access_memory(at, bytes, simt::Access::kRead);
}
void __tsan_write_range(void* at, size_t bytes) {
  simt::access_memory(at, bytes, simt::Access::kWrite);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
