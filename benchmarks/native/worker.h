/* The worker's side of a benchmark for programs in C: a request a line, an answer a line, as in peers/protocol.py.
 *
 * Requests have an `op` and whole numbers; that is all that is read of them. */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__linux__)
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#endif

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The number behind "name": in a request, or `otherwise`. */
static long number_of(const char *line, const char *name, long otherwise) {
  char key[64];
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *at = strstr(line, key);
  return at ? strtol(at + strlen(key), NULL, 10) : otherwise;
}

static int is_op(const char *line, const char *name) {
  char key[64];
  snprintf(key, sizeof key, "\"op\": \"%s\"", name);
  return strstr(line, key) != NULL;
}

/* Seconds as one JSON array: `rows` lists of `columns`. */
static void print_seconds(const double *seconds, int rows, int columns) {
  printf("[");
  for (int r = 0; r < rows; ++r) {
    printf("%s[", r ? ", " : "");
    for (int c = 0; c < columns; ++c) printf("%s%.9g", c ? ", " : "", seconds[r * columns + c]);
    printf("]");
  }
  printf("]");
}

/* A stopped process never sees that its stdin was closed, so the kernel is asked to end it. */
static void die_with_parent(void) {
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

/* The same pages for everyone: what is compared is how loops run. */
static void huge_pages(void *at, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(at, bytes, MADV_HUGEPAGE);
#endif
  (void)at, (void)bytes;
}
