// Pictures to tensors: one pass from the bytes of a picture to the planes of a network's input, and from a text
// map back to boxes. Nothing here allocates per pixel, knows a file format, or needs Python.
#pragma once
#include <cstdint>
#include <vector>

namespace trimtab {

// Rows of interleaved 8-bit pixels, three to a pixel.
struct Picture {
  const uint8_t* pixels;
  int64_t height, width;
};

// value = pixel * scale[c] + shift[c]; `swap` turns RGB into BGR or back.
struct Tone {
  float scale[3], shift[3];
  bool swap;
};

// Resize to height x width with a triangle filter as wide as the step between samples (bilinear where it enlarges,
// an average where it shrinks), normalise, and write planes (3, height, stride). Columns from `width` on are zeroed.
void resize_planes(const Picture& from, const Tone& tone, float* planes, int64_t height, int64_t width, int64_t stride);

// The quadrilateral `corners` (top left, top right, bottom right, bottom left; x and y of each, pixel centres at whole
// numbers) as a rectangle of height x width pixels. `across` and `down` are the sizes it has in the picture.
void warp(const Picture& from, const float corners[8], float across, float down, uint8_t* to, int64_t height, int64_t width);

struct Box {
  float corners[8];
  float score;
};

struct BoxRule {
  float threshold;      // of a text pixel
  float box_threshold;  // of the mean inside a box
  float unclip;         // how far a box grows: area * unclip / perimeter
  bool dilate;          // thicken by one pixel to the right and down before parts are joined
  int most;             // parts looked at
};

// Boxes of the connected parts of a text map (height, width), in the map's own pixels.
std::vector<Box> text_boxes(const float* map, int64_t height, int64_t width, const BoxRule& rule);

}  // namespace trimtab
