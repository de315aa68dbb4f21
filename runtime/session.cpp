#include "runtime/session.hpp"

#include <utility>

namespace sluice {

Expected<Session> Session::open(const std::string& path, std::string_view role) {
  auto segment = Segment::open(path);
  if (!segment) return std::unexpected(segment.error());
  return join(std::move(*segment), role);
}

Expected<Session> Session::join(Segment segment, std::string_view role) {
  Session session;
  session.segment_ = std::make_unique<Segment>(std::move(segment));
  auto membership = join_to_recover(*session.segment_, role);
  if (membership && membership->is_recoverer()) {
    sluice::recover_dead(*session.segment_, *membership);
    membership->leave();
    membership = Membership::join(*session.segment_, role);
  }
  if (!membership) return std::unexpected(membership.error());
  session.membership_ = std::move(*membership);
  session.recover_dead();
  return session;
}

Session::Session(Session&& other) noexcept = default;

Session& Session::operator=(Session&& other) noexcept {
  if (this == &other) return *this;
  leave();
  segment_ = std::move(other.segment_);
  membership_ = std::move(other.membership_);
  return *this;
}

void Session::leave() noexcept {
  membership_.leave();
  segment_.reset();
}

}  // namespace sluice
