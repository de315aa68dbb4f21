// Our broadcast, with one publisher and many subscribers that read in place; none may miss anything.
#include "ipc/broadcast.hpp"
#include "tests/bench/queues/sluice_side.hpp"
#include "tests/bench/queues/transports.hpp"

namespace sluice::bench {

namespace {

class PublisherEnd {
 public:
  explicit PublisherEnd(const std::string& path)
      : side_(path, "publisher", fan_bytes),
        publisher_(must(Publisher::claim(side_.lane(), side_.queue("fan")))) {}

  std::byte* loan() { return side_.loan(); }
  void send() {
    const auto message = side_.message();
    for (;;) {
      const auto status = publisher_.push(message, side_.loaned());
      if (status == Status::ok) return;
      if (status != Status::full) must(status);
      cpu_relax();
    }
  }

 private:
  SluiceSide side_;
  Publisher publisher_;
};

class SubscriberEnd {
 public:
  explicit SubscriberEnd(const std::string& path)
      : side_(path, "subscriber", fan_bytes),
        subscriber_(must(Subscriber::join(side_.lane(), side_.queue("fan")))) {}

  const std::byte* receive() {
    const auto* message = subscriber_.peek();
    while (message == nullptr) {
      cpu_relax();
      message = subscriber_.peek();
    }
    return subscriber_.bytes(*message).data();
  }
  void release() { must(subscriber_.advance()); }

 private:
  SluiceSide side_;
  Subscriber subscriber_;
};

class BroadcastFan final : public Fan {
 public:
  BroadcastFan() {
    create_segment(path_.str(), fan_bytes, [](Lane& lane) {
      must(create_broadcast(lane, "fan", {.capacity = in_flight(fan_bytes)}));
    });
  }
  void publish(FanBoard& board) override {
    PublisherEnd publisher(path_.str());
    publish_batches(publisher, board);
  }
  void subscribe(FanBoard& board) override {
    SubscriberEnd subscriber(path_.str());
    take_batches(subscriber, board);
  }

 private:
  ScratchPath path_{"queues"};
};

}  // namespace

std::unique_ptr<Fan> open_broadcast(const FanTask&) { return std::make_unique<BroadcastFan>(); }

}  // namespace sluice::bench
