#include "exec/target.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace trimtab::exec {
namespace {

constexpr int kMostCpus = 1 << 16;

[[noreturn]] void refuse(const std::string& text) {
  throw std::invalid_argument("not a list of processors: `" + text.substr(0, 80) + "`");
}

int number(const char*& at, const char* end, const std::string& text) {
  int value = -1;
  const auto [next, error] = std::from_chars(at, end, value);
  if (error != std::errc() || value < 0 || value >= kMostCpus) refuse(text);
  at = next;
  return value;
}

bool bind(const std::vector<int>& cpus) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus)
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0;
#else
  (void)cpus;
  return false;
#endif
}

}  // namespace

std::vector<int> parse_cpus(const std::string& text) {
  std::vector<int> cpus;
  const char* at = text.data();
  const char* end = at + text.size();
  if (at < end && end[-1] == '\n') --end;
  while (at < end) {
    const int first = number(at, end, text);
    int last = first;
    if (at < end && *at == '-') last = number(++at, end, text);
    if (last < first || cpus.size() + size_t(last - first) >= size_t(kMostCpus)) refuse(text);
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at == end) break;
    if (*at != ',' || ++at == end) refuse(text);
  }
  return cpus;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
#if defined(__linux__)
  cpu_set_t set;
  if (pthread_getaffinity_np(pthread_self(), sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
#endif
  if (cpus.empty())
    for (int cpu = 0; cpu < std::max(1, int(std::thread::hardware_concurrency())); ++cpu) cpus.push_back(cpu);
  return cpus;
}

std::vector<Target> host_targets(const std::string& root) {
  const std::vector<int> allowed = allowed_cpus();
  std::vector<Target> targets;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/devices/system/node", none)) {
    const std::string name = entry.path().filename();
    if (name.size() < 5 || name.size() > 9 || name.rfind("node", 0) != 0 ||
        name.find_first_not_of("0123456789", 4) != std::string::npos)
      continue;
    std::ifstream file(entry.path() / "cpulist");
    std::string line;
    std::getline(file, line);
    Target target{std::stoi(name.substr(4)), {}};
    for (const int cpu : parse_cpus(line))
      if (std::binary_search(allowed.begin(), allowed.end(), cpu)) target.cpus.push_back(cpu);
    if (!target.cpus.empty()) targets.push_back(std::move(target));
  }
  std::sort(targets.begin(), targets.end(), [](const Target& a, const Target& b) { return a.node < b.node; });
  if (targets.empty()) targets.push_back({0, allowed});
  return targets;
}

bool pin_thread(int cpu) { return bind({cpu}); }

PinnedHere::~PinnedHere() {
  if (pinned_) bind(before_);
}

}  // namespace trimtab::exec
