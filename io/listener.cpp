#include "io/listener.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <memory>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sluice {

namespace {

constexpr int socket_flags = SOCK_CLOEXEC | SOCK_NONBLOCK;

std::string address_text(const std::string& host, std::uint16_t port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

}  // namespace

Expected<std::unique_ptr<Listener>> Listener::open(Ring& ring, const std::string& host, std::uint16_t port,
                                                   std::uint32_t parked_max) {
  std::unique_ptr<Listener> listener(new Listener(ring, parked_max));
  if (auto listening = listener->listen(host, port); !listening) return std::unexpected(listening.error());
  return listener;
}

Expected<void> Listener::listen(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (host.empty() || getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    return fail(
        Status::bad_argument,
        fmt::format("listen on \"{}\": expected a numeric IPv4 or IPv6 address, like 127.0.0.1 or ::1",
                    host));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> address(found, &freeaddrinfo);
  const std::string what = "listen on " + address_text(host, port);

  fd_ = ::socket(address->ai_family, SOCK_STREAM | socket_flags, IPPROTO_TCP);
  if (fd_ < 0) return fail_errno(what);
  const int on = 1;
  // Accepted sockets inherit both. Keep-alive ends the flows of peers that vanished without a word.
  setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  if (bind(fd_, address->ai_addr, address->ai_addrlen) != 0) return fail_errno(what);
  if (::listen(fd_, SOMAXCONN) != 0) return fail_errno(what);

  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (getsockname(fd_, reinterpret_cast<sockaddr*>(&bound), &length) != 0) return fail_errno(what);
  port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                            : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  return {};
}

Listener::~Listener() {
  if (fd_ >= 0) ::close(fd_);
  while (refuse_next()) {}
}

void Listener::arm(bool multishot) noexcept {
  io_uring_sqe* sqe = ring_.next(UserData{RingOp::accept, 0, generation_ + 1}.encode());
  if (sqe == nullptr) return;
  if (multishot)
    io_uring_prep_multishot_accept(sqe, fd_, nullptr, nullptr, socket_flags);
  else
    io_uring_prep_accept(sqe, fd_, nullptr, nullptr, socket_flags);
  ++generation_;
  armed_ = true;
  multishot_ = multishot;
  cancelling_ = false;
  retry_at_ = Clock::time_point::max();
}

void Listener::cancel() noexcept {
  if (!armed_ || cancelling_) return;
  io_uring_sqe* sqe = ring_.next(UserData{RingOp::cancel_accept, 0, generation_}.encode());
  if (sqe == nullptr) return;  // steer() or stop() comes again
  io_uring_prep_cancel64(sqe, UserData{RingOp::accept, 0, generation_}.encode(), 0);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  cancelling_ = true;
}

void Listener::park(int fd) noexcept {
  if (waiting() == sockets_.size()) {  // cannot be: the completion queue is no larger
    ::close(fd);
    return;
  }
  sockets_[tail_++ % sockets_.size()] = fd;
}

int Listener::next() noexcept { return head_ == tail_ ? -1 : sockets_[head_++ % sockets_.size()]; }

bool Listener::refuse_next() noexcept {
  const int fd = next();
  if (fd >= 0) ::close(fd);
  return fd >= 0;
}

void Listener::complete(UserData data, int result, std::uint32_t flags, Clock::time_point now) noexcept {
  if (result >= 0) park(result);
  if (data.generation != generation_ || !armed_) {
    ++stale_;
    return;
  }
  if ((flags & IORING_CQE_F_MORE) != 0) return;
  armed_ = false;
  cancelling_ = false;
  switch (-result) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      ++backoffs_;
      retry_at_ = now + backoff;
      break;
    case EBADF:
    case EINVAL:
    case EOPNOTSUPP: failure_ = -result; break;
    default: break;  // cancelled, interrupted, or one client's own failure: steer() arms again
  }
}

void Listener::steer(std::uint32_t free_slots, std::uint32_t slots, Clock::time_point now) noexcept {
  if (fd_ < 0 || failure_ != 0) return;
  if (stopping_) {
    stop();
    return;
  }
  if (waiting() >= free_slots) {
    if (!paused_) ++pauses_;
    paused_ = true;
    cancel();
    return;
  }
  if (armed_ || (retry_at_ != Clock::time_point::max() && now < retry_at_)) return;
  const std::uint32_t left = free_slots - waiting();
  arm(left > slots / 2);
  paused_ = !armed_;
}

void Listener::stop() noexcept {
  stopping_ = true;
  retry_at_ = Clock::time_point::max();
  if (fd_ < 0) return;
  if (armed_)
    cancel();
  else
    close_after_backlog();
}

// Clients that have connected, and may have sent all they had, are not turned away.
void Listener::close_after_backlog() noexcept {
  while (waiting() < sockets_.size()) {
    const int fd = accept4(fd_, nullptr, nullptr, socket_flags);
    if (fd >= 0)
      park(fd);
    else if (errno != EINTR && errno != ECONNABORTED)
      break;
  }
  ::close(fd_);
  fd_ = -1;
}

std::uint64_t raise_descriptor_limit() noexcept {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  return limit.rlim_cur;
}

}  // namespace sluice
