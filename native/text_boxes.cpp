// Differentiable binarization's last step: a map of text probabilities to rotated boxes (arXiv 1911.08947).
//
// Parts are 8-connected; each gets its smallest enclosing rectangle, which is kept when the mean probability inside is
// high enough, and grown, because the network was trained on shrunken text. A rectangle grown by a distance with round
// corners has the rectangle moved out by that distance as its own smallest one, so no polygon has to be offset.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "image.h"

namespace trimtab {
namespace {

struct Point {
  double x, y;
};

struct Run {
  int32_t y, begin, end;  // [begin, end)
  int32_t part;
};

int32_t root(std::vector<int32_t>& parent, int32_t i) {
  while (parent[i] != i) i = parent[i] = parent[parent[i]];
  return i;
}

// Horizontal runs of text pixels, each with the part it belongs to.
std::vector<Run> runs_of(const float* map, int64_t height, int64_t width, const BoxRule& rule) {
  std::vector<Run> runs;
  std::vector<int32_t> parent;
  std::vector<uint8_t> here(width), above(width), row(width);
  size_t previous = 0, begin_row = 0;
  for (int64_t y = 0; y < height; ++y) {
    const float* line = map + y * width;
    for (int64_t x = 0; x < width; ++x) here[x] = line[x] > rule.threshold;
    const uint8_t* use = here.data();
    if (rule.dilate) {
      for (int64_t x = 0; x < width; ++x) row[x] = here[x] | above[x];
      for (int64_t x = width - 1; x > 0; --x) row[x] |= row[x - 1];
      use = row.data();
    }
    begin_row = runs.size();
    size_t other = previous;
    for (int64_t x = 0; x < width;) {
      if (!use[x]) {
        ++x;
        continue;
      }
      const int64_t begin = x;
      while (x < width && use[x]) ++x;
      const int32_t id = int32_t(runs.size());
      runs.push_back({int32_t(y), int32_t(begin), int32_t(x), id});
      parent.push_back(id);
      while (other < begin_row && runs[other].end < begin) ++other;
      for (size_t k = other; k < begin_row && runs[k].begin <= x; ++k) parent[root(parent, int32_t(k))] = root(parent, id);
    }
    previous = begin_row;
    std::swap(here, above);
  }
  for (size_t i = 0; i < runs.size(); ++i) runs[i].part = root(parent, int32_t(i));
  return runs;
}

double cross(const Point& o, const Point& a, const Point& b) { return (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x); }

// Andrew's monotone chain; the points come sorted by y, then x.
std::vector<Point> hull_of(const std::vector<Point>& points) {
  if (points.size() < 3) return points;
  std::vector<Point> hull(2 * points.size());
  size_t count = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    while (count >= 2 && cross(hull[count - 2], hull[count - 1], points[i]) <= 0) --count;
    hull[count++] = points[i];
  }
  for (size_t i = points.size() - 1, lower = count + 1; i-- > 0;) {
    while (count >= lower && cross(hull[count - 2], hull[count - 1], points[i]) <= 0) --count;
    hull[count++] = points[i];
  }
  hull.resize(count - 1);
  return hull;
}

struct Rectangle {
  Point centre, along;  // `along` is a unit vector
  double length, breadth;
};

Rectangle smallest(const std::vector<Point>& hull) {
  if (hull.size() == 1) return {hull[0], {1, 0}, 0, 0};
  Rectangle best{};
  double least = INFINITY;
  for (size_t i = 0; i < hull.size(); ++i) {
    const Point& from = hull[i];
    const Point& to = hull[(i + 1) % hull.size()];
    const double size = std::hypot(to.x - from.x, to.y - from.y);
    if (size == 0) continue;
    const Point u{(to.x - from.x) / size, (to.y - from.y) / size};
    double low_u = INFINITY, high_u = -INFINITY, low_v = INFINITY, high_v = -INFINITY;
    for (const Point& p : hull) {
      const double a = p.x * u.x + p.y * u.y, b = p.y * u.x - p.x * u.y;
      low_u = std::min(low_u, a), high_u = std::max(high_u, a), low_v = std::min(low_v, b), high_v = std::max(high_v, b);
    }
    const double area = (high_u - low_u) * (high_v - low_v);
    if (area < least) {
      least = area;
      const double mu = (low_u + high_u) / 2, mv = (low_v + high_v) / 2;
      best = {{mu * u.x - mv * u.y, mu * u.y + mv * u.x}, u, high_u - low_u, high_v - low_v};
    }
  }
  return best;
}

// Top left, top right, bottom right, bottom left.
void corners_of(const Rectangle& r, Point out[4]) {
  const Point a{r.along.x * r.length / 2, r.along.y * r.length / 2}, b{-r.along.y * r.breadth / 2, r.along.x * r.breadth / 2};
  Point p[4] = {{r.centre.x - a.x - b.x, r.centre.y - a.y - b.y}, {r.centre.x + a.x - b.x, r.centre.y + a.y - b.y},
                {r.centre.x + a.x + b.x, r.centre.y + a.y + b.y}, {r.centre.x - a.x + b.x, r.centre.y - a.y + b.y}};
  std::stable_sort(p, p + 4, [](const Point& l, const Point& m) { return l.x < m.x; });
  if (p[0].y > p[1].y) std::swap(p[0], p[1]);
  if (p[2].y > p[3].y) std::swap(p[2], p[3]);
  out[0] = p[0], out[1] = p[2], out[2] = p[3], out[3] = p[1];
}

// Mean of the map over the pixels of a convex quadrilateral whose corners are cut to whole pixels.
double mean_inside(const float* map, int64_t height, int64_t width, const Point box[4]) {
  Point p[4];
  double low = INFINITY, high = -INFINITY;
  for (int i = 0; i < 4; ++i) {
    p[i] = {std::trunc(box[i].x), std::trunc(box[i].y)};
    low = std::min(low, p[i].y), high = std::max(high, p[i].y);
  }
  double sum = 0;
  int64_t count = 0;
  for (int64_t y = std::max<int64_t>(0, int64_t(low)); y <= std::min(height - 1, int64_t(high)); ++y) {
    double left = INFINITY, right = -INFINITY;
    for (int i = 0; i < 4; ++i) {
      const Point &a = p[i], &b = p[(i + 1) % 4];
      if (std::min(a.y, b.y) > y || std::max(a.y, b.y) < y) continue;
      if (a.y == b.y) {
        left = std::min({left, a.x, b.x}), right = std::max({right, a.x, b.x});
      } else {
        const double x = a.x + (b.x - a.x) * (y - a.y) / (b.y - a.y);
        left = std::min(left, x), right = std::max(right, x);
      }
    }
    const int64_t from = std::max<int64_t>(0, std::lround(left)), to = std::min<int64_t>(width - 1, std::lround(right));
    for (int64_t x = from; x <= to; ++x) sum += map[y * width + x];
    count += std::max<int64_t>(0, to - from + 1);
  }
  return count ? sum / double(count) : 0.0;
}

}  // namespace

