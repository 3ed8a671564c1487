#include "stream/stream.h"

#include <chrono>
#include <cmath>
#include <optional>
#include <stdexcept>

#include "stream/replay.h"

namespace trimtab {
namespace {

using exec::Bf16;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The processor of each thread: a target's own first, so that few threads lie together.
std::vector<int> cpus_for(int threads) {
  std::vector<int> cpus;
  for (const exec::Target& target : exec::host_targets()) cpus.insert(cpus.end(), target.cpus.begin(), target.cpus.end());
  if (threads > int(cpus.size())) return {};
  cpus.resize(threads);
  return cpus;
}

}  // namespace

// ---- where -------------------------------------------------------------------------------------------------------

StreamPlace::StreamPlace(const std::string& executor, int threads, bool pin, std::vector<exec::Target> targets) {
  if (executor != "serial" && executor != "parallel" && executor != "fork-join" && executor != "block")
    throw std::invalid_argument("no executor `" + executor + "`; known: serial, parallel, fork-join, block");
  if (threads < 1 || threads > 1024) throw std::invalid_argument("threads must lie between 1 and 1024");
  if (executor == "serial" && threads != 1) throw std::invalid_argument("the serial executor has one thread");
  if (executor == "serial") {
    const std::vector<int> cpus = pin ? cpus_for(1) : std::vector<int>();
    caller_cpu_ = cpus.empty() ? -1 : cpus[0];
    loops_ = std::make_unique<exec::AnyExecutor>(serial_);
  } else if (executor == "fork-join" || (executor == "parallel" && targets.empty())) {
    const std::vector<int> cpus = pin ? cpus_for(threads) : std::vector<int>();
    caller_cpu_ = cpus.empty() ? -1 : cpus[0];
    fork_join_ = std::make_unique<exec::ForkJoin>(threads, cpus);
    loops_ = std::make_unique<exec::AnyExecutor>(*fork_join_);
  } else {
    if (targets.empty()) targets = exec::host_targets();
    const int first = targets[0].cpus.empty() ? -1 : targets[0].cpus[0];
    block_ = std::make_unique<exec::Block>(std::move(targets), threads, pin);
    caller_cpu_ = pin ? first : -1;
    loops_ = std::make_unique<exec::AnyExecutor>(*block_);
  }
  touch_ = executor == "parallel" ? std::make_unique<exec::AnyExecutor>(serial_)
                                  : std::make_unique<exec::AnyExecutor>(*loops_);
}

bool StreamPlace::all_pinned() const {
  const int others = fork_join_ ? fork_join_->pinned() : block_ ? block_->pinned() : 0;
  return caller_pinned_ && others == threads() - 1;
}

// ---- trials ------------------------------------------------------------------------------------------------------

// One type's arrays behind what all types have in common.
struct StreamData {
  virtual ~StreamData() = default;
  virtual StreamArrays start() = 0;                  // set to their first values, and where they are
  virtual void pass(Pattern) = 0;                    // what the replay of a pass is
  virtual void check(double sum) = 0;
};

namespace {

template <class T>
struct Typed final : StreamData {
  Typed(StreamPlace& place, int64_t n, const std::vector<Pattern>& patterns, bool huge)
      : place(place), n(n), allocator(place.first_touch(), huge) {
    bool uses[3] = {};
    for (const Pattern p : patterns) {
      copies = copies || p == Pattern::copy;
      uses[0] |= p == Pattern::copy || p == Pattern::add || p == Pattern::triad || p == Pattern::sum;
      uses[1] |= p == Pattern::scale || p == Pattern::add || p == Pattern::triad;
      uses[2] |= p != Pattern::sum;
    }
    for (int i = 0; i < 3; ++i)
      if (uses[i]) arrays[i].emplace(allocator, n, exec::narrow<T>(0));
  }

  StreamArrays start() override {
    replay = Replay<T>::start(copies);
    const T values[] = {replay.a, replay.b, replay.c};
    exec::AnyExecutor on = place.loops();
    for (int i = 0; i < 3; ++i)
      if (arrays[i]) exec::fill(on, arrays[i]->data(), n, values[i]);
    auto at = [&](int i) -> void* { return arrays[i] ? arrays[i]->data() : nullptr; };
    return {at(0), at(1), at(2), n};
  }

  void pass(Pattern pattern) override { replay.pass(pattern, n); }

