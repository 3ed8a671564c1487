// See disk.h. A thread a place in the queue: its cost, some microseconds an operation, is part of the result.
#include "disk.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "bindings.h"

namespace trimtab {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kAlign = 4096;

uint64_t next(uint64_t& state) {  // splitmix64
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

struct Free {
  void operator()(uint8_t* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<uint8_t, Free>;

Buffer random_buffer(int64_t size, uint64_t& state) {
  Buffer buffer(static_cast<uint8_t*>(std::aligned_alloc(kAlign, size_t(size))));
  if (!buffer) throw std::bad_alloc();
  auto* words = reinterpret_cast<uint64_t*>(buffer.get());
  for (int64_t i = 0; i < size / 8; ++i) words[i] = next(state);
  return buffer;
}

}  // namespace

DiskRun disk_run(int file, bool write, int64_t size, int depth, int64_t span, double seconds, int64_t most_bytes,
                 uint64_t seed) {
  if (size < int64_t(kAlign) || size % int64_t(kAlign) || size > (int64_t(1) << 28))
    throw std::invalid_argument("size: a multiple of 4096 up to 256 MiB");
  if (depth < 1 || depth > 256) throw std::invalid_argument("depth: 1 to 256");
  if (span < size || !(seconds >= 0 && seconds <= 600) || most_bytes < size)
    throw std::invalid_argument("span and most_bytes: at least `size`; seconds: 0 to 600");

  const int64_t places = span / size, most = most_bytes / size;
  std::vector<Buffer> buffers;
  for (int t = 0; t < depth; ++t) buffers.push_back(random_buffer(size, seed));

  std::atomic<int64_t> begun{0};
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::atomic<int> failed{0};
  std::mutex gathering;
  DiskRun result{0, 0, {}};
  Clock::time_point start;

  auto work = [&](int thread) {
    uint64_t state = seed + uint64_t(thread) * 0x632be59bd9b4e019ull;
    std::vector<float> mine;
    uint8_t* data = buffers[size_t(thread)].get();
    ready.fetch_add(1);
    while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
    while (!failed.load(std::memory_order_relaxed) && begun.fetch_add(1) < most) {
      const int64_t at = int64_t(next(state) % uint64_t(places)) * size;
      const auto before = Clock::now();
      if (mine.size() && std::chrono::duration<double>(before - start).count() >= seconds) break;
      for (int64_t done = 0; done < size;) {
        const ssize_t n = write ? pwrite(file, data + done, size_t(size - done), at + done)
                                : pread(file, data + done, size_t(size - done), at + done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
          failed = n < 0 ? errno : EIO;
          return;
        }
        done += n;
      }
      mine.push_back(float(std::chrono::duration<double>(Clock::now() - before).count()));
    }
    std::lock_guard<std::mutex> lock(gathering);
    result.latencies_s.insert(result.latencies_s.end(), mine.begin(), mine.end());
  };

  std::vector<std::thread> threads;
  try {
    for (int t = 0; t < depth; ++t) threads.emplace_back(work, t);
  } catch (const std::system_error&) {  // no more threads for this user: those that began must not wait for ever
    failed = EAGAIN;
  }
  while (ready.load() < int(threads.size())) std::this_thread::yield();
  start = Clock::now();
  go.store(true, std::memory_order_release);
  for (auto& thread : threads) thread.join();
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (failed) throw std::system_error(failed, std::generic_category());
  result.operations = int64_t(result.latencies_s.size());
  return result;
}

}  // namespace trimtab

void bind_disk(nanobind::module_& m) {
  namespace nb = nanobind;
  m.def("disk_run", [](int file, bool write, int64_t size, int depth, int64_t span, double seconds, int64_t most_bytes,
                       uint64_t seed) {
    trimtab::DiskRun run{0, 0, {}};
    int problem = 0;
    {
      nb::gil_scoped_release release;
      try {
        run = trimtab::disk_run(file, write, size, depth, span, seconds, most_bytes, seed);
      } catch (const std::system_error& error) {
        problem = error.code().value();
      }
    }
    if (problem) {
      errno = problem;
      PyErr_SetFromErrno(PyExc_OSError);
      throw nb::python_error();
    }
    return nb::make_tuple(run.seconds, run.operations, run.latencies_s);
  }, nb::arg("file"), nb::arg("write"), nb::arg("size"), nb::arg("depth"), nb::arg("span"), nb::arg("seconds"),
     nb::arg("most_bytes"), nb::arg("seed") = 0,
     "(seconds, operations, seconds of each) of transfers at random places of an open file. OSError as the system says.");
}
