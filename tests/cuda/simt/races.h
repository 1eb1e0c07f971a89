// What racecheck and initcheck would see: accesses of two threads to the same byte that nothing
// orders, at least one of which writes, and shared memory that is read before a thread of the block
// has written it. The kernels are compiled with -fsanitize=thread, whose calls at each access of
// memory end here instead of in the sanitizer's own library.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

enum class Access { kRead, kWrite, kAtomic };

/// Where a thread of the block that runs has come to.
struct Position {
  unsigned block, thread;
  unsigned barriers;  ///< of the block so far
  unsigned syncs;     ///< of the thread's warp so far
};

/// Forgets all accesses: those of a launch come after those of the ones before.
void forget_accesses();

/// Shared memory is that of another block from now on.
void forget_shared();

/// Notes an access, and ends the thread by fail() where another one is in its way.
void note_access(const void* at, size_t bytes, Access access, const Position& position);

// ---- by simt.cpp
// ---------------------------------------------------------------------------------

/// Notes an access of the thread that runs, if any, to memory other than its stack.
void access_memory(const void* at, size_t bytes, Access access);

/// Likewise of a number, or of several that are loaded or stored at once: a GPU has them on
/// boundaries of their size.
void access_number(const void* at, size_t bytes, Access access);

/// Ends the launch with an error, without returning to the thread.
[[noreturn]] void fail(const char* what);

}  // namespace simt
