#include "runtime/worker.hpp"

#include "runtime/pipeline_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

namespace sluice {

namespace {

using namespace std::chrono_literals;

// For as long as who stops the worker does not ring.
constexpr auto look_around = std::chrono::nanoseconds(100ms);
// Between two times that a message is given back, if nothing else is done: at first, then twice as long.
constexpr auto shortest_pause = std::chrono::nanoseconds(1ms);
// A worker that is to stop waits so long for room in the next queue; what it has in hand stays where it was.
constexpr auto patience_for_room = 1s;

class Loop {
 public:
  Loop(Lane& lane, const WorkerOptions& options, const Handler& handler, const std::atomic<bool>& stop)
      : lane_(lane), options_(options), handler_(handler), stop_(stop) {}

  Expected<void> open();
  Expected<WorkerReport> run();

 private:
  Expected<void> open_consumer(std::size_t from);
  Expected<bool> serve(std::size_t from);
  Status settle(Received& received, Verdict verdict, Delivery& delivery);
  Status pass(Received& received, const Message& onward);
  Status pass_to_all(Received& received, const Message& onward);
  Status send_on(const std::function<Status()>& try_once, const Producer& into);
  void wait();
  void shed();
  std::unexpected<Error> failed(std::size_t from, Status status) const;

  Lane& lane_;
  const WorkerOptions& options_;
  const Handler& handler_;
  const std::atomic<bool>& stop_;
  std::vector<std::unique_ptr<Consumer>> consumers_;
  std::vector<bool> ended_;
  std::vector<Producer> into_;
  std::vector<WaitSource> sources_;
  WorkerReport report_;
  bool has_returned_ = false;  // in this turn the handler gave something back
  std::chrono::nanoseconds pause_ = shortest_pause;
  std::uint64_t short_seen_ = 0;
};

Expected<void> Loop::open() {
  consumers_.resize(options_.from.size());
  for (std::size_t i = 0; i < consumers_.size(); ++i)
    if (auto opened = open_consumer(i); !opened) return opened;
  ended_.assign(consumers_.size(), false);
  for (const auto& name : options_.into) {
    auto producer = Producer::open(lane_, name);
    if (!producer) return std::unexpected(std::move(producer.error()));
    into_.push_back(std::move(*producer));
  }
  if (options_.opened) options_.opened();
  return {};
}

Expected<void> Loop::open_consumer(std::size_t from) {
  consumers_[from].reset();  // a subscription has one subscriber
  auto consumer = Consumer::open(lane_, options_.from[from], options_.subscription);
  if (!consumer) return std::unexpected(std::move(consumer.error()));
  consumers_[from] = std::make_unique<Consumer>(std::move(*consumer));
  return {};
}

std::unexpected<Error> Loop::failed(std::size_t from, Status status) const {
  const auto& name = options_.from[from];
  if (status != Status::corrupt) return fail(status, fmt::format("queue {}: {}", name, to_string(status)));
  const auto& message = consumers_[from]->damaged();
  return fail(
      status,
      fmt::format("queue {}: message of flow {} at {} names bytes {} to {} of block {:#x}: no such block is "
                  "live, or it is shorter",
                  name, message.flow, message.position, message.offset,
                  std::uint64_t{message.offset} + message.length, message.handle));
}

// Wait for room as long as there is hope.
Status Loop::send_on(const std::function<Status()>& try_once, const Producer& into) {
  auto status = try_once();
  for (auto waited = 0ns; status == Status::full || status == Status::interrupted; waited += look_around) {
    if (!into.waits_for_room()) {
      ++report_.refused;
      return status;
    }
    if (options_.idle) options_.idle();
    shed();
    if (!stop_.load(relaxed)) waited = 0ns;
    if (waited >= patience_for_room) return Status::full;
    status = try_once();
  }
  return status;
}

// That flows are over concerns all streams; told twice it is as good as once.
Status Loop::pass_to_all(Received& received, const Message& onward) {
  for (auto& into : into_) {
    const auto status = send_on([&] { return into.publish(onward, look_around); }, into);
    if (status != Status::ok && !(status == Status::full && !into.waits_for_room())) return status;
  }
  return received.acknowledge();
}

Status Loop::pass(Received& received, const Message& onward) {
  if (into_.empty()) return received.acknowledge();
  if (into_.size() > 1 && onward.kind == MessageKind::restart) return pass_to_all(received, onward);
  auto& into = into_[onward.flow % into_.size()];
  const auto status = send_on([&] { return received.forward(into, onward, look_around); }, into);
  if (status == Status::full && !into.waits_for_room()) return received.acknowledge();
  return status;
}

Status Loop::settle(Received& received, Verdict verdict, Delivery& delivery) {
  switch (verdict.what()) {
    case Verdict::What::pass: return pass(received, delivery.onward);
    case Verdict::What::done: return received.acknowledge();
    case Verdict::What::again: return received.reject();
    case Verdict::What::stop: break;
  }
  return verdict.status();
}

// Serve a batch of one queue. True: something of it is done, or goes on; report_.ended says whether it is over.
Expected<bool> Loop::serve(std::size_t from) {
  bool any = false;
  for (std::uint32_t served = 0; served < options_.batch; ++served) {
    auto received = consumers_[from]->try_receive();
    if (!received) {
      ended_[from] = received.error() == Status::closed;
      if (ended_[from] || received.error() == Status::empty) return any;
      if (received.error() != Status::disconnected) return failed(from, received.error());
      ++report_.disconnected;
      if (auto anew = open_consumer(from); !anew) return std::unexpected(std::move(anew.error()));
      return true;
    }
    ended_[from] = false;
    Delivery delivery{.message = received->message(),
                      .bytes = received->bytes(),
                      .redelivered = received->deliveries() != 0,
                      .deliveries = received->deliveries(),
                      .from = from,
                      .received = &*received,
                      .onward = received->message()};
    const bool redelivered = delivery.redelivered;
    const auto length = delivery.message.length;
    const auto verdict = handler_(delivery);
    if (const auto status = settle(*received, verdict, delivery); status != Status::ok) {
      if (verdict.what() != Verdict::What::stop && status != Status::full)
        return fail(status,
                    fmt::format("queue {}: a message of it cannot go on{}: {}", options_.from[from],
                                into_.empty() ? "" : " into " + options_.into.front(), to_string(status)));
      report_.ended = status;
      return any;
    }
    if (verdict.what() == Verdict::What::again) {
      has_returned_ = true;
      continue;
    }
    any = true;
    ++report_.messages;
    report_.bytes += length;
    report_.redelivered += redelivered ? 1 : 0;
  }
  return any;
}

// A message, or the end, of what has not ended; of the others a look now and then: they may be opened again. What the
// handler has just given back is there at once: it is not shown again before some time.
void Loop::wait() {
  sources_.clear();
  for (std::size_t i = 0; i < consumers_.size() && !has_returned_; ++i)
    if (!ended_[i]) sources_.push_back(consumers_[i]->source());
  sources_.push_back({&stop_, [](const void* of) noexcept {
                        return static_cast<const std::atomic<bool>*>(of)->load(relaxed);
                      }});
  pause_ = has_returned_ ? std::min(2 * pause_, look_around) : shortest_pause;
  (void)wait_any(lane_, sources_, has_returned_ ? pause_ : look_around);
}

// Make room for those who are short of blocks: what a broadcast of ours keeps for late subscribers comes back.
void Loop::shed() {
  const auto short_of = load(pipeline_state(lane_.segment()).short_of_blocks, relaxed);
  if (std::exchange(short_seen_, short_of) == short_of) return;
  for (auto& into : into_)
    if (into.shed()) lane_.heap().flush();
}

Expected<WorkerReport> Loop::run() {
  for (;;) {
    // Before the look at the queues: what who stops us has brought back by then is served.
    const bool stopping = stop_.load(acquire);
    bool any = false;
    has_returned_ = false;
    for (std::size_t i = 0; i < consumers_.size(); ++i) {
      const auto served = serve(i);
      if (!served) return std::unexpected(served.error());
      if (report_.ended != Status::ok) return report_;
      any = any || *served;
    }
    shed();
    if (any) {
      pause_ = shortest_pause;
      continue;
    }
    lane_.heap().flush();  // nobody waits for blocks that a sleeper has freed
    if (stopping || std::ranges::find(ended_, false) == ended_.end()) return report_;
    if (options_.idle) options_.idle();
    if (!stop_.load(relaxed)) wait();
  }
}

}  // namespace

Expected<WorkerReport> run_worker(Lane& lane, const WorkerOptions& options, const Handler& handler,
                                  const std::atomic<bool>& stop) {
  Loop loop(lane, options, handler, stop);
  if (auto opened = loop.open(); !opened) return std::unexpected(std::move(opened.error()));
  return loop.run();
}

}  // namespace sluice
