// Direct reads and writes of a file, at a size and a queue depth: what a disk does without the page cache.
#pragma once
#include <cstdint>
#include <vector>

namespace trimtab {

struct DiskRun {
  double seconds;                  // from the first operation's start to the last one's end
  int64_t operations;
  std::vector<float> latencies_s;  // of each operation
};

// `depth` threads transfer pieces of `size` bytes at random multiples of `size` inside [0, span) of an open file, until
// `seconds` are over or `most_bytes` are through. The buffers are aligned to 4096 bytes and hold random data, which
// no disk compresses. Throws std::system_error when the system refuses an operation.
//
// Threads with plain pread and pwrite give the same queue depth as an asynchronous interface, work on every
// file system and in containers that forbid io_uring, and are how weights and pages are read when it matters.
DiskRun disk_run(int file, bool write, int64_t size, int depth, int64_t span, double seconds, int64_t most_bytes,
                 uint64_t seed);

}  // namespace trimtab
