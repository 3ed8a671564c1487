// Large zeroed memory straight from the system: untouched pages cost nothing, huge pages where allowed.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace trimtab::exec {

// What a page takes for the question whose thread touches it first.
constexpr int64_t kPageBytes = 4096;

class Memory {
 public:
  Memory() = default;
  // `huge` asks for huge pages: for weights, which are read whole every step. Elsewhere they would make memory
  // resident that nobody uses: scratch for larger batches, KV pages of no sequence.
  Memory(int64_t bytes, bool huge) : bytes_(bytes > 0 ? (bytes + kPageBytes - 1) / kPageBytes * kPageBytes : 0) {
    if (!bytes_) return;
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(p);
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes_, huge && bytes_ >= (4 << 20) ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
  }
  ~Memory() { if (data_) munmap(data_, bytes_); }
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; other.bytes_ = 0; }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  // Of the bytes, those that the system has given memory for; untouched pages are not counted.
  int64_t resident_bytes() const {
#if defined(__linux__)
    std::vector<unsigned char> there(bytes_ / kPageBytes);
    if (bytes_ && mincore(data_, bytes_, there.data()) == 0) {
      int64_t pages = 0;
      for (unsigned char page : there) pages += page & 1;
      return pages * kPageBytes;
    }
#endif
    return bytes_;
  }

  // Give the memory back to the system; what was in it is zero afterwards.
  void drop() {
#if defined(MADV_DONTNEED)
    if (bytes_) madvise(data_, bytes_, MADV_DONTNEED);
#endif
  }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace trimtab::exec
