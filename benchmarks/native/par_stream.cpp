// STREAM with std::execution::par (oneTBB beneath it), written as the standard library wants it: copy and transform.
//
// Built with -DSTREAM_N=<numbers of an array>. Operations as in openmp_stream.c.
#include <algorithm>
#include <cmath>
#include <execution>
#include <vector>

#include <tbb/global_control.h>

#include "worker.h"

namespace {

constexpr double kScalar = 3;
constexpr long kN = STREAM_N;

struct Array {
  double* data = static_cast<double*>(std::aligned_alloc(1 << 21, kN * sizeof(double)));
  Array() { huge_pages(data, kN * sizeof(double)); }
  ~Array() { std::free(data); }
};

double mean_error(const double* x, double wanted) {
  double sum = 0;
  for (long j = 0; j < kN; ++j) sum += std::fabs(x[j] - wanted);
  return sum / double(kN) / std::fabs(wanted);
}

void trial(Array& a_, Array& b_, Array& c_, int rounds) {
  double *a = a_.data, *b = b_.data, *c = c_.data;
  const auto par = std::execution::par;
  std::fill(par, a, a + kN, 1.0);
  std::fill(par, b, b + kN, 2.0);
  std::fill(par, c, c + kN, 0.0);
  std::vector<double> seconds(4 * size_t(rounds));
  double wa = 1, wb = 2, wc = 0;
  for (int k = 0; k < rounds; ++k) {
    double start = now_s();
    std::copy(par, a, a + kN, c);
    seconds[size_t(k)] = now_s() - start;

    start = now_s();
    std::transform(par, c, c + kN, b, [](double x) { return kScalar * x; });
    seconds[size_t(rounds + k)] = now_s() - start;

    start = now_s();
    std::transform(par, a, a + kN, b, c, [](double x, double y) { return x + y; });
    seconds[size_t(2 * rounds + k)] = now_s() - start;

    start = now_s();
    std::transform(par, b, b + kN, c, a, [](double x, double y) { return x + kScalar * y; });
    seconds[size_t(3 * rounds + k)] = now_s() - start;

    wc = wa;
    wb = kScalar * wc;
    wc = wa + wb;
    wa = wb + kScalar * wc;
  }
  const double error = std::max({mean_error(a, wa), mean_error(b, wb), mean_error(c, wc)});
  std::printf("{\"error_share\": %.3g, \"seconds\": ", error);
  print_seconds(seconds.data(), 4, rounds);
  std::printf("}\n");
}

void regions(int threads, int count, int batches) {
  std::vector<int> parts(static_cast<size_t>(threads));
  std::printf("{\"seconds\": [");
  for (int k = 0; k < batches; ++k) {
    const double start = now_s();
    for (int i = 0; i < count; ++i)
      std::for_each(std::execution::par, parts.begin(), parts.end(), [](int&) { __asm__ volatile("" ::: "memory"); });
    std::printf("%s%.9g", k ? ", " : "", now_s() - start);
  }
  std::printf("]}\n");
}

}  // namespace

int main() {
  char line[4096];
  die_with_parent();
  Array a, b, c;
  while (std::fgets(line, sizeof line, stdin)) {
    const int threads = int(number_of(line, "threads", 1));
    const long rounds = number_of(line, "rounds", 10);
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, size_t(threads));
    if (is_op(line, "trial") && rounds > 0 && rounds <= 64)
      trial(a, b, c, int(rounds));
    else if (is_op(line, "regions"))
      regions(threads, int(number_of(line, "count", 1000)), int(number_of(line, "batches", 10)));
    else
      std::printf("{\"error\": \"no such operation\"}\n");
    std::fflush(stdout);
  }
}
