#include "tests/unit/io_rig.hpp"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sluice::test {

using namespace std::chrono_literals;

void Journal::note(std::uint32_t stream, const Delivery& delivery) {
  const Message& message = delivery.message;
  const std::lock_guard lock(mutex_);
  if (message.kind == MessageKind::restart) {
    restarts_.push_back(message.flow);
    return;
  }
  FlowLog& flow = flows_[message.flow];
  const auto fault = [&](std::string_view what) {
    faults_.push_back(fmt::format("flow {} at {}: {}", message.flow, message.position, what));
  };
  if (message.kind == MessageKind::open) {
    if (flow.opened) fault("opened twice");
    flow.opened = true;
    flow.stream = stream;
    open_flows_max_ = std::max(open_flows_max_, ++open_flows_);
    return;
  }
  if (!flow.opened) fault("not opened");
  if (flow.ended) fault("something after its end");
  if (flow.stream != stream) fault("in another stream");
  if (message.position != flow.bytes.size()) fault(fmt::format("expected position {}", flow.bytes.size()));
  if (message.kind == MessageKind::data) {
    if (delivery.bytes.empty()) fault("empty data");
    flow.bytes.append(reinterpret_cast<const char*>(delivery.bytes.data()), delivery.bytes.size());
    return;
  }
  flow.ended = message.kind;
  flow.detail = message.detail;
  --open_flows_;
}

std::map<std::uint64_t, FlowLog> Journal::flows() const {
  const std::lock_guard lock(mutex_);
  return flows_;
}
std::vector<std::string> Journal::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_;
}
std::vector<std::uint64_t> Journal::restarts() const {
  const std::lock_guard lock(mutex_);
  return restarts_;
}
std::uint64_t Journal::open_flows_max() const {
  const std::lock_guard lock(mutex_);
  return open_flows_max_;
}

FlowLog Journal::flow_with(const std::string& head) const {
  FlowLog found;
  eventually([&] {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, flow] : flows_)
      if (flow.bytes.starts_with(head)) {
        found = flow;
        return flow.ended.has_value();
      }
    return false;
  });
  return found;
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

IngressPipeline::IngressPipeline(PipelineOptions options)
    : rig(small_options(options.units)), options_(std::move(options)) {
  for (std::uint32_t i = 0; i < options_.streams; ++i) {
    options_.ingress.into.push_back("stream." + std::to_string(i));
    must(create_stream(*rig.lane, options_.ingress.into.back(), options_.capacity));
  }
  start();
}

void IngressPipeline::start() {
  stop_ = stop_workers_ = false;
  keep_ingress_ = true;
  ingress_ = nullptr;
  open_error_.reset();
  std::atomic<bool> opened{false};
  ingress_thread_ = std::thread([this, &opened] {
    auto ingress = Ingress::open(rig.session, options_.ingress);
    if (!ingress) {
      open_error_ = ingress.error();
      opened = true;
      return;
    }
    ingress_ = ingress->get();
    port_ = (*ingress)->port();
    opened = true;
    ran_ = (*ingress)->run(stop_);
    stop_workers_ = true;
    while (keep_ingress_) std::this_thread::sleep_for(1ms);  // counters stay readable
  });
  while (!opened) std::this_thread::sleep_for(1ms);
  if (open_error_) {
    ingress_thread_.join();
    throw std::runtime_error(open_error_->message);
  }
  for (std::uint32_t i = 0; i < options_.streams; ++i)
    workers_.emplace_back([this, i] {
      const auto lane = rig.another_lane();
      WorkerOptions options;
      options.from = {options_.ingress.into[i]};
      const auto handler = [&](const Delivery& delivery) {
        while (held_) std::this_thread::sleep_for(1ms);
        journal.note(i, delivery);
        return Status::ok;
      };
      must(run_worker(*lane, options, handler, stop_workers_));
    });
}

Expected<void> IngressPipeline::stop(bool workers_stay) {
  stop_ = true;
  eventually([this] { return stop_workers_.load(); });
  if (!workers_stay) {
    let_go();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }
  return ran_;
}

void IngressPipeline::restart() {
  keep_ingress_ = false;
  ingress_thread_.join();
  start();
}

IngressPipeline::~IngressPipeline() {
  stop_ = stop_workers_ = true;
  held_ = false;
  for (auto& worker : workers_) worker.join();
  keep_ingress_ = false;
  if (ingress_thread_.joinable()) ingress_thread_.join();
}

Client::Client(std::uint16_t port, const char* host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* address = nullptr;
  if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &address) != 0)
    throw std::runtime_error("getaddrinfo");
  fd_ = ::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int result = ::connect(fd_, address->ai_addr, address->ai_addrlen);
  freeaddrinfo(address);
  if (result != 0) throw std::runtime_error(std::string("connect: ") + std::strerror(errno));
}

bool Client::send(const std::string& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const auto result = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (result < 0) return false;
    sent += static_cast<std::size_t>(result);
  }
  return true;
}

std::size_t Client::send_some(const std::string& bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    pollfd writable{fd_, POLLOUT, 0};
    if (::poll(&writable, 1, 100) <= 0) break;
    const auto result = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result < 0) break;
    sent += static_cast<std::size_t>(result);
  }
  return sent;
}

void Client::finish() { ::shutdown(fd_, SHUT_WR); }

void Client::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Client::reset() {
  const linger at_once{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close();
}

std::string content(std::uint64_t seed, std::size_t bytes) {
  std::string text = head_of(seed);
  const auto head = text.size();
  text.resize(std::max(head, bytes));
  fill_pattern(std::as_writable_bytes(std::span(text)).subspan(head), seed);
  return text;
}

}  // namespace sluice::test