std::vector<Box> text_boxes(const float* map, int64_t height, int64_t width, const BoxRule& rule) {
  constexpr double kLeastSide = 3;  // pixels of the map; the grown box needs two more
  std::vector<Run> runs = runs_of(map, height, width, rule);
  // Parts in the order of their first runs; inside one, runs stay sorted by row and column.
  std::vector<int32_t> first(runs.size(), int32_t(runs.size()));
  for (size_t i = runs.size(); i-- > 0;) first[runs[i].part] = int32_t(i);
  for (Run& run : runs) run.part = first[run.part];
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.part < b.part; });
  std::vector<Box> boxes;
  std::vector<Point> points;
  int parts = 0;
  for (size_t i = 0; i < runs.size() && parts < rule.most; ++parts) {
    points.clear();
    for (const int32_t part = runs[i].part; i < runs.size() && runs[i].part == part; ++i) {
      points.push_back({double(runs[i].begin), double(runs[i].y)});
      if (runs[i].end - 1 > runs[i].begin) points.push_back({double(runs[i].end - 1), double(runs[i].y)});
    }
    // hull_of wants a total order; rows are sorted already and x within a row is too.
    Rectangle r = smallest(hull_of(points));
    if (std::min(r.length, r.breadth) < kLeastSide) continue;
    Point corners[4];
    corners_of(r, corners);
    const double score = mean_inside(map, height, width, corners);
    if (!(score >= rule.box_threshold)) continue;  // a map with NaN has no box there
    const double grow = r.length * r.breadth * rule.unclip / (2 * (r.length + r.breadth));
    r.length += 2 * grow;
    r.breadth += 2 * grow;
    if (std::min(r.length, r.breadth) < kLeastSide + 2) continue;
    corners_of(r, corners);
    Box box;
    for (int k = 0; k < 4; ++k) box.corners[2 * k] = float(corners[k].x), box.corners[2 * k + 1] = float(corners[k].y);
    box.score = float(score);
    boxes.push_back(box);
  }
  return boxes;
}

}  // namespace trimtab
