#include "tests/verify/fuzz/targets/exercise.hpp"

#include "ipc/audit.hpp"
#include "ipc/stream.hpp"
#include "runtime/worker.hpp"
#include "tests/verify/fuzz/targets/arena.hpp"

#include <atomic>
#include <cstring>
#include <vector>

namespace sluice::fuzz {

namespace {

constexpr int actions_max = 64;
constexpr int refusals_max = 2;
constexpr std::size_t sizes[] = {1,
                                 64,
                                 200,
                                 1024,
                                 4096,
                                 8192,
                                 20000,
                                 32768,
                                 32769,
                                 65536,
                                 2 * unit_bytes,
                                 5 * unit_bytes,
                                 100 * unit_bytes};

// First and last byte: a block that reaches beyond the file is a SIGBUS here.
void touch(std::span<std::byte> bytes) {
  if (bytes.empty()) return;
  bytes.front() = bytes.back() = std::byte{0x5a};
  bytes[bytes.size() / 2] = std::byte{0xa5};
}

class Member {
 public:
  Member(Session& session, Input& input) : session_(session), input_(input) {
    for (auto& lane : lanes_)
      if (auto claimed = session.claim_lane({.cells = 64, .name = "fuzz"})) lane = std::move(*claimed);
    if (lanes_[0] == nullptr) return;
    if (const auto queue = find_queue(session.segment(), stream_name)) take_ends(*queue);
  }
  ~Member() {
    producer_ = {};  // ends before lanes
    consumer_ = {};
  }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  void run() {
    for (int i = 0; i < actions_max && !input_.empty() && lanes_[0] != nullptr; ++i) act();
  }

 private:
  void take_ends(QueueId queue) {
    if (auto producer = StreamProducer::claim(*lanes_[0], queue)) producer_ = std::move(*producer);
    auto& reader = lanes_[1] != nullptr ? *lanes_[1] : *lanes_[0];
    if (auto consumer = StreamConsumer::claim(reader, queue)) consumer_ = std::move(*consumer);
  }

  void act() {
    switch (input_.below(17)) {
      case 0:
      case 1: allocate(); break;
      case 2: release(); break;
      case 3:
        if (producer_ && !held_.empty() &&
            producer_.push(message_of(MessageKind::data), held_.back()) == Status::ok)
          held_.pop_back();
        break;
      case 4:
        if (producer_ && producer_.push(message_of(MessageKind::open)) == Status::ok) (void)producer_.room();
        break;
      case 5:
        if (consumer_)
          if (const auto taken = consumer_.pop(); taken && *taken) touch(held_elsewhere(*taken));
        break;
      case 6:
        if (consumer_ && consumer_.peek() != nullptr) (void)consumer_.acknowledge();
        break;
      case 7: lane().heap().flush(); break;
      case 8:
        (void)create_stream(lane(), input_.below(2) == 0 ? "new" : "newer", 1 + input_.below(64));
        break;
      case 9: forge(); break;
      case 10: work(); break;
      case 11: (void)session_.recover_dead(); break;
      case 12: reopen(); break;
      case 14: share(); break;
      case 15: resize(); break;
      case 16: find(); break;
      case 13: producer_ ? producer_.close() : void(); break;
    }
  }

  Lane& lane() { return input_.below(2) == 0 || lanes_[1] == nullptr ? *lanes_[0] : *lanes_[1]; }
  std::span<std::byte> held_elsewhere(Reference reference) {
    return (lanes_[1] != nullptr ? lanes_[1] : lanes_[0])->heap().bytes(reference);
  }

  // A refusal costs a thousand tries where some unit seems to be another lane's for a moment: a few are enough.
  void allocate() {
    if (refusals_ == refusals_max) return;
    auto& from = lane();
    const auto reference = from.heap().allocate(sizes[input_.below(std::size(sizes))]);
    if (!reference) {
      ++refusals_;
      return;
    }
    touch(from.heap().bytes(*reference));
    if (&from == lanes_[0].get()) held_.push_back(*reference);
  }

  void release() {
    if (held_.empty()) return;
    std::swap(one_held(), held_.back());
    (void)lanes_[0]->heap().release(held_.back());
    held_.pop_back();
  }

  Reference& one_held() { return held_[input_.below(static_cast<std::uint32_t>(held_.size()))]; }

  void share() {
    if (held_.empty()) return;
    const auto reference = one_held();
    if (input_.below(2) == 0) (void)lanes_[0]->heap().make_findable(reference);
    if (const auto another = lanes_[0]->heap().clone(reference)) held_.push_back(*another);
  }

  void resize() {
    if (held_.empty()) return;
    auto& reference = one_held();
    if (const auto own = lanes_[0]->heap().own(reference)) touch(*own);
    if (const auto moved = lanes_[0]->heap().resize(reference, sizes[input_.below(std::size(sizes))]))
      reference = *moved;
  }

  // What the input names, and what it holds, by its handle alone.
  void find() {
    const Handle handle = held_.empty() ? Handle{input_.take<std::uint64_t>()} : one_held().handle;
    auto& by = lane();
    if (const auto reference = by.heap().look_up(handle)) {
      touch(by.heap().bytes(*reference));
      (void)by.heap().release(*reference);
    }
  }

  // References that nobody gave out.
  void forge() {
    const Reference forged{{input_.take<std::uint64_t>()}, input_.take<std::uint32_t>()};
    touch(lane().heap().bytes(forged));
    (void)lane().heap().release(forged);
    if (producer_) (void)producer_.push({}, forged);
  }

  // The stop flag is set: it takes what is there and ends.
  void work() {
    producer_ = {};
    consumer_ = {};
    const std::atomic<bool> stop{true};
    const auto read = [](const Delivery& delivery) {
      std::uint8_t sum = 0;
      for (const auto byte : delivery.bytes.first(std::min<std::size_t>(delivery.bytes.size(), 256)))
        sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(byte));
      return sum == 77 ? Status::interrupted : Status::ok;
    };
    (void)run_worker(lane(), {.from = {stream_name}}, read, stop);
  }

  void reopen() {
    producer_ = {};
    consumer_ = {};
    if (const auto queue =
            find_or_create_stream(*lanes_[0], input_.below(2) == 0 ? stream_name : spare_stream_name, 16))
      take_ends(*queue);
  }

  Session& session_;
  Input& input_;
  std::unique_ptr<Lane> lanes_[2];
  StreamProducer producer_;
  StreamConsumer consumer_;
  std::vector<Reference> held_;
  int refusals_ = 0;
};

}  // namespace

void exercise(Session& session, Input& input) {
  Member member(session, input);
  member.run();
}

void look_at(const Segment& segment, Input& input) {
  (void)audit(segment);
  for (int i = 0; i < 8 && !input.empty(); ++i) {
    const auto found = find_block(segment, {input.take<std::uint64_t>()});
    if (!found || found->bytes == 0) continue;
    // A block lies in committed units, whatever the handle was.
    const volatile std::byte first = found->data[0], last = found->data[found->bytes - 1];
    (void)first, (void)last;
  }
}

}  // namespace sluice::fuzz
