// Readers of a segment that somebody damages while they read: they never crash, and they end.
#include "ipc/audit.hpp"
#include "ipc/broadcast.hpp"
#include "ipc/stream.hpp"
#include "ipc/work_queue.hpp"
#include "tests/support/child.hpp"
#include "tests/support/temp_segment.hpp"

#include <catch2/catch.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace sluice::test {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr const char* commands[] = {"info", "processes", "lanes", "queues", "blocks", "check"};

std::uint64_t seed() {
  const char* given = std::getenv("SLUICE_SEED");
  const auto value = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  std::printf("seed %llu (SLUICE_SEED)\n", value);
  std::fflush(stdout);
  return value;
}

// Blocks, a run, and queues of each kind with messages in them: some of the work is leased, some was given back, and a
// subscriber is durable.
void furnish(Rig& rig) {
  for (const auto* name : {"one", "two"}) {
    auto producer = must(StreamProducer::claim(*rig.lane, must(create_stream(*rig.lane, name, 64))));
    for (int i = 0; i < 40; ++i) must(producer.push(Message{}, must(rig.heap().allocate(200))));
  }
  must(create_work_queue(*rig.lane, "dead", {.capacity = 8}));
  auto work = must(WorkQueue::open(
      *rig.lane, must(create_work_queue(*rig.lane, "work",
                                        {.capacity = 64, .deliveries_max = 3, .dead_letter = "dead"}))));
  for (int i = 0; i < 40; ++i) must(work.push(Message{}, must(rig.heap().allocate(200))));
  for (int i = 0; i < 10; ++i) {
    const auto lease = must(work.take());
    if (i % 3 == 0) must(work.reject(lease));
  }
  const auto topic = must(create_broadcast(*rig.lane, "topic", {.capacity = 64, .subscribers_max = 4}));
  must(ensure_subscription(*rig.lane, topic, {.name = "durable"}));
  auto publisher = must(Publisher::claim(*rig.lane, topic));
  for (int i = 0; i < 40; ++i) must(publisher.push(Message{}, must(rig.heap().allocate(200))));
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{4096}, 3 * unit_bytes})
    must(rig.heap().allocate(bytes));
}

// Words that readers take for sizes, places and states; each is wrong for a moment and then right again, so that
// a check passes and what follows it sees another value.
class Scribbler {
 public:
  Scribbler(const std::string& path, std::uint64_t seed, bool sizes_too)
      : segment_(must(Segment::attach_read_only(path))), random_(seed) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    void* mapped =
        ::mmap(nullptr, std::filesystem::file_size(path), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must_hold(fd >= 0 && mapped != MAP_FAILED, "the file can be written");
    base_ = static_cast<std::byte*>(mapped);
    const auto& header = segment_.header();
    for (std::uint32_t i = 0; i < header.queue_count; ++i) {
      if (queue_word::state(queue_row(segment_, i).word) != QueueState::ready) continue;
      add(RegionKind::queues, i, offsetof(QueueRow, kind), offsetof(QueueRow, name));
      add(RegionKind::queues, i, offsetof(QueueRow, tail), offsetof(QueueRow, bytes_in));
      add(RegionKind::queues, i, offsetof(QueueRow, head), offsetof(QueueRow, redelivered));
      add(RegionKind::queues, i, offsetof(QueueRow, policy), offsetof(QueueRow, reserved_policy));
    }
    for (std::uint32_t i = 0; i < header.queue_count; ++i)
      if (const auto& row = queue_row(segment_, i); queue_word::state(row.word) == QueueState::ready)
        add_ring(row);
    for (std::uint64_t i = 0; i < segment_.units_committed(); ++i) add(RegionKind::units, i, 0, 24);
    for (std::uint32_t i = 0; i < header.lane_count; ++i) add(RegionKind::lanes, i, 0, 256);
    for (std::uint32_t i = 0; i < header.process_count; ++i) add(RegionKind::processes, i, 0, 32);
    for (std::uint64_t i = 0; i < segment_.units_committed(); ++i) add(RegionKind::truth, i, 0, 256);
    if (sizes_too) add(RegionKind::control, 0, 0, 8);
  }

  [[noreturn]] void run() {
    for (;;) {
      const auto [place, right] = words_[pick()];
      auto& word = *place;
      store(word, wrong(right), relaxed);
      for (auto spins = random_() % 64; spins != 0; --spins) cpu_relax();
      store(word, right, relaxed);
    }
  }

 private:
  struct Scribbled {
    std::uint64_t* place;
    std::uint64_t right;
  };
  void add(RegionKind kind, std::uint64_t index, std::uint64_t from, std::uint64_t to) {
    const auto& region = segment_.geometry().region(kind);
    auto* element = base_ + region.offset + index * region.stride;
    for (auto offset = from; offset < to; offset += 8) {
      auto* word = reinterpret_cast<std::uint64_t*>(element + offset);
      words_.push_back({word, load(*word, relaxed)});
    }
    if (kind == RegionKind::queues) queue_words_ = words_.size();
  }
  // The slots and the subscribers' rows of a queue.
  void add_ring(const QueueRow& row) {
    const auto ring = sound_ring(segment_, row, static_cast<QueueKind>(row.kind));
    if (!ring) return;
    auto* first = base_ + (reinterpret_cast<const std::byte*>(ring->slots) - segment_.base());
    const auto bytes = ring->capacity * sizeof(Message) + ring->subscribers.size() * sizeof(SubscriberRow);
    for (std::uint64_t offset = 0; offset < bytes; offset += 8) {
      auto* word = reinterpret_cast<std::uint64_t*>(first + offset);
      words_.push_back({word, load(*word, relaxed)});
    }
  }
  // Every other time in a queue's row: most numbers that lead to an address are there.
  std::size_t pick() { return random_() % (random_() % 2 == 0 ? queue_words_ : words_.size()); }

