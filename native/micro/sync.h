// What cores cost each other, and what the system costs: one event a sample or a mean over a short run of them.
#pragma once
#include <string>
#include <vector>

namespace trimtab::micro {

// Nanoseconds of one event, by sample. `cpus` are where the threads run: one for what one thread does, two for
// what two do to each other (-1: wherever).
// atomic_add, atomic_add_contended (each of all the cpus' threads), line_round_trip, futex_wake, futex_round_trip
std::vector<double> time_sync(const std::string& event, int samples, const std::vector<int>& cpus);

// syscall, clock, page_fault, page_fault_2m, mmap_read (a page of a file), file_read_4k, file_read_1m, pipe,
// pipe_round_trip (between two threads), thread_start
std::vector<double> time_os(const std::string& event, int samples, const std::vector<int>& cpus, const std::string& path);

}  // namespace trimtab::micro
