#include "exec/block.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>

namespace trimtab::exec {
namespace {

std::vector<Target> checked(std::vector<Target> targets, int threads) {
  if (targets.empty()) throw std::invalid_argument("a block executor needs a target");
  for (const Target& target : targets)
    if (target.cpus.empty()) throw std::invalid_argument("a target without processors");
  if (threads < 0) throw std::invalid_argument("threads must be 0 or more");
  // A target for which there is no thread takes no part.
  if (threads > 0 && threads < int(targets.size())) targets.resize(threads);
  return targets;
}

// How many threads each target runs.
std::vector<int> dealt(const std::vector<Target>& targets, int threads) {
  std::vector<int> counts;
  for (int i = 0; i < int(targets.size()); ++i) {
    const int most = int(targets[i].cpus.size());
    const Piece even = piece(threads, i, int(targets.size()));
    counts.push_back(threads == 0 ? most : std::clamp(int(even.end - even.begin), 1, most));
  }
  return counts;
}

std::vector<int> first_cpus(const std::vector<Target>& targets) {
  std::vector<int> cpus;
  for (const Target& target : targets) cpus.push_back(target.cpus[0]);
  return cpus;
}

}  // namespace

// Single calls of one target: a queue, and a thread that is started by the first.
struct Block::Mailbox {
  explicit Mailbox(int cpu) : cpu(cpu) {}
  ~Mailbox() {
    {
      const std::lock_guard guard(lock);
      closing = true;
    }
    arrived.notify_all();
    if (thread.joinable()) thread.join();
  }

  void put(std::function<void()> work) {
    const std::lock_guard guard(lock);
    waiting.push_back(std::move(work));
    if (!thread.joinable()) thread = std::thread([this] { serve(); });
    arrived.notify_one();
  }

  void serve() {
    if (cpu >= 0) pin_thread(cpu);
    std::unique_lock hold(lock);
    for (;;) {
      arrived.wait(hold, [this] { return closing || !waiting.empty(); });
      if (waiting.empty()) return;
      const std::function<void()> work = std::move(waiting.front());
      waiting.pop_front();
      hold.unlock();
      work();
      hold.lock();
    }
  }

  const int cpu;  // -1: any
  std::mutex lock;
  std::condition_variable arrived;
  std::deque<std::function<void()>> waiting;
  std::thread thread;
  bool closing = false;
};

Block::Block(std::vector<Target> targets, int threads, bool pin)
    : targets_(checked(std::move(targets), threads)),
      leaders_(int(targets_.size()), pin ? first_cpus(targets_) : std::vector<int>()) {
  first_part_.push_back(0);
  const std::vector<int> counts = dealt(targets_, threads);
  for (size_t i = 0; i < targets_.size(); ++i) {
    std::vector<int> cpus(targets_[i].cpus.begin(), targets_[i].cpus.begin() + counts[i]);
    teams_.push_back(std::make_unique<ForkJoin>(counts[i], pin ? std::move(cpus) : std::vector<int>()));
    mailboxes_.push_back(std::make_unique<Mailbox>(pin ? targets_[i].cpus[0] : -1));
    first_part_.push_back(first_part_.back() + counts[i]);
  }
}

Block::~Block() = default;

int Block::pinned() const {
  int count = leaders_.pinned();
  for (const auto& team : teams_) count += team->pinned();
  return count;
}

int Block::target_of(int part) const {
  return int(std::upper_bound(first_part_.begin(), first_part_.end(), part) - first_part_.begin()) - 1;
}

void Block::post(std::function<void()> work) {
  mailboxes_[turn_.fetch_add(1, std::memory_order_relaxed) % mailboxes_.size()]->put(std::move(work));
}

}  // namespace trimtab::exec
