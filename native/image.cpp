#include "image.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// The loops below are plain enough for the compiler's vectoriser; it makes one body for each instruction set and
// the loader picks. Without contraction all of them give the same bits.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define TRIMTAB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TRIMTAB_CLONES
#endif

namespace trimtab {
namespace {

typedef float Pixel __attribute__((vector_size(16)));

// Which inputs an output sample is made of: `count[i]` of them from `first[i]` on.
struct Taps {
  std::vector<int32_t> first, count;
  std::vector<float> weight;  // `most` an output
  int64_t most = 0;

  Taps(int64_t inputs, int64_t outputs) : first(outputs), count(outputs) {
    const double step = double(inputs) / double(outputs), reach = std::max(step, 1.0);
    most = int64_t(std::ceil(reach)) * 2 + 1;
    weight.assign(outputs * most, 0.0f);
    for (int64_t i = 0; i < outputs; ++i) {
      const double centre = (i + 0.5) * step;
      int64_t low = std::max<int64_t>(0, int64_t(std::floor(centre - reach)));
      const int64_t high = std::min(inputs, int64_t(std::ceil(centre + reach)));
      std::vector<double> found;
      for (int64_t j = low; j < high; ++j) found.push_back(std::max(0.0, 1.0 - std::abs(j + 0.5 - centre) / reach));
      while (found.size() > 1 && found.front() == 0.0) found.erase(found.begin()), ++low;
      while (found.size() > 1 && found.back() == 0.0) found.pop_back();
      double sum = 0;
      for (double each : found) sum += each;
      first[i] = int32_t(low);
      count[i] = int32_t(found.size());
      for (size_t k = 0; k < found.size(); ++k) weight[i * most + k] = float(found[k] / sum);
    }
  }
};

TRIMTAB_CLONES void begin_row(float* row, const uint8_t* pixels, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = weight * float(pixels[i]);
}

TRIMTAB_CLONES void add_row(float* row, const uint8_t* pixels, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] += weight * float(pixels[i]);
}

// One output row of three planes out of one row of interleaved floats, which has a spare value at its end.
void across(const float* row, const Taps& taps, const Tone& tone, float* const planes[3], int64_t width) {
  const Pixel scale = {tone.scale[0], tone.scale[1], tone.scale[2], 0}, shift = {tone.shift[0], tone.shift[1], tone.shift[2], 0};
  const int red = tone.swap ? 2 : 0, blue = 2 - red;
  for (int64_t x = 0; x < width; ++x) {
    const float* from = row + 3 * int64_t(taps.first[x]);
    const float* weight = taps.weight.data() + x * taps.most;
    Pixel sum = {0, 0, 0, 0};
    for (int32_t k = 0; k < taps.count[x]; ++k, from += 3) {
      Pixel value;
      std::memcpy(&value, from, sizeof value);
      sum += value * weight[k];
    }
    // The tone belongs to the network's channels, so channels are swapped before it.
    const Pixel ordered = {sum[red], sum[1], sum[blue], 0};
    const Pixel done = ordered * scale + shift;
    planes[0][x] = done[0];
    planes[1][x] = done[1];
    planes[2][x] = done[2];
  }
}

// Unit square to quadrilateral: (s, t) -> (x, y). Heckbert, Fundamentals of Texture Mapping, 1989.
struct Perspective {
  double a, b, c, d, e, f, g = 0, h = 0;

