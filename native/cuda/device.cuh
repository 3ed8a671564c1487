// A GPU as an executor: the algorithms of exec/algorithms.h find these loops and use them (arXiv 2206.06302).
//
// Threads go through a range in strides of the whole grid, sixteen bytes at a time.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "exec/number.h"

namespace trimtab::exec {

inline void check_cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Sixteen bytes of T, moved by one instruction.
template <class T>
struct alignas(16) Pack {
  static constexpr int count = 16 / int(sizeof(T));
  T of[count];
};

// out pack i = f(i) for whole packs, and out[i] = one(i) for what is left over.
template <class T, class ByPack, class ByOne>
__global__ void write_packs(T* out, int64_t n, ByPack pack, ByOne one) {
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = int64_t(gridDim.x) * blockDim.x;
  const int64_t packs = n / Pack<T>::count;
  for (int64_t i = first; i < packs; i += stride) reinterpret_cast<Pack<T>*>(out)[i] = pack(i);
  for (int64_t i = packs * Pack<T>::count + first; i < n; i += stride) out[i] = one(i);
}

template <class T, class F>
struct OneInput {
  const T* in;
  F f;
  __device__ Pack<T> operator()(int64_t i) const {
    Pack<T> x = reinterpret_cast<const Pack<T>*>(in)[i];
    for (T& each : x.of) each = narrow<T>(f(widen(each)));
    return x;
  }
};
template <class T, class F>
struct OneNumber {
  const T* in;
  F f;
  __device__ T operator()(int64_t i) const { return narrow<T>(f(widen(in[i]))); }
};
template <class T, class F>
struct TwoInputs {
  const T *a, *b;
  F f;
  __device__ Pack<T> operator()(int64_t i) const {
    Pack<T> x = reinterpret_cast<const Pack<T>*>(a)[i];
    const Pack<T> y = reinterpret_cast<const Pack<T>*>(b)[i];
    for (int k = 0; k < Pack<T>::count; ++k) x.of[k] = narrow<T>(f(widen(x.of[k]), widen(y.of[k])));
    return x;
  }
};
template <class T, class F>
struct TwoNumbers {
  const T *a, *b;
  F f;
  __device__ T operator()(int64_t i) const { return narrow<T>(f(widen(a[i]), widen(b[i]))); }
};
template <class T>
struct Constant {
  T value;
  __device__ Pack<T> operator()(int64_t) const {
    Pack<T> x;
    for (T& each : x.of) each = value;
    return x;
  }
};
template <class T>
struct ConstantNumber {
  T value;
  __device__ T operator()(int64_t) const { return value; }
};

constexpr int kBlock = 256;

// Each block's sum; the host adds them in their order, so the result is the same on every run.
template <class T>
__global__ void sum_blocks(const T* in, int64_t n, double* sums) {
  __shared__ double shared[kBlock];
  const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = int64_t(gridDim.x) * blockDim.x;
  const int64_t packs = n / Pack<T>::count;
  double sum = 0;
  for (int64_t i = first; i < packs; i += stride) {
    const Pack<T> x = reinterpret_cast<const Pack<T>*>(in)[i];
    for (const T& each : x.of) sum += double(widen(each));
  }
  for (int64_t i = packs * Pack<T>::count + first; i < n; i += stride) sum += double(widen(in[i]));
  shared[threadIdx.x] = sum;
  for (int half = kBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

// Every loop returns when the device has finished it, as on a processor.
class Device {
 public:
  explicit Device(int number) {
    check_cuda(cudaSetDevice(number));
    int processors = 0;
    check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, number));
    blocks_ = 16 * processors;
    check_cuda(cudaMalloc(&sums_, size_t(blocks_) * sizeof(double)));
  }
  ~Device() { cudaFree(sums_); }
  Device(const Device&) = delete;

  int parts() const { return blocks_; }

  template <class T, class F>
  void transform(const T* in, T* out, int64_t n, const F& f) {
    write(out, n, OneInput<T, F>{in, f}, OneNumber<T, F>{in, f});
  }
  template <class T, class F>
  void transform(const T* a, const T* b, T* out, int64_t n, const F& f) {
    write(out, n, TwoInputs<T, F>{a, b, f}, TwoNumbers<T, F>{a, b, f});
  }
  template <class T>
  void fill(T* out, int64_t n, T value) {
    write(out, n, Constant<T>{value}, ConstantNumber<T>{value});
  }
  template <class T>
  double reduce(const T* in, int64_t n) {
    sum_blocks<<<blocks_, kBlock>>>(in, n, sums_);
    std::vector<double> sums(static_cast<size_t>(blocks_));
    check_cuda(cudaMemcpy(sums.data(), sums_, sums.size() * sizeof(double), cudaMemcpyDeviceToHost));
    double sum = 0;
    for (const double each : sums) sum += each;
    return sum;
  }

 private:
  template <class T, class ByPack, class ByOne>
  void write(T* out, int64_t n, const ByPack& pack, const ByOne& one) {
    write_packs<<<blocks_, kBlock>>>(out, n, pack, one);
    check_cuda(cudaGetLastError());
    check_cuda(cudaDeviceSynchronize());
  }

  int blocks_ = 0;
  double* sums_ = nullptr;
};

// n numbers in the device's memory, aligned as sixteen-byte moves want it.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t n) { check_cuda(cudaMalloc(&data_, size_t(n) * sizeof(T))); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

}  // namespace trimtab::exec
