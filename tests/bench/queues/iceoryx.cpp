// iceoryx 2: untyped publishers and subscribers, polled; loan, publish; take, release. Publishers wait for a full queue,
// as ours do: a message that may be dropped is another service. Needs its daemon, which the script starts.
#include "iceoryx_hoofs/log/logmanager.hpp"
#include "iceoryx_posh/popo/untyped_publisher.hpp"
#include "iceoryx_posh/popo/untyped_subscriber.hpp"
#include "iceoryx_posh/runtime/posh_runtime.hpp"
#include "tests/bench/queues/transports.hpp"

#include <fmt/format.h>

#include <chrono>
#include <functional>
#include <thread>

#include <unistd.h>

namespace sluice::bench {

namespace {

using namespace std::chrono_literals;
using iox::capro::IdString_t;

/// Names of this process's parent first: the script removes what is left of them, if anything is.
void join_runtime() {
  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kWarn,
                                                           iox::log::LogLevelOutput::kHideLogLevel);
  const auto name = fmt::format("sluice-bench-queues-{}-{}", getppid(), getpid());
  iox::runtime::PoshRuntime::initRuntime({iox::cxx::TruncateToCapacity, name.c_str()});
}

/// A service of its own for every measurement: the daemon forgets the previous one some time later.
iox::capro::ServiceDescription service(const std::string& instance, const char* event) {
  return {"sluice-bench", IdString_t(iox::cxx::TruncateToCapacity, instance.c_str()),
          IdString_t(iox::cxx::TruncateToCapacity, event)};
}

std::string next_instance() {
  static unsigned count = 0;
  return fmt::format("{}-{}", getpid(), ++count);
}

void until(const char* what, const std::function<bool()>& condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return;
    std::this_thread::sleep_for(1ms);
  }
  die(fmt::format("iceoryx: {} was refused, or not granted in 5 s", what));
}

class Publisher {
 public:
  Publisher(const iox::capro::ServiceDescription& service, std::uint64_t bytes,
            const iox::popo::PublisherOptions& options)
      : publisher_(service, options), bytes_(static_cast<std::uint32_t>(bytes)) {}

  std::byte* loan() {
    for (;;) {
      auto loaned = publisher_.loan(bytes_);
      if (!loaned.has_error()) return static_cast<std::byte*>(loaned_ = loaned.value());
      cpu_relax();
    }
  }
  void send() { publisher_.publish(loaned_); }
  void wait_for_subscriber() {
    until("a subscriber", [&] { return publisher_.hasSubscribers(); });
  }

 private:
  iox::popo::UntypedPublisher publisher_;
  void* loaned_ = nullptr;
  std::uint32_t bytes_;
};

class Subscriber {
 public:
  Subscriber(const iox::capro::ServiceDescription& service, const iox::popo::SubscriberOptions& options)
      : subscriber_(service, options) {}

  const std::byte* receive() {
    for (;;) {
      auto taken = subscriber_.take();
      if (!taken.has_error()) return static_cast<const std::byte*>(taken_ = taken.value());
      cpu_relax();
    }
  }
  void release() { subscriber_.release(taken_); }
  void wait_for_publisher() {
    until("a subscription",
          [&] { return subscriber_.getSubscriptionState() == iox::SubscribeState::SUBSCRIBED; });
  }

 private:
  iox::popo::UntypedSubscriber subscriber_;
  const void* taken_ = nullptr;
};

iox::popo::PublisherOptions waiting_publisher() {
  iox::popo::PublisherOptions options;
  options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
  return options;
}

iox::popo::SubscriberOptions blocking_subscriber(std::uint32_t capacity) {
  iox::popo::SubscriberOptions options;
  options.queueCapacity = capacity;
  options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
  return options;
}

class IceoryxEnd {
 public:
  IceoryxEnd(const std::string& instance, Side side, std::uint64_t bytes)
      : publisher_(service(instance, side == Side::caller ? "there" : "back"), bytes, waiting_publisher()),
        subscriber_(service(instance, side == Side::caller ? "back" : "there"),
                    blocking_subscriber(in_flight(bytes))) {
    subscriber_.wait_for_publisher();
    publisher_.wait_for_subscriber();
  }
  std::byte* loan() { return publisher_.loan(); }
  void send() { publisher_.send(); }
  const std::byte* receive() { return subscriber_.receive(); }
  void release() { subscriber_.release(); }

 private:
  Publisher publisher_;
  Subscriber subscriber_;
};

class IceoryxPair final : public Pair {
 public:
  void run(Side side, Board& board) override {
    join_runtime();
    IceoryxEnd end(instance_, side, board.task.bytes);
    measure(end, side, board);
  }

 private:
  std::string instance_ = next_instance();
};

class IceoryxFan final : public Fan {
 public:
  void publish(FanBoard& board) override {
    join_runtime();
    Publisher publisher(service(instance_, "fan"), fan_bytes, waiting_publisher());
    publish_batches(publisher, board);
  }
  void subscribe(FanBoard& board) override {
    join_runtime();
    Subscriber subscriber(service(instance_, "fan"), blocking_subscriber(in_flight(fan_bytes)));
    subscriber.wait_for_publisher();
    take_batches(subscriber, board);
  }

 private:
  std::string instance_ = next_instance();
};

}  // namespace

std::unique_ptr<Pair> open_iceoryx(const Task&, Waits) { return std::make_unique<IceoryxPair>(); }
std::unique_ptr<Fan> open_iceoryx_fan(const FanTask&) { return std::make_unique<IceoryxFan>(); }

}  // namespace sluice::bench
