#include "cuda/stream.h"

#include <chrono>
#include <cmath>

#include "cuda/device.cuh"
#include "stream/replay.h"

namespace trimtab {
namespace {

using Clock = std::chrono::steady_clock;

template <class T>
std::vector<std::vector<double>> trial(int number, int64_t n, const std::vector<Pattern>& patterns, int rounds) {
  exec::Device on(number);
  const exec::DeviceArray<T> a(n), b(n), c(n);
  bool copies = false;
  for (const Pattern p : patterns) copies = copies || p == Pattern::copy;
  auto replay = Replay<T>::start(copies);
  exec::fill(on, a.data(), n, replay.a);
  exec::fill(on, b.data(), n, replay.b);
  exec::fill(on, c.data(), n, replay.c);
  const StreamArrays arrays{a.data(), b.data(), c.data(), n};
  std::vector<std::vector<double>> seconds(patterns.size());
  double sum = 0;
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < patterns.size(); ++i) {
      const auto begin = Clock::now();
      const double found = exec::stream_pass<T>(patterns[i], arrays, on, exec::Store::plain);
      seconds[i].push_back(std::chrono::duration<double>(Clock::now() - begin).count());
      if (patterns[i] == Pattern::sum) sum = found;
      replay.pass(patterns[i], n);
    }
  std::vector<T> host(static_cast<size_t>(n));
  const T expected[] = {replay.a, replay.b, replay.c};
  const T* const arrays_there[] = {a.data(), b.data(), c.data()};
  for (int i = 0; i < 3; ++i) {
    exec::check_cuda(cudaMemcpy(host.data(), arrays_there[i], host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    const double wanted = double(exec::widen(expected[i]));
    double error = 0;
    for (const T& each : host) error += std::fabs(double(exec::widen(each)) - wanted);
    check_array<T>("abc"[i], error / double(n), wanted);
  }
  check_sum<T>(sum, replay.sum);
  return seconds;
}

}  // namespace

int cuda_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::vector<std::vector<double>> cuda_stream(int device, Number number, int64_t n, const std::vector<Pattern>& patterns,
                                             int rounds) {
  if (n < 1 || rounds < 1 || rounds > kMostRounds) throw std::invalid_argument("n must be positive, rounds 1 to 30");
  switch (number) {
    case Number::f64: return trial<double>(device, n, patterns, rounds);
    case Number::f32: return trial<float>(device, n, patterns, rounds);
    case Number::bf16: return trial<exec::Bf16>(device, n, patterns, rounds);
  }
  return {};
}

}  // namespace trimtab
