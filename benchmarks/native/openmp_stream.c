/* STREAM in plain C with OpenMP, in the form of its reference: static arrays, one parallel loop a pass.
 *
 * Built with -DSTREAM_N=<numbers of an array>. Operations: `trial` with `threads` and `rounds` answers the seconds of
 * each pass and the mean relative error; `regions` with `threads`, `count` and `batches` those of empty regions. */
#include <math.h>
#include <omp.h>

#include "worker.h"

#define SCALAR 3.0
#define MOST_ROUNDS 64

/* Whole huge pages, as the arrays of the program that this one is compared with. */
static double a[STREAM_N] __attribute__((aligned(1 << 21)));
static double b[STREAM_N] __attribute__((aligned(1 << 21)));
static double c[STREAM_N] __attribute__((aligned(1 << 21)));

static double mean_error(const double *x, double wanted) {
  double sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (long j = 0; j < STREAM_N; ++j) sum += fabs(x[j] - wanted);
  return sum / STREAM_N / fabs(wanted);
}

static void trial(int threads, int rounds) {
  static double seconds[4][MOST_ROUNDS];
  double flat[4 * MOST_ROUNDS];
  omp_set_num_threads(threads);
#pragma omp parallel for
  for (long j = 0; j < STREAM_N; ++j) {
    a[j] = 1.0;
    b[j] = 2.0;
    c[j] = 0.0;
  }
  for (int k = 0; k < rounds; ++k) {
    double start = now_s();
#pragma omp parallel for
    for (long j = 0; j < STREAM_N; ++j) c[j] = a[j];
    seconds[0][k] = now_s() - start;

    start = now_s();
#pragma omp parallel for
    for (long j = 0; j < STREAM_N; ++j) b[j] = SCALAR * c[j];
    seconds[1][k] = now_s() - start;

    start = now_s();
#pragma omp parallel for
    for (long j = 0; j < STREAM_N; ++j) c[j] = a[j] + b[j];
    seconds[2][k] = now_s() - start;

    start = now_s();
#pragma omp parallel for
    for (long j = 0; j < STREAM_N; ++j) a[j] = b[j] + SCALAR * c[j];
    seconds[3][k] = now_s() - start;
  }
  double wa = 1, wb = 2, wc = 0;
  for (int k = 0; k < rounds; ++k) {
    wc = wa;
    wb = SCALAR * wc;
    wc = wa + wb;
    wa = wb + SCALAR * wc;
  }
  const double error = fmax(mean_error(a, wa), fmax(mean_error(b, wb), mean_error(c, wc)));
  for (int p = 0; p < 4; ++p)
    for (int k = 0; k < rounds; ++k) flat[p * rounds + k] = seconds[p][k];
  printf("{\"error_share\": %.3g, \"seconds\": ", error);
  print_seconds(flat, 4, rounds);
  printf("}\n");
}

static void regions(int threads, int count, int batches) {
  omp_set_num_threads(threads);
  printf("{\"seconds\": [");
  for (int k = 0; k < batches; ++k) {
    const double start = now_s();
    for (int i = 0; i < count; ++i) {
#pragma omp parallel
      __asm__ volatile("" ::: "memory");
    }
    printf("%s%.9g", k ? ", " : "", now_s() - start);
  }
  printf("]}\n");
}

int main(void) {
  char line[4096];
  die_with_parent();
  huge_pages(a, sizeof a);
  huge_pages(b, sizeof b);
  huge_pages(c, sizeof c);
  while (fgets(line, sizeof line, stdin)) {
    const int threads = (int)number_of(line, "threads", 1);
    const long rounds = number_of(line, "rounds", 10);
    if (is_op(line, "trial") && rounds > 0 && rounds <= MOST_ROUNDS)
      trial(threads, (int)rounds);
    else if (is_op(line, "regions"))
      regions(threads, (int)number_of(line, "count", 1000), (int)number_of(line, "batches", 10));
    else
      printf("{\"error\": \"no such operation\"}\n");
    fflush(stdout);
  }
  return 0;
}
