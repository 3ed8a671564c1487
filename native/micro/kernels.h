// Kernels whose only purpose is to be timed: one instruction, a number of dependent chains, one width.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace trimtab::micro {

enum class Fill { f32, f64, bf16, f16, int8, int32, index, self };

struct Kernel {
  const char* name;
  const char* suite;      // units or sync
  int width;              // bits of a register; 64 means general registers, 32 one float
  int chains;             // dependent chains that run side by side
  int steps;              // of a round
  double ops;             // arithmetic operations of a step
  int bytes;              // that a step moves
  Fill fill;              // what its registers and memory hold
  bool free;              // steps depend on nothing, so there is no latency
  bool pair;              // a step is two instructions, there and back
  const char* features;   // of the processor, by spaces
  const char* text;       // the first step
  void (*run)(uint64_t rounds, void* data);  // data: kDataBytes, aligned to a page
  const unsigned char *begin, *end;          // the loop's machine code; null where a compiler wrote it
};

constexpr int kDataBytes = 8192;

std::span<const Kernel> generated();  // empty where the instruction set is another one
std::span<const Kernel> portable();   // what every compiler can do
bool runs_here(const Kernel& kernel);

// All that this processor runs, the generated ones before the portable ones.
std::vector<const Kernel*> kernels();
const Kernel* find(const char* name, int width, int chains);  // null when there is none here

// Bounded values, or zeros: power, and on some machines speed, depends on what is computed.
void fill(const Kernel& kernel, void* data, bool zeros);

}  // namespace trimtab::micro