  void check(double sum) override {
    const T expected[] = {replay.a, replay.b, replay.c};
    exec::AnyExecutor on = place.loops();
    for (int i = 0; i < 3; ++i) {
      if (!arrays[i]) continue;
      const double wanted = double(exec::widen(expected[i]));
      const exec::Partials errors(on.parts());
      const T* const from = arrays[i]->data();
      exec::by_lines<T>(on, n, [&](int part, int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) errors.of[part].value += std::fabs(double(exec::widen(from[k])) - wanted);
      });
      double error = 0;
      for (int part = 0; part < on.parts(); ++part) error += errors.of[part].value;
      check_array<T>("abc"[i], error / double(n), wanted);
    }
    check_sum<T>(sum, replay.sum);
  }

  StreamPlace& place;
  const int64_t n;
  exec::Allocator<T> allocator;
  std::optional<exec::Array<T>> arrays[3];
  Replay<T> replay{};
  bool copies = false;
};

}  // namespace

Stream::Stream(StreamPlace& place, const Kernels& kernels, Number number, int64_t n, std::vector<Pattern> patterns,
               bool huge)
    : place_(place), kernels_(kernels), number_(number), n_(n), patterns_(std::move(patterns)) {
  if (n < 1 || n > int64_t(1) << 36) throw std::invalid_argument("numbers of an array must lie between 1 and 2^36");
  if (patterns_.empty()) throw std::invalid_argument("no pattern to run");
  place.with_caller([&] {
    if (number == Number::f64) arrays_ = std::make_unique<Typed<double>>(place, n, patterns_, huge);
    else if (number == Number::f32) arrays_ = std::make_unique<Typed<float>>(place, n, patterns_, huge);
    else arrays_ = std::make_unique<Typed<Bf16>>(place, n, patterns_, huge);
  });
}

Stream::~Stream() = default;

StreamTimes Stream::trial(int rounds, int64_t repeats, bool streaming) {
  if (rounds < 1 || rounds > kMostRounds) throw std::invalid_argument("rounds must lie between 1 and 30");
  if (repeats < 1) throw std::invalid_argument("repeats must be at least 1");
  StreamTimes times{std::vector<std::vector<double>>(patterns_.size())};
  place_.with_caller([&] {
    const StreamArrays arrays = arrays_->start();
    exec::AnyExecutor once = place_.loops();
    exec::Repeated often(once, repeats);
    const exec::AnyExecutor on = repeats == 1 ? once : exec::AnyExecutor(often);
    double sum = 0;
    for (int round = 0; round < rounds; ++round)
      for (size_t i = 0; i < patterns_.size(); ++i) {
        const auto begin = Clock::now();
        const double found = kernels_.stream_pass(patterns_[i], number_, arrays, on, streaming);
        times.seconds[i].push_back(since(begin));
        if (patterns_[i] == Pattern::sum) sum = found / double(repeats);
        arrays_->pass(patterns_[i]);
      }
    arrays_->check(sum);
  });
  return times;
}

std::vector<double> region_seconds(StreamPlace& place, int regions, int batches) {
  if (regions < 1 || batches < 1) throw std::invalid_argument("regions and batches must be at least 1");
  std::vector<double> seconds;
  place.with_caller([&] {
    const exec::AnyExecutor on = place.loops();
    for (int batch = 0; batch < batches; ++batch) {
      const auto begin = Clock::now();
      for (int i = 0; i < regions; ++i) on.bulk([](int, int64_t, int64_t) { asm volatile("" ::: "memory"); }, on.parts());
      seconds.push_back(since(begin));
    }
  });
  return seconds;
}

Ownership ownership(StreamPlace& place, int64_t bytes) {
  if (bytes < 1 || bytes > int64_t(1) << 32) throw std::invalid_argument("bytes must lie between 1 and 2^32");
  const int64_t pages = (bytes + exec::kPageBytes - 1) / exec::kPageBytes;
  auto target_of = [&](const exec::AnyExecutor& on, int part) {
    return on.parts() == 1 || !place.block() ? 0 : place.block()->target_of(part);
  };
  // The byte in the middle of a page stands for it: pieces are cut at cache lines, and a page may be two targets'.
  auto owners = [&](exec::AnyExecutor on) {
    std::vector<int> found(pages, -1);
    exec::by_lines<uint8_t>(on, pages * exec::kPageBytes, [&](int part, int64_t begin, int64_t end) {
      for (int64_t page = (begin + exec::kPageBytes / 2 - 1) / exec::kPageBytes; page < pages; ++page) {
        const int64_t middle = page * exec::kPageBytes + exec::kPageBytes / 2;
        if (middle >= end) break;
        if (middle >= begin) found[page] = target_of(on, part);
      }
    });
    return found;
  };
  return {owners(place.first_touch()), owners(place.loops())};
}

}  // namespace trimtab
