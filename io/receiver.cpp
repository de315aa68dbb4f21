#include "io/receiver.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/utsname.h>

namespace sluice {

namespace {

// After this long with any buffer at all a starved connection is tried, however few buffers there are: all
// others may be held for good by a stream whose worker is stuck.
constexpr std::uint64_t starved_ns_max = 2'000'000;
// A heap that had no block is asked again after this long: it looks everywhere before it says no.
constexpr std::uint64_t refill_interval_ns = 200'000;

Message message_of(const Connection& connection, MessageKind kind, std::uint64_t now_ns) noexcept {
  Message message{};
  message.flow = connection.flow;
  message.position = connection.position;
  message.receive_ns = now_ns;
  message.kind = kind;
  return message;
}

std::pair<int, int> kernel_version() noexcept {
  utsname names{};
  int major = 0, minor = 0;
  if (uname(&names) == 0) {
    const std::string_view release = names.release;
    const auto [rest, error] = std::from_chars(release.data(), release.data() + release.size(), major);
    if (error == std::errc{} && rest != release.data() + release.size())
      std::from_chars(rest + 1, release.data() + release.size(), minor);
  }
  return {major, minor};
}

}  // namespace

Receiver::Receiver(Ring& ring, BufferRing& buffers, ConnectionPool& pool, Dispatch& dispatch,
                   PipelineState& pipeline, std::uint32_t share)
    : ring_(ring),
      buffers_(buffers),
      pool_(pool),
      dispatch_(dispatch),
      pipeline_(pipeline),
      share_(share),
      bundles_(ring.has_feature(uring_abi::feat_recvsend_bundle) && kernel_version() >= std::pair(6, 17)),
      stalled_(dispatch.stream_count()) {
  dispatch.listen(*this);
}

void Receiver::begin(int fd, std::uint64_t now_ns) noexcept {
  Connection* connection = pool_.take(fd);
  if (connection == nullptr) return;
  connection->stream = dispatch_.assign();
  // The number is used up before anybody can see it: a successor never gives it out again.
  connection->flow = load(pipeline_.next_flow, relaxed);
  store(pipeline_.next_flow, connection->flow + 1, release);
  ++counters_.accepted;
  dispatch_.send(connection->stream, message_of(*connection, MessageKind::open, now_ns));
  place(*connection, false);
}

void Receiver::complete(UserData data, int result, std::uint32_t flags, std::uint64_t now_ns) noexcept {
  std::optional<BufferLease> lease;
  if ((flags & IORING_CQE_F_BUFFER) != 0) {
    if (const auto taken = buffers_.take(flags >> IORING_CQE_BUFFER_SHIFT))
      lease = *taken;
    else
      ++counters_.bad_buffers;
  }
  Connection* found = pool_.find({data.slot, data.generation});
  if (found == nullptr || !found->armed) {
    ++counters_.stale_completions;
    if (lease) discard(*lease, result);
    return;
  }
  Connection& connection = *found;
  const bool last = (flags & IORING_CQE_F_MORE) == 0;
  if (last) connection.armed = connection.cancelling = false;

  bool no_buffer = false;
  if (result > 0 && lease) {
    receive(connection, *lease, static_cast<std::uint32_t>(result), now_ns);
  } else {
    if (lease) discard(*lease, 0);
    switch (-result) {
      case 0: connection.ended = true; break;
      case ENOBUFS: no_buffer = true; break;
      case ECANCELED:
      case EAGAIN:
      case EINTR: break;
      default: connection.failure = result > 0 ? EIO : -result; break;  // EIO: bytes in no buffer of ours
    }
  }

  if (!last) {
    if (must_pause(connection)) pause(connection);
  } else if (connection.failure != 0) {
    end(connection, MessageKind::abort, connection.failure, now_ns);
  } else if (connection.ended) {
    end(connection, MessageKind::close, 0, now_ns);
  } else if (connection.cut) {
    end(connection, MessageKind::abort, ECANCELED, now_ns);
  } else {
    place(connection, no_buffer);
  }
}

// One completion, one buffer or several in the ring's order.
void Receiver::receive(Connection& connection, const BufferLease& first, std::uint32_t length,
                       std::uint64_t now_ns) noexcept {
  BufferLease lease = first;
  for (;;) {
    const auto part = std::min(length, static_cast<std::uint32_t>(lease.bytes.size()));
    deliver(connection, lease, part, now_ns);
    length -= part;
    if (length == 0) return;
    const auto following = buffers_.take_next(lease);
    if (!following) {
      ++counters_.bad_buffers;
      connection.failure = EIO;
      return;
    }
    lease = *following;
  }
}

void Receiver::deliver(Connection& connection, const BufferLease& lease, std::uint32_t length,
                       std::uint64_t now_ns) noexcept {
  const auto reference = buffers_.keep(lease);
  if (!reference) {
    ++counters_.bad_buffers;
    connection.failure = EIO;
    return;
  }
  Message message = message_of(connection, MessageKind::data, now_ns);
  message.length = length;
  connection.position += length;
  counters_.bytes += length;
  ++counters_.messages;
  dispatch_.send(connection.stream, message, *reference, connection);
}

void Receiver::discard(const BufferLease& first, int length) noexcept {
  BufferLease lease = first;
  for (;;) {
    length -= static_cast<int>(lease.bytes.size());
    const auto following = length > 0 ? buffers_.take_next(lease) : std::unexpected(Status::empty);
    if (buffers_.give_back(lease) != Status::ok) ++counters_.bad_buffers;
    if (!following) return;
    lease = *following;
  }
}

void Receiver::end(Connection& connection, MessageKind kind, int errno_value, std::uint64_t now_ns) noexcept {
  stop_waiting(connection);
  Message message = message_of(connection, kind, now_ns);
  message.detail = static_cast<std::uint32_t>(errno_value);
  ++(kind == MessageKind::close                   ? counters_.closed
     : connection.cut && errno_value == ECANCELED ? counters_.aborted_at_drain
                                                  : counters_.reset);
  pool_.close(connection);
  dispatch_.unassign(connection.stream);
  dispatch_.send(connection.stream, message, &connection);
}

bool Receiver::must_pause(const Connection& connection) const noexcept {
  return connection.cut || connection.ended || connection.failure != 0 || connection.outstanding >= share_ ||
         dispatch_.stalled(connection.stream);
}

void Receiver::pause(Connection& connection) noexcept {
  if (!connection.armed || connection.cancelling) return;
  io_uring_sqe* sqe = ring_.next(UserData{RingOp::cancel, connection.slot, connection.generation}.encode());
  if (sqe == nullptr) return;  // the connection's next completion tries again
  io_uring_prep_cancel64(sqe, UserData{RingOp::receive, connection.slot, connection.generation}.encode(), 0);
  sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  connection.cancelling = true;
}

void Receiver::cancel_failed(UserData data) noexcept {
  Connection* connection = pool_.find({data.slot, data.generation});
  if (connection == nullptr || !connection->armed) return;
  connection->cancelling = false;
  if (must_pause(*connection)) pause(*connection);
}

// Where an open connection that is not armed belongs.
void Receiver::place(Connection& connection, bool no_buffer) noexcept {
  if (connection.outstanding >= share_) {
    ++counters_.stalls_share;
    wait_for(connection, Waiting::share);
  } else if (dispatch_.stalled(connection.stream)) {
    ++counters_.stalls_stream_full;
    wait_for(connection, Waiting::stream);
  } else if (no_buffer || buffers_.with_kernel() == 0) {
    ++counters_.stalls_no_buffer;
    wait_for(connection, Waiting::buffers);
  } else {
    wait_for(connection, Waiting::arming);
  }
}

ConnectionList* Receiver::list_of(const Connection& connection) noexcept {
  switch (connection.waiting) {
    case Waiting::arming: return &arming_;
    case Waiting::buffers: return &starved_;
    case Waiting::stream: return &stalled_[connection.stream];
    case Waiting::nothing:
    case Waiting::share: break;
  }
  return nullptr;
}

void Receiver::wait_for(Connection& connection, Waiting what) noexcept {
  connection.waiting = what;
  if (what == Waiting::stream || what == Waiting::share) ++waiting_;
  if (ConnectionList* list = list_of(connection)) list->push(pool_, connection);
}

void Receiver::stop_waiting(Connection& connection) noexcept {
  if (ConnectionList* list = list_of(connection)) list->remove(pool_, connection);
  if (connection.waiting == Waiting::stream || connection.waiting == Waiting::share) --waiting_;
  connection.waiting = Waiting::nothing;
}

void Receiver::taken(Connection& connection) noexcept {
  // Half, so that a pause and its end cost little for each block.
  if (connection.waiting != Waiting::share || connection.outstanding > share_ / 2) return;
  stop_waiting(connection);
  place(connection, false);
}

bool Receiver::arm(Connection& connection) noexcept {
  io_uring_sqe* sqe = ring_.next(UserData{RingOp::receive, connection.slot, connection.generation}.encode());
  if (sqe == nullptr) return false;
  io_uring_prep_recv_multishot(sqe, connection.fd, nullptr, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  if (bundles_) sqe->ioprio |= uring_abi::recvsend_bundle;
  sqe->buf_group = buffers_.group();
  connection.armed = true;
  return true;
}

void Receiver::wake_starved(std::uint64_t now_ns) noexcept {
  if (starved_.empty()) {
    starved_since_ns_ = now_ns;
    return;
  }
  const std::uint32_t there = buffers_.with_kernel();
  if (there == 0 || (there < buffers_.count() / 4 && now_ns - starved_since_ns_ < starved_ns_max)) return;
  for (std::uint32_t i = std::min(there, starved_.count()); i > 0; --i) {
    Connection& connection = pool_.at(starved_.front());
    stop_waiting(connection);
    place(connection, false);
  }
  starved_since_ns_ = now_ns;
}

bool Receiver::settle(std::uint64_t now_ns) noexcept {
  bool moved = dispatch_.collect();
  moved |= dispatch_.flush();
  for (std::uint32_t stream = 0; stream < dispatch_.stream_count(); ++stream) {
    if (dispatch_.stalled(stream)) continue;
    while (!stalled_[stream].empty()) {
      Connection& connection = pool_.at(stalled_[stream].front());
      stop_waiting(connection);
      place(connection, false);
    }
  }
  if (buffers_.empty() != 0 && now_ns >= refill_at_ns_) {
    moved |= buffers_.refill() != 0;
    if (buffers_.empty() != 0) {
      fetch_add(pipeline_.short_of_blocks, 1, relaxed);
      if (dispatch_.shed()) moved |= buffers_.refill() != 0;
    }
    refill_at_ns_ = buffers_.empty() != 0 ? now_ns + refill_interval_ns : 0;
  }
  wake_starved(now_ns);
  while (!arming_.empty() && buffers_.with_kernel() != 0) {
    Connection& connection = pool_.at(arming_.front());
    if (!arm(connection)) break;
    stop_waiting(connection);
  }
  return moved;
}

void Receiver::cut(std::uint64_t now_ns) noexcept {
  for (std::uint32_t slot = 0; slot < pool_.size(); ++slot) {
    Connection& connection = pool_.at(slot);
    if (connection.state != Connection::State::open) continue;
    connection.cut = true;
    if (connection.armed)
      pause(connection);
    else
      end(connection, MessageKind::abort, ECANCELED, now_ns);
  }
}

}  // namespace sluice
