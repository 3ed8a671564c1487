// What STREAM's passes make of single numbers: what the arrays are checked against.
#pragma once
#include <cmath>
#include <stdexcept>
#include <string>

#include "stream/pass.h"

namespace trimtab {

// Results are rounded as the arrays' type rounds, so the arrays must be equal to it and not only near.
template <class T>
struct Replay {
  T a, b, c;
  double sum = 0;

  // STREAM's first values; where no pass copies, c would be zero for a pass that reads it, and nothing checked.
  static Replay start(bool copies) {
    using S = decltype(exec::widen(T{}));
    return {exec::narrow<T>(S(1)), exec::narrow<T>(S(2)), exec::narrow<T>(S(copies ? 0 : 4))};
  }

  void pass(Pattern pattern, int64_t n) {
    using exec::widen;
    using S = decltype(widen(T{}));
    const S s = S(kScalar);
    switch (pattern) {
      case Pattern::copy: c = a; break;
      case Pattern::scale: b = exec::narrow<T>(widen(c) * s); break;
      case Pattern::add: c = exec::narrow<T>(widen(a) + widen(b)); break;
      case Pattern::triad: a = exec::narrow<T>(widen(b) + widen(c) * s); break;
      case Pattern::sum: sum = double(n) * double(widen(a)); break;
      case Pattern::fill: c = exec::narrow<T>(S(kFilled)); break;
    }
  }
};

// Values grow fifteenfold a round, and a float holds 32 of them.
constexpr int kMostRounds = 30;

// Throws std::runtime_error when the mean error of an array is beyond STREAM's bounds.
template <class T>
void check_array(char name, double mean_error, double wanted) {
  const double tolerance = sizeof(T) == 8 ? 1e-13 : 1e-6;
  if (!(mean_error <= tolerance * std::fabs(wanted)))
    throw std::runtime_error(std::string("STREAM: array ") + name + " is off by " + std::to_string(mean_error) +
                             " on average where " + std::to_string(wanted) + " was expected");
}

// The same for a sum: at most 128 additions of one float, thousands of one double.
template <class T>
void check_sum(double sum, double wanted) {
  const double tolerance = sizeof(T) == 8 ? 1e-11 : 1e-5;
  if (!(std::fabs(sum - wanted) <= tolerance * std::fabs(wanted)))
    throw std::runtime_error("STREAM: the sum is " + std::to_string(sum) + " and not " + std::to_string(wanted));
}

}  // namespace trimtab
