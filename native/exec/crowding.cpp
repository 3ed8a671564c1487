#include "exec/crowding.h"

#include <algorithm>

namespace trimtab::exec {
namespace {

constexpr int kStalls = 4;         // in one run; a single one may be a long piece that only one thread has
constexpr int kTrialRuns = 3;      // of either way
constexpr int kMostMisses = 256;   // runs of other kinds, after which a trial is given up
constexpr double kClearly = 0.9;   // alone must take less than this share of the time
constexpr int64_t kFirstPatience = 32, kMostPatience = 512;

}  // namespace

bool Crowding::together(int kind) {
  kind_ = kind;
  if (state_ == alone && --left_ <= 0) begin_trial();
  if (state_ == trial) {
    if (trial_kind_ < 0) trial_kind_ = kind;
    if (kind != trial_kind_ && ++misses_ > kMostMisses) {
      state_ = calm;
      stalled_ = 0;
    }
  }
  if (state_ == trial && kind == trial_kind_) {
    together_ = counts_[1] <= counts_[0];
  } else {
    together_ = state_ != alone;
  }
  return together_;
}

void Crowding::ran(double seconds, int stalls) {
  if (state_ == trial && kind_ == trial_kind_) {
    seconds_[together_] += seconds;
    ++counts_[together_];
    if (std::min(counts_[0], counts_[1]) >= kTrialRuns) judge();
  } else if (state_ == calm) {
    stalled_ += 0.2 * ((stalls >= kStalls ? 1 : 0) - stalled_);
    if (left_ > 0) --left_;
    if (stalled_ > 0.5 && left_ == 0) begin_trial();
  }
}

void Crowding::begin_trial() {
  state_ = trial;
  trial_kind_ = -1;
  misses_ = 0;
  seconds_[0] = seconds_[1] = 0;
  counts_[0] = counts_[1] = 0;
}

void Crowding::judge() {
  const bool better_alone = seconds_[0] * counts_[1] < kClearly * seconds_[1] * counts_[0];
  const State found = better_alone ? alone : calm;
  patience_ = found == last_ ? std::min(2 * patience_, kMostPatience) : kFirstPatience;
  last_ = state_ = found;
  left_ = patience_;
  stalled_ = 0;
}

}  // namespace trimtab::exec
