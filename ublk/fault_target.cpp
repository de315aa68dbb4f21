#include "ublk/fault_target.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

class FaultQueue final : public TargetQueue {
 public:
  FaultQueue(std::unique_ptr<TargetQueue> inner, std::vector<FaultRule> rules, std::uint16_t depth)
      : inner_(std::move(inner)), rules_(std::move(rules)), seen_(rules_.size()) {
    held_.reserve(depth);
  }

  void start(Request& request) noexcept override {
    const FaultRule* rule = rule_for(request);
    if (rule == nullptr) return inner_->start(request);
    switch (rule->action) {
      case FaultRule::Action::error: request.finish(rule->errno_value); break;
      case FaultRule::Action::delay: held_.push_back({&request, Clock::now() + rule->delay, false}); break;
      case FaultRule::Action::stall:
        if (stopping_)
          request.finish(EIO);
        else
          held_.push_back({&request, Clock::time_point::max(), true});
        break;
    }
  }

  void complete(std::uint32_t cookie, std::int32_t result, std::uint32_t flags) noexcept override {
    inner_->complete(cookie, result, flags);
  }

  void poll() noexcept override {
    const auto now = Clock::now();
    release([now](const Held& held) { return held.due <= now; });
    inner_->poll();
  }

  Clock::time_point poll_at() const noexcept override {
    auto at = inner_->poll_at();
    for (const Held& held : held_) at = std::min(at, held.due);
    return at;
  }

  void stop() noexcept override {
    stopping_ = true;
    release([](const Held& held) { return held.stalled; });
    inner_->stop();
  }

 private:
  struct Held {
    Request* request;
    Clock::time_point due;
    bool stalled;
  };

  const FaultRule* rule_for(const Request& request) noexcept {
    for (std::size_t i = 0; i < rules_.size(); ++i) {
      const FaultRule& rule = rules_[i];
      if ((rule.operations >> static_cast<unsigned>(request.operation()) & 1) == 0) continue;
      const auto number = seen_[i]++;
      if (number >= rule.after && (number - rule.after) % rule.every == rule.every - 1) return &rule;
    }
    return nullptr;
  }

  // Those that are ready go on, or fail if they were stalled. Taken out first: to start one may finish others.
  template <class Ready>
  void release(Ready ready) noexcept {
    for (std::size_t i = 0; i < held_.size();) {
      if (!ready(held_[i])) {
        ++i;
        continue;
      }
      const Held held = held_[i];
      held_[i] = held_.back();
      held_.pop_back();
      if (held.stalled)
        held.request->finish(EIO);
      else
        inner_->start(*held.request);
    }
  }

  std::unique_ptr<TargetQueue> inner_;
  std::vector<FaultRule> rules_;
  std::vector<std::uint64_t> seen_;  // by rule
  std::vector<Held> held_;
  bool stopping_ = false;
};

}  // namespace

FaultTarget::FaultTarget(std::unique_ptr<Target> inner, std::vector<FaultRule> rules) noexcept
    : inner_(std::move(inner)), rules_(std::move(rules)) {}

Expected<std::unique_ptr<TargetQueue>> FaultTarget::open_queue(TargetContext& context) {
  auto inner = inner_->open_queue(context);
  if (!inner) return inner;
  return std::make_unique<FaultQueue>(std::move(*inner), rules_, context.depth());
}

}  // namespace sluice
