// What the operating system costs: calls, faults, files in its cache, pipes and threads.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>

#include "micro/clock.h"
#include "micro/sync.h"
#include "micro/threads.h"

#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace trimtab::micro {
namespace {

volatile uint64_t sink;

struct File {
  int number;
  explicit File(const std::string& path) : number(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (number < 0) throw std::invalid_argument("cannot read " + path);
  }
  ~File() { close(number); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
};

struct Pipe {
  int ends[2];
  Pipe() {
    if (pipe(ends)) throw std::runtime_error("no pipe");
  }
  ~Pipe() { close(ends[0]), close(ends[1]); }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void send() { check(write(ends[1], "x", 1)); }
  void take() {
    char byte;
    check(read(ends[0], &byte, 1));
  }
  static void check(ssize_t moved) {
    if (moved != 1) throw std::runtime_error("pipe broke");
  }
};

// Mean nanoseconds of `count` runs of `event`, once a sample.
std::vector<double> repeated(int samples, int count, const std::function<void()>& event) {
  std::vector<double> out;
  event();
  for (int s = 0; s < samples; ++s) {
    const uint64_t t0 = ticks();
    for (int k = 0; k < count; ++k) event();
    out.push_back((double(ticks() - t0) - reading_ticks()) * tick_ns() / count);
  }
  return out;
}

// First touches of fresh pages of `page` bytes; mapping and unmapping are outside the clock.
std::vector<double> faults(int samples, size_t page, int pages) {
  std::vector<double> out;
  const size_t bytes = page * size_t(pages);
  for (int s = 0; s < samples; ++s) {
    void* got = mmap(nullptr, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) throw std::bad_alloc();
    auto* data = static_cast<uint8_t*>(got) + (page - reinterpret_cast<uintptr_t>(got) % page) % page;
#ifdef MADV_HUGEPAGE
    madvise(got, bytes + page, page > 65536 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    const uint64_t t0 = ticks();
    for (size_t at = 0; at < bytes; at += page) *const_cast<volatile uint8_t*>(data + at) = 1;
    out.push_back((double(ticks() - t0) - reading_ticks()) * tick_ns() / pages);
    munmap(got, bytes + page);
  }
  return out;
}

// A page of a mapped file whose bytes are in the system's cache: map, read a word of each page, unmap.
std::vector<double> mapped(int samples, const std::string& path) {
  File file(path);
  const off_t end = lseek(file.number, 0, SEEK_END);
  const size_t bytes = size_t(std::min<off_t>(end, 1 << 20)) / 4096 * 4096;
  if (!bytes) throw std::invalid_argument("file too small: a page is needed");
  std::vector<double> out;
  for (int s = 0; s <= samples; ++s) {
    const uint64_t t0 = ticks();
    void* got = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.number, 0);
    if (got == MAP_FAILED) throw std::bad_alloc();
    uint64_t sum = 0;
    for (size_t at = 0; at < bytes; at += 4096) sum += static_cast<const uint8_t*>(got)[at];
    sink = sum;
    munmap(got, bytes);
    if (s) out.push_back((double(ticks() - t0) - reading_ticks()) * tick_ns() / double(bytes / 4096));
  }
  return out;
}

std::vector<double> reads(int samples, const std::string& path, size_t bytes, int count) {
  File file(path);
  auto data = std::make_unique<uint8_t[]>(bytes);
  return repeated(samples, count, [&] {
    if (pread(file.number, data.get(), bytes, 0) != ssize_t(bytes)) throw std::invalid_argument("file too small");
  });
}

std::vector<double> pipe_turns(int samples, const std::vector<int>& cpus) {
  constexpr int kTurns = 20;
  Pipe there, back;
  std::vector<double> out;
  Gate gate(2);
  on_each(cpus, [&](int i) {
    gate.wait();
    if (i == 0)
      out = repeated(samples, kTurns, [&] { there.send(), back.take(); });
    else
      for (int k = 0; k < samples * kTurns + 1; ++k) there.take(), back.send();
  });
  return out;
}

}  // namespace

std::vector<double> time_os(const std::string& event, int samples, const std::vector<int>& cpus, const std::string& path) {
  if (samples < 1 || samples > 1'000'000) throw std::invalid_argument("samples must be 1 to 1000000");
  if (cpus.size() != (event == "pipe_round_trip" ? 2u : 1u))
    throw std::invalid_argument("cpus: the wrong number of them for " + event);
  tick_ns(), reading_ticks();
  if (event == "pipe_round_trip") return pipe_turns(samples, cpus);
  std::vector<double> out;
  std::exception_ptr failure;
  on_each(cpus, [&](int) {
    try {
#if defined(__linux__)
      if (event == "syscall") out = repeated(samples, 200, [] { sink = uint64_t(syscall(SYS_getppid)); });
#endif
      if (event == "clock") out = repeated(samples, 200, [] { sink = uint64_t(now_ns()); });
      if (event == "page_fault") out = faults(samples, 4096, 256);
      if (event == "page_fault_2m") out = faults(samples, size_t(2) << 20, 4);
      if (event == "mmap_read") out = mapped(samples, path);
      if (event == "file_read_4k") out = reads(samples, path, 4096, 50);
      if (event == "file_read_1m") out = reads(samples, path, size_t(1) << 20, 1);
      if (event == "thread_start") out = repeated(samples, 1, [] { std::thread([] {}).join(); });
      if (event == "pipe") {
        Pipe pipe;
        out = repeated(samples, 50, [&] { pipe.send(), pipe.take(); });
      }
    } catch (...) {
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  if (out.empty()) throw std::invalid_argument("no event `" + event + "` here");
  return out;
}

}  // namespace trimtab::micro
