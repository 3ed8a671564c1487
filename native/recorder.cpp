#include "recorder.h"

#include <chrono>
#include <stdexcept>
#include <thread>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

namespace trimtab {
namespace {

constexpr int64_t kCalibrationNs = 20'000'000;  // two readings this far apart tell the rate to a few millionths

int64_t monotonic_ns() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

#if defined(__x86_64__)
bool counts_evenly() {
  unsigned a, b, c, d;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d >> 8 & 1);
}
const bool kEven = counts_evenly();
#endif

int64_t thread_id() {
#if defined(__linux__)
  return int64_t(syscall(SYS_gettid));
#else
  return int64_t(std::hash<std::thread::id>()(std::this_thread::get_id()) & 0x7fffffff);
#endif
}

std::atomic<uint64_t> serials{0};

}  // namespace

thread_local Recorder::Mine Recorder::mine_;

std::vector<Event> Ring::take() {
  const int64_t head = head_.load(std::memory_order_acquire), tail = tail_.load(std::memory_order_relaxed);
  std::vector<Event> out(head - tail);
  const Event* events = reinterpret_cast<const Event*>(memory_.data());
  for (int64_t i = tail; i < head; ++i) out[i - tail] = events[i % events_];
  tail_.store(head, std::memory_order_release);
  return out;
}

void Ring::give_memory_back() { memory_.drop(); }

Recorder::Recorder(int64_t events) : serial_(++serials), events_(events) {
  if (events < 16 || events > int64_t(1) << 28) throw std::invalid_argument("events must lie between 16 and 2^28");
}

int64_t Recorder::now() {
#if defined(__x86_64__)
  if (kEven) return int64_t(__rdtsc());
#endif
  return monotonic_ns();
}

Recorder::Moment Recorder::moment() {
  // The reading between the two closest looks at the counter.
  Moment best{};
  int64_t closest = INT64_MAX;
  for (int i = 0; i < 16; ++i) {
    const int64_t before = now(), ns = monotonic_ns(), after = now();
    if (after - before >= closest) continue;
    closest = after - before;
    best = {before + (after - before) / 2, ns};
  }
  return best;
}

void Recorder::start() {
  std::lock_guard guard(lock_);
  if (on_.load(std::memory_order_relaxed)) return;
  for (auto& ring : rings_) ring->take(), ring->take_dropped();
  started_ = moment();
  on_.store(true, std::memory_order_relaxed);
}

Ring& Recorder::find() {
  // Threads that come and go, as those of a thread pool of Python do, leave their rings behind; a system gives
  // a thread's number to another one only after the first has ended.
  const int64_t id = thread_id();
  std::lock_guard guard(lock_);
  Ring* found = nullptr;
  for (auto& ring : rings_)
    if (ring->thread_id == id) found = ring.get();
  if (!found) found = rings_.emplace_back(std::make_unique<Ring>(events_, id)).get();
  mine_ = {serial_, found};
  return *found;
}

std::vector<Recorder::Lane> Recorder::take() {
  std::lock_guard guard(lock_);
  const int64_t waited = monotonic_ns() - started_.ns;
  if (started_.ns && waited < kCalibrationNs) std::this_thread::sleep_for(std::chrono::nanoseconds(kCalibrationNs - waited));
  const Moment here = moment(), there = started_;
  const double rate = there.ns ? double(here.ns - there.ns) / double(here.ticks - there.ticks) : 1.0;
  auto ns = [&](int64_t ticks) { return here.ns + int64_t(double(ticks - here.ticks) * rate); };
  std::vector<Lane> lanes;
  for (auto& ring : rings_) {
    Lane lane{ring->thread_id, ring->worker.load(std::memory_order_relaxed), ring->take_dropped(), ring->take()};
    for (Event& e : lane.events) {
      if (e.id & kInSeconds) {
        e.id &= ~kInSeconds;
        continue;
      }
      e.begin = ns(e.begin);
      if (e.id < kNoteStep || e.id > kNoteOpened) e.end = ns(e.end);
    }
    if (!on()) ring->give_memory_back();
    lanes.push_back(std::move(lane));
  }
  return lanes;
}

int64_t Recorder::resident_bytes() {
  std::lock_guard guard(lock_);
  int64_t bytes = 0;
  for (auto& ring : rings_) bytes += ring->resident_bytes();
  return bytes;
}

}  // namespace trimtab
