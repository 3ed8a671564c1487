// trimtab-gpu-micro [--quick] [suite...]: rows of JSON on stdout, the device first.
#include <cstring>

#include "common.cuh"

int main(int count, char** words) {
  gpu::Device device{};
  std::vector<std::string> wanted;
  for (int i = 1; i < count; ++i)
    if (!std::strcmp(words[i], "--quick"))
      device.quick = true;
    else
      wanted.push_back(words[i]);
  CHECK(cudaSetDevice(0));
  CHECK(cudaGetDeviceProperties(&device.properties, 0));
  device.processors = device.properties.multiProcessorCount;
  int clock_khz = 0, driver = 0;
  CHECK(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, 0));
  CHECK(cudaDriverGetVersion(&driver));
  std::printf("{\"device\": \"%s\", \"capability\": \"%d.%d\", \"processors\": %d, \"clock_hz\": %.9g, "
              "\"l2_bytes\": %d, \"memory_bytes\": %zu, \"driver\": %d}\n",
              device.properties.name, device.properties.major, device.properties.minor, device.processors,
              clock_khz * 1e3, device.properties.l2CacheSize, device.properties.totalGlobalMem, driver);
  if (device.properties.major != 9) {
    std::fprintf(stderr, "these kernels are built for compute capability 9.0\n");
    return 3;
  }
  struct Suite {
    const char* name;
    void (*run)(const gpu::Device&);
  };
  const Suite suites[] = {{"memory", gpu::memory_suite},
                          {"tensor", gpu::tensor_suite},
                          {"cluster", gpu::cluster_suite},
                          {"bulk", gpu::bulk_suite},
                          {"dpx", gpu::dpx_suite}};
  for (const Suite& suite : suites)
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), suite.name) != wanted.end()) suite.run(device);
}
