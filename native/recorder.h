// What ran when: spans written by each thread into a ring of its own, read by one reader.
//
// Always there and off until it is switched on: off, a step costs one branch for itself and one a barrier, and
// no memory is held. A span is two time stamps of the processor and two numbers; names and meaning are the
// reader's business (src/trimtab/machine/spans.py). A full ring refuses what comes and counts it; the last
// quarter of it is kept for coarse spans, so that many operators never push out the step they belong to.
// Built with TRIMTAB_RECORDER=0 it records nothing and its branches are gone.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "exec/memory.h"

#ifndef TRIMTAB_RECORDER
#define TRIMTAB_RECORDER 1
#endif

namespace trimtab {

struct Event {
  int64_t begin, end;  // ticks of Recorder::now; of a note, the moment and its value
  uint32_t id, arg;
};
static_assert(sizeof(Event) == 24, "readers count on this");

enum EventId : uint32_t {
  kSpanRun = 1,      // a program's run on its first thread; arg: rows
  kSpanBarrier = 2,  // a thread waits for the others
  kNoteStep = 3,     // arg: wanted rows; value: 1 when the tokens were found by the sketch
  kNoteSpan = 4,     // a span of the step: arg its rows, value its first position
  kNoteOpened = 5,   // value: exact tiles of the vocabulary projection a thread read behind the sketch
  kFirstOp = 1024,   // the program's operations in order
};
constexpr uint32_t kInSeconds = 1u << 31;  // beside an id: the times are nanoseconds of the monotonic clock

class Ring {
 public:
  Ring(int64_t events, int64_t thread_id) : thread_id(thread_id), events_(events), memory_(events * sizeof(Event), false) {}

  void put(const Event& e) { put(e, events_); }
  void detail(const Event& e) { put(e, events_ - events_ / 4); }

  // The events so far, oldest first, which make room for others.
  std::vector<Event> take();
  int64_t take_dropped() { return dropped_.exchange(0, std::memory_order_relaxed); }
  void give_memory_back();
  int64_t resident_bytes() const { return memory_.resident_bytes(); }

  const int64_t thread_id;  // as the system counts threads
  std::atomic<int> worker{-1};  // of a pool

 private:
  void put(const Event& e, int64_t most) {
    const int64_t head = head_.load(std::memory_order_relaxed);
    if (head - tail_.load(std::memory_order_acquire) >= most) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    reinterpret_cast<Event*>(memory_.data())[head % events_] = e;
    head_.store(head + 1, std::memory_order_release);
  }

  const int64_t events_;
  exec::Memory memory_;
  std::atomic<int64_t> head_{0}, tail_{0}, dropped_{0};
};

class Recorder {
 public:
  // `events` a thread may write before somebody takes them; a ring is made when a thread writes first.
  explicit Recorder(int64_t events);
  Recorder(const Recorder&) = delete;

  bool on() const { return TRIMTAB_RECORDER != 0 && on_.load(std::memory_order_relaxed); }
  void start();
  void stop() { on_.store(false, std::memory_order_relaxed); }

  // Ticks: of the processor's counter where it runs evenly, else nanoseconds.
  static int64_t now();

  // The calling thread's own ring.
  Ring& ring() {
    return mine_.recorder == serial_ ? *mine_.ring : find();
  }
  Ring& ring(int worker) {
    Ring& r = ring();
    r.worker.store(worker, std::memory_order_relaxed);
    return r;
  }

  struct Lane {
    int64_t thread_id;
    int worker;
    int64_t dropped;
    std::vector<Event> events;  // times in nanoseconds of the monotonic clock
  };
  // Everything since the last call. Memory goes back to the system when nothing is recorded any more.
  std::vector<Lane> take();
  int64_t resident_bytes();

 private:
  struct Mine { uint64_t recorder = 0; Ring* ring = nullptr; };
  struct Moment { int64_t ticks, ns; };

  Ring& find();
  static Moment moment();

  static thread_local Mine mine_;
  const uint64_t serial_;
  const int64_t events_;
  std::atomic<bool> on_{false};
  std::mutex lock_;  // guards what follows
  std::vector<std::unique_ptr<Ring>> rings_;
  Moment started_{};
};

}  // namespace trimtab