  explicit Perspective(const float q[8]) {
    const double sx = double(q[0]) - q[2] + q[4] - q[6], sy = double(q[1]) - q[3] + q[5] - q[7];
    if (std::abs(sx) > 1e-9 || std::abs(sy) > 1e-9) {
      const double dx1 = double(q[2]) - q[4], dx2 = double(q[6]) - q[4], dy1 = double(q[3]) - q[5], dy2 = double(q[7]) - q[5];
      const double area = dx1 * dy2 - dx2 * dy1;
      if (std::abs(area) > 1e-9) {
        g = (sx * dy2 - dx2 * sy) / area;
        h = (dx1 * sy - sx * dy1) / area;
      }
    }
    a = q[2] - q[0] + g * q[2];
    b = q[6] - q[0] + h * q[6];
    c = q[0];
    d = q[3] - q[1] + g * q[3];
    e = q[7] - q[1] + h * q[7];
    f = q[1];
  }
};

// Adds the picture's value at a place between its pixels, which is first moved to the nearest one inside.
inline void add_sample(const Picture& from, double x, double y, float sum[3]) {
  const float px = float(std::min(std::max(x, 0.0), double(from.width - 1)));
  const float py = float(std::min(std::max(y, 0.0), double(from.height - 1)));
  const int64_t x0 = int64_t(px), y0 = int64_t(py);
  const float fx = px - float(x0), fy = py - float(y0);
  const uint8_t* upper = from.pixels + (y0 * from.width + x0) * 3;
  const uint8_t* lower = y0 + 1 < from.height ? upper + from.width * 3 : upper;
  const int64_t next = x0 + 1 < from.width ? 3 : 0;
  for (int c = 0; c < 3; ++c) {
    const float above = float(upper[c]) + (float(upper[c + next]) - float(upper[c])) * fx;
    const float below = float(lower[c]) + (float(lower[c + next]) - float(lower[c])) * fx;
    sum[c] += above + (below - above) * fy;
  }
}

}  // namespace

void resize_planes(const Picture& from, const Tone& tone, float* planes, int64_t height, int64_t width, int64_t stride) {
  const Taps down(from.height, height), right(from.width, width);
  const int64_t row_values = from.width * 3;
  std::vector<float> row(row_values + 4);
  for (int64_t y = 0; y < height; ++y) {
    const float* weight = down.weight.data() + y * down.most;
    const uint8_t* line = from.pixels + int64_t(down.first[y]) * row_values;
    begin_row(row.data(), line, weight[0], row_values);
    for (int32_t k = 1; k < down.count[y]; ++k) add_row(row.data(), line + k * row_values, weight[k], row_values);
    float* const out[3] = {planes + y * stride, planes + (height + y) * stride, planes + (2 * height + y) * stride};
    across(row.data(), right, tone, out, width);
    for (float* plane : out) std::fill(plane + width, plane + stride, 0.0f);
  }
}

void warp(const Picture& from, const float corners[8], float across, float down, uint8_t* to, int64_t height, int64_t width) {
  const Perspective map(corners);
  // Where the picture has more pixels than the rectangle, each pixel of it is a mean of several samples.
  const double step_x = double(across) / double(width), step_y = double(down) / double(height);
  const int many_x = std::clamp(int(std::lround(step_x)), 1, 16), many_y = std::clamp(int(std::lround(step_y)), 1, 16);
  const float share = 1.0f / float(many_x * many_y);
  const double inverse = 1.0 / across;
  const bool flat = map.g == 0 && map.h == 0;  // no perspective, as nearly always: no division for each sample
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x, to += 3) {
      float sum[3] = {0, 0, 0};
      for (int j = 0; j < many_y; ++j) {
        const double t = ((y + (j + 0.5) / many_y) * step_y - 0.5) / down;
        for (int i = 0; i < many_x; ++i) {
          const double s = ((x + (i + 0.5) / many_x) * step_x - 0.5) * inverse;
          double w = 1;
          if (!flat) {
            const double under = map.g * s + map.h * t + 1.0;
            w = std::abs(under) > 1e-12 ? 1.0 / under : 0.0;
          }
          add_sample(from, (map.a * s + map.b * t + map.c) * w, (map.d * s + map.e * t + map.f) * w, sum);
        }
      }
      for (int c = 0; c < 3; ++c) to[c] = uint8_t(std::clamp(sum[c] * share + 0.5f, 0.0f, 255.0f));
    }
  }
}

}  // namespace trimtab
