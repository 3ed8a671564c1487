// STREAM over the execution layer (arXiv 2206.06302): bandwidth of memory and caches as the engine's kernels see it.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "exec/allocator.h"
#include "exec/block.h"
#include "exec/fork_join.h"
#include "exec/serial.h"
#include "kernels.h"
#include "stream/pass.h"

namespace trimtab {

// Where loops run and who touches memory first:
//   serial     one thread does both
//   parallel   loops on fork-join threads, memory touched by one thread: what careless code does
//   fork-join  loops and first touch on the same fork-join threads
//   block      loops and first touch on the same block executor, one block a NUMA domain
class StreamPlace {
 public:
  // Throws std::invalid_argument for another name. `targets` stand for this machine's own, in `block`, and in
  // `parallel`, whose loops then run on a block executor.
  StreamPlace(const std::string& executor, int threads, bool pin, std::vector<exec::Target> targets = {});

  exec::AnyExecutor loops() { return *loops_; }
  exec::AnyExecutor first_touch() { return *touch_; }
  // Runs `work` in the calling thread, which is tied to its processor meanwhile.
  template <class Work>
  void with_caller(const Work& work) {
    std::optional<exec::PinnedHere> pin;
    if (caller_cpu_ >= 0) pin.emplace(caller_cpu_);
    caller_pinned_ = pin && pin->pinned();
    work();
  }
  // Whether the system let every thread be tied to its processor, the caller in its last work.
  bool all_pinned() const;
  int threads() const { return loops_->parts(); }
  int targets() const { return block_ ? block_->targets() : 1; }
  exec::Block* block() const { return block_.get(); }

 private:
  exec::Serial serial_;
  std::unique_ptr<exec::ForkJoin> fork_join_;
  std::unique_ptr<exec::Block> block_;
  std::unique_ptr<exec::AnyExecutor> loops_, touch_;
  int caller_cpu_ = -1;
  bool caller_pinned_ = false;
};

// Seconds of every pass of a trial, by position in the list of patterns.
struct StreamTimes { std::vector<std::vector<double>> seconds; };

struct StreamData;  // arrays of one number type

class Stream {
 public:
  // Arrays of n numbers for these patterns, touched first as `place` says. `huge` asks for huge pages.
  Stream(StreamPlace& place, const Kernels&, Number, int64_t n, std::vector<Pattern> patterns, bool huge);
  ~Stream();

  // Sets the arrays to their start, runs all patterns one after the other `rounds` times, and checks the result
  // against the same arithmetic on single numbers. A pass is `repeats` times the loop and takes that much longer.
  // Throws std::runtime_error when a result is wrong.
  StreamTimes trial(int rounds, int64_t repeats, bool streaming);

 private:
  StreamPlace& place_;
  const Kernels& kernels_;
  const Number number_;
  const int64_t n_;
  const std::vector<Pattern> patterns_;
  std::unique_ptr<StreamData> arrays_;
};

// Seconds that each of `batches` batches of `regions` empty parallel regions took.
std::vector<double> region_seconds(StreamPlace&, int regions, int batches);

// For each page of an array: which target's thread touched it first, and which target's loop reads it. Both are
// recorded from the executors' own partition, on made-up targets too.
struct Ownership { std::vector<int> touched, used; };
Ownership ownership(StreamPlace& place, int64_t bytes);

}  // namespace trimtab