  std::uint64_t wrong(std::uint64_t right) {
    switch (random_() % 4) {
      case 0: return random_();
      case 1: return right ^ std::uint64_t{1} << random_() % 64;
      case 2: return random_() % 2 == 0 ? 0 : ~std::uint64_t{0};
      default: return right & 0xffff'ffff'0000'0000U;  // half a word, as of two fields of 32 bits
    }
  }

  Segment segment_;
  std::mt19937_64 random_;
  std::byte* base_ = nullptr;
  std::vector<Scribbled> words_;
  std::size_t queue_words_ = 0;
};

struct ProgramEnd {
  Exit exit;
  std::string errors;  // what it wrote on stderr
};

// `shm-dump COMMAND SEGMENT --json`, its result thrown away.
class ShmDump {
 public:
  ShmDump(const std::string& command, const std::string& segment, const std::string& scratch)
      : errors_(scratch), child_([&](ChildLink&) {
          const char* bin = std::getenv("SLUICE_BIN_DIR");
          must_hold(bin != nullptr, "SLUICE_BIN_DIR names the programs");
          const auto program = std::string(bin) + "/shm-dump";
          must_hold(std::freopen("/dev/null", "w", stdout) != nullptr &&
                        std::freopen(scratch.c_str(), "w", stderr) != nullptr,
                    "its streams can be redirected");
          ::execl(program.c_str(), program.c_str(), command.c_str(), segment.c_str(), "--json", nullptr);
        }) {}

  pid_t pid() const noexcept { return child_.pid(); }
  ProgramEnd wait() {
    ProgramEnd end{.exit = child_.wait(30s), .errors = {}};
    std::ifstream in(errors_);
    for (std::string line; std::getline(in, line);) end.errors += line + "\n";
    return end;
  }

 private:
  std::string errors_;
  Child child_;
};

bool maps(pid_t pid, const std::string& path) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(in, line);)
    if (line.ends_with(path)) return true;
  return false;
}

}  // namespace

TEST_CASE("hostile bytes: the audit of metadata that changes under it never crashes and ends",
          "[process][fuzz]") {
  const auto first_seed = seed();
  Rig rig(small_options(24));
  furnish(rig);
  Child scribbler([&](ChildLink& link) {
    Scribbler scribbling(rig.file.path(), first_seed, false);
    link.ready();
    scribbling.run();
  });
  REQUIRE(scribbler.wait_ready());
  const auto reader = run_child(
      [&] {
        for (const auto end = Clock::now() + 3s; Clock::now() < end;)
          if (const auto segment = Segment::attach_read_only(rig.file.path())) audit(*segment);
      },
      60s);
  CHECK(reader.code == 0);
  scribbler.kill_and_wait();
}

TEST_CASE("hostile bytes: shm-dump of metadata that changes under it prints or refuses, and ends",
          "[process][fuzz]") {
  const auto first_seed = seed();
  Rig rig(small_options(24));
  furnish(rig);
  Child scribbler([&](ChildLink& link) {
    Scribbler scribbling(rig.file.path(), first_seed, true);
    link.ready();
    scribbling.run();
  });
  REQUIRE(scribbler.wait_ready());
  const auto scratch = rig.file.directory().file("errors");
  for (const auto end = Clock::now() + 3s; Clock::now() < end;)
    for (const auto* command : commands) {
      const auto ended = ShmDump(command, rig.file.path(), scratch).wait();
      CAPTURE(command, ended.exit.signal, ended.exit.timed_out, ended.errors);
      REQUIRE((ended.exit.code == 0 || ended.exit.code == 5));
    }
  scribbler.kill_and_wait();
}

TEST_CASE("hostile bytes: a file that is cut off under shm-dump is one line and exit code 5", "[process]") {
  Rig rig(small_options(24));
  furnish(rig);
  const auto path = rig.file.directory().file("cut");
  const auto scratch = rig.file.directory().file("errors");
  // A state that no unit has, in a file that somebody seems to use: `check` walks again and again, so the file can
  // be cut off between two of its walks.
  rig.segment().unit(rig.segment().units_committed() - 1).word = 15;
  for (int round = 0; round < 5; ++round) {
    std::filesystem::copy_file(rig.file.path(), path, std::filesystem::copy_options::overwrite_existing);
    auto session = must(Session::open(path, "owner"));
    ShmDump dump("check", path, scratch);
    const auto deadline = Clock::now() + 20s;
    while (!maps(dump.pid(), path) && Clock::now() < deadline) std::this_thread::sleep_for(100us);
    session.leave();  // this process must not look at the file any more
    std::filesystem::resize_file(path, 0);
    const auto ended = dump.wait();
    CAPTURE(round, ended.exit.signal, ended.exit.code, ended.errors);
    CHECK(ended.exit.code == 5);
    CHECK(ended.errors == "shm-dump: the file ended or could not be read while it was looked at\n");
  }
}

}  // namespace sluice::test
