// Where work runs: processors that share one memory, normally a NUMA domain (arXiv 2206.06302).
#pragma once
#include <string>
#include <vector>

namespace trimtab::exec {

struct Target {
  int node = 0;           // of the system's numbering; -1 for a made-up one
  std::vector<int> cpus;  // processors this process may use; never empty
};

// The NUMA domains that this process may run on, each with its processors; at least one target.
// `root` is /sys, or a tree like it in tests.
std::vector<Target> host_targets(const std::string& root = "/sys");

// "0-3,8,10-11" as the system writes lists of processors; empty for an empty line. Throws std::invalid_argument
// for anything else.
std::vector<int> parse_cpus(const std::string& text);

// Processors this process may run on.
std::vector<int> allowed_cpus();

// Binds the calling thread to one processor, and whether the system let it.
bool pin_thread(int cpu);

// Binds the calling thread while it lives; then the thread may run where it could before.
class PinnedHere {
 public:
  explicit PinnedHere(int cpu) : before_(allowed_cpus()), pinned_(pin_thread(cpu)) {}
  ~PinnedHere();
  PinnedHere(const PinnedHere&) = delete;
  bool pinned() const { return pinned_; }

 private:
  std::vector<int> before_;
  bool pinned_;
};

}  // namespace trimtab::exec
