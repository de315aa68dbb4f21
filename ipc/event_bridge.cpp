#include "ipc/event_bridge.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <new>
#include <system_error>

#include <sys/eventfd.h>
#include <unistd.h>

namespace sluice {

namespace {

using namespace std::chrono_literals;

// Signals are for the threads of the user.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

bool is_set(const void* flag) noexcept { return static_cast<const std::atomic<bool>*>(flag)->load(acquire); }

}  // namespace

Expected<std::unique_ptr<EventBridge>> EventBridge::start(const Segment& segment, const Membership& process,
                                                          std::span<const WaitSource> sources) {
  if (sources.empty()) return fail(Status::bad_argument, "event bridge: no sources");
  for (const auto& source : sources)
    if (source.marks == nullptr)
      return fail(Status::bad_argument,
                  "event bridge: a source whose changer knows only the lane that it rings");
  auto lane = Lane::claim(segment, process, {.cells = 64, .name = "event bridge"});
  if (!lane) return std::unexpected(lane.error());
  try {
    std::unique_ptr<EventBridge> bridge(new EventBridge);
    bridge->lane_ = std::move(*lane);
    bridge->sources_.assign(sources.begin(), sources.end());
    bridge->sources_.push_back({&bridge->stop_, &is_set});
    bridge->fd_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (bridge->fd_ < 0) return fail_errno("eventfd");
    const SignalsBlocked blocked;
    bridge->thread_ = std::thread([self = bridge.get()] { self->run(); });
    return bridge;
  } catch (const std::bad_alloc&) {
    return fail(Status::exhausted, "event bridge: no memory");
  } catch (const std::system_error& error) {
    return fail(Status::exhausted, fmt::format("event bridge: no thread: {}", error.what()));
  }
}

EventBridge::~EventBridge() {
  if (lane_->is_ours()) {
    stop_.store(true, sluice::release);
    ring(lane_->row().doorbell);
    if (thread_.joinable()) thread_.join();
  } else if (thread_.joinable()) {
    thread_.detach();  // made by fork: there is no such thread here
  }
  if (fd_ >= 0) ::close(fd_);
}

void EventBridge::arm() noexcept {
  std::uint64_t fired;
  (void)!::read(fd_, &fired, sizeof fired);
  if (armed_.load(acquire))
    return;  // after the read: what was read was fired by a bridge that is not armed any more
  for (const auto& source : std::span(sources_).first(sources_.size() - 1))
    if (source.ready(source.of)) return fire();
  armed_.store(true, seq_cst);
  ring(lane_->row().doorbell);
}

void EventBridge::fire() const noexcept {
  constexpr std::uint64_t one = 1;
  while (::write(fd_, &one, sizeof one) < 0 && errno == EINTR) {}
}

void EventBridge::run() noexcept {
  const std::span<const WaitSource> all(sources_);
  const auto stop = all.size() - 1;
  const WaitSource idle[] = {all[stop], {&armed_, &is_set}};
  while (!stop_.load(acquire)) {
    if (!armed_.load(acquire)) {
      (void)wait_any(*lane_, idle, 1h);
      continue;
    }
    const auto found = wait_any(*lane_, all, 1h);
    if (!found || *found == stop) continue;
    armed_.store(false, sluice::release);
    fire();
  }
}

}  // namespace sluice
