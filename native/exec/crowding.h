// Whether a pool's threads share the next step, or leave it to one of them.
//
// When more threads want to run than there are processors, one of the pool's may be put aside in the middle of
// its piece, and the others wait at the next barrier until the system brings it back. A step has hundreds of
// barriers. One thread for which nobody waits can then be several times as fast, or not; which of the two holds
// depends on the neighbours, so both are timed when threads keep falling asleep at barriers.
#pragma once
#include <cstdint>

namespace trimtab::exec {

class Crowding {
 public:
  // Whether all threads take part in the next run. Runs of one kind take equally long, other things equal.
  bool together(int kind);
  // What became of it: its time, and how often a thread fell asleep at a barrier.
  void ran(double seconds, int stalls);

 private:
  enum State { calm, trial, alone };

  void begin_trial();
  void judge();

  State state_ = calm, last_ = calm;  // `last_`: what the last trial found
  int kind_ = 0, trial_kind_ = 0;
  bool together_ = true;
  double stalled_ = 0;              // share of recent runs in which threads fell asleep
  double seconds_[2] = {};          // of the trial: alone, together
  int counts_[2] = {}, misses_ = 0;
  int64_t left_ = 0;                // runs until the next question
  int64_t patience_ = 32;           // how many, when the answer is the same again
};

}  // namespace trimtab::exec
