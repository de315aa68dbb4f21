// Allocate + free pairs in the mapped file, beside Boost.Interprocess, glibc and mimalloc. Rounds of all four are
// interleaved in one run; a sample is the mean of one batch.
#include "runtime/session.hpp"
#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>
#include <boost/interprocess/managed_mapped_file.hpp>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>

#include <dlfcn.h>

namespace {

using namespace sluice;
using namespace sluice::bench;
namespace bip = boost::interprocess;

constexpr int rounds = 4000;
constexpr int batch = 256;

// Keeps the compiler from pairing malloc with free and dropping both.
void keep(void* pointer) { asm volatile("" : : "r"(pointer) : "memory"); }

template <class Pair>
double batch_ns(Pair&& pair) {
  const auto begin = now_ns();
  for (int i = 0; i < batch; ++i) pair();
  return static_cast<double>(now_ns() - begin) / batch;
}

struct Mimalloc {
  void* (*allocate)(std::size_t) = nullptr;
  void (*free)(void*) = nullptr;
};

// Loaded by hand: linked, the library would take over malloc itself.
Mimalloc load_mimalloc() {
  void* library = dlopen("libmimalloc.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return {};
  return {reinterpret_cast<void* (*)(std::size_t)>(dlsym(library, "mi_malloc")),
          reinterpret_cast<void (*)(void*)>(dlsym(library, "mi_free"))};
}

}  // namespace

int main(int argc, char** argv) {
  Report report("alloc", argc, argv);
  pin_to_core(1);
  const ScratchPath path("alloc");
  auto segment = Segment::create(path.str());
  if (!segment) return fmt::print(stderr, "alloc_bench: {}\n", segment.error().message), 1;
  auto session = Session::join(std::move(*segment), "bench");
  if (!session) return fmt::print(stderr, "alloc_bench: {}\n", session.error().message), 1;
  const ScratchPath boost_path("alloc-boost");
  bip::managed_mapped_file boost_segment(bip::create_only, boost_path.str().c_str(), 64 << 20);
  const auto mimalloc = load_mimalloc();
  report.note(fmt::format(
      "samples: {} interleaved batches of {} pairs; a timer call costs {:.0f} ns, shared by a batch", rounds,
      batch, timer_overhead_ns()));
  if (mimalloc.allocate == nullptr) report.note("mimalloc: libmimalloc.so.2 is not installed, left out");
  {
    auto lane = session->claim_lane({.cells = 4096, .name = "alloc"});
    if (!lane) return fmt::print(stderr, "alloc_bench: {}\n", lane.error().message), 1;
    auto& heap = (*lane)->heap();
    for (const std::size_t bytes : {64U, 256U, 1024U, 4096U}) {
      std::map<std::string, std::vector<double>> samples;
      const std::vector<std::pair<std::string, std::function<double()>>> contestants = {
          {"ours",
           [&] {
             return batch_ns([&] {
               const auto reference = heap.allocate(bytes);
               if (!reference || heap.release(*reference) != Status::ok) std::abort();
             });
           }},
          {"Boost.Interprocess",
           [&] {
             return batch_ns([&] {
               void* block = boost_segment.allocate(bytes);
               keep(block);
               boost_segment.deallocate(block);
             });
           }},
          {"glibc malloc",
           [&] {
             return batch_ns([&] {
               void* block = std::malloc(bytes);
               keep(block);
               std::free(block);
             });
           }},
          {"mimalloc",
           [&] {
             return mimalloc.allocate == nullptr ? 0.0 : batch_ns([&] {
               void* block = mimalloc.allocate(bytes);
               keep(block);
               mimalloc.free(block);
             });
           }},
      };
      for (int round = 0; round < rounds; ++round)
        for (const auto& [name, run] : contestants) samples[name].push_back(run());
      for (const double p : {50.0, 99.0, 99.9}) {
        const double ours = percentile(samples["ours"], p);
        for (const char* peer : {"Boost.Interprocess", "glibc malloc", "mimalloc"}) {
          if (percentile(samples[peer], p) == 0) continue;
          report.add({fmt::format("allocate + free {} B, p{:g}", bytes, p), "ns", ours, peer,
                      percentile(samples[peer], p)});
        }
      }
    }
  }
  return report.finish();
}
