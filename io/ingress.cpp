#include "io/ingress.hpp"

#include "io/buffer_ring.hpp"
#include "io/connections.hpp"
#include "io/dispatch.hpp"
#include "io/listener.hpp"
#include "io/receiver.hpp"
#include "ipc/doorbell.hpp"
#include "runtime/pipeline_layout.hpp"
#include "runtime/ring.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr std::uint16_t buffer_group = 0;
// Blocks that can wait for room in a stream while the buffer ring is full; the cells that recovery keeps.
constexpr std::uint32_t cells_beside_buffers = 64 + recovery_cells;
// How long nothing can keep the loop from looking at `stop`.
constexpr nanoseconds wait_max = milliseconds(50);
// While workers make progress their doorbell would ring for each message: look again after this instead.
constexpr nanoseconds wait_progress = microseconds(250);
// The doorbell does not cover a block that was freed before we asked to be rung, nor every subscriber's step.
constexpr nanoseconds wait_blocks = milliseconds(1);
// How long at least workers get to take the rest after the grace.
constexpr milliseconds flush_grace_min{1000};

std::uint64_t to_ns(Clock::time_point time) noexcept {  // steady_clock is CLOCK_MONOTONIC
  return static_cast<std::uint64_t>(time.time_since_epoch().count());
}

Expected<void> check(std::string_view name, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value >= least && value <= most) return {};
  return fail(Status::bad_argument,
              fmt::format("ingress: {} is {}, expected {} to {}", name, value, least, most));
}

Expected<void> check(const Segment& segment, const IngressOptions& options) {
  for (const auto& result : {check("buffers", options.buffers, 2, uring_abi::buffer_ring_entries_max),
                             check("buffer_bytes", options.buffer_bytes, 64, std::uint64_t{1} << 20),
                             check("connections_max", options.connections_max, 1, 65536),
                             check("connection_share", options.connection_share, 0, std::uint64_t{1} << 20)})
    if (!result) return result;
  if (options.drain_grace < milliseconds(0) || options.drain_grace > std::chrono::hours(1))
    return fail(Status::bad_argument, fmt::format("ingress: drain_grace is {} ms, expected 0 to 3600000",
                                                  options.drain_grace.count()));
  if (options.into.empty())
    return fail(Status::bad_argument, "ingress: no queue is named, expected at least one");
  const std::uint64_t cells = options.buffers + cells_beside_buffers;
  if (cells > segment.header().cells_per_lane)
    return fail(Status::bad_argument,
                fmt::format("ingress: {} buffers need a ledger of {} cells, segment {} has {} per lane",
                            options.buffers, cells, segment.path(), segment.header().cells_per_lane));
  return {};
}

}  // namespace

// In order of construction; destruction is the reverse: the buffer ring is gone before the blocks are released,
// and everything before the lane.
struct Ingress::Parts {
  IngressOptions options;
  std::string address;
  std::unique_ptr<Lane> lane;
  std::unique_ptr<Ring> ring;
  std::unique_ptr<BufferRing> buffers;
  std::unique_ptr<ConnectionPool> pool;
  std::unique_ptr<Dispatch> dispatch;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Receiver> receiver;

  bool doorbell_armed = false;
  bool cut = false;
  std::uint64_t refused_at_drain = 0;
  std::uint64_t stale_others = 0;
  std::uint64_t waits = 0;
  IngressCounters published;  // written by the loop, read by any thread

  Expected<void> open(Session& session);
  Expected<void> step(bool& moved);
  nanoseconds prepare_to_wait(bool moved, bool& belled) noexcept;
  bool arm_doorbell(std::uint32_t seen) noexcept;
  void process(const io_uring_cqe& completion, Clock::time_point now) noexcept;
  void admit(Clock::time_point now) const noexcept;
  void cut_off(Clock::time_point now) noexcept;
  bool drained() const noexcept;
  Expected<void> drain();
  void publish() noexcept;
};

Expected<void> Ingress::Parts::open(Session& session) {
  const Segment& segment = session.segment();
  if (const auto checked = check(segment, options); !checked) return checked;
  raise_descriptor_limit();
  if (const auto registered = register_waiter(); !registered) return registered;

  auto claimed = session.claim_lane({.cells = options.buffers + cells_beside_buffers, .name = "ingress"});
  if (!claimed) return std::unexpected(std::move(claimed.error()));
  lane = std::move(*claimed);

  // Between two visits the kernel can post one completion for each buffer, a last one for each connection, and
  // whatever the accept finds; what does not fit it keeps aside.
  auto opened = Ring::open(std::min(4096U, std::bit_ceil(2 * options.connections_max + 16)),
                           2 * (options.buffers + options.connections_max));
  if (!opened) return std::unexpected(std::move(opened.error()));
  ring = std::move(*opened);

  auto listening = Listener::open(*ring, options.host, options.port, 2 * ring->completions_max());
  if (!listening) return std::unexpected(std::move(listening.error()));
  listener = std::move(*listening);
  address = fmt::format("{}:{}", options.host, listener->port());

  pool = std::make_unique<ConnectionPool>(options.connections_max);
  auto streams = Dispatch::open(*lane, *pool, options.into, options.buffers + cells_beside_buffers,
                                std::max(1U, options.buffers / 16));
  if (!streams) return std::unexpected(std::move(streams.error()));
  dispatch = std::move(*streams);

  auto lent = BufferRing::open(*ring, lane->heap(), options.buffers, options.buffer_bytes, buffer_group);
  if (!lent) return std::unexpected(std::move(lent.error()));
  buffers = std::move(*lent);

  const auto share =
      options.connection_share != 0 ? options.connection_share : std::max(2U, options.buffers / 4);
  auto& pipeline = pipeline_state(segment);
  receiver = std::make_unique<Receiver>(*ring, *buffers, *pool, *dispatch, pipeline, share);

  if (const auto next_flow = load(pipeline.next_flow, relaxed); next_flow != 0) {
    Message restart{};
    restart.kind = MessageKind::restart;
    restart.flow = next_flow;
    restart.receive_ns = to_ns(Clock::now());
    for (std::uint32_t stream = 0; stream < dispatch->stream_count(); ++stream)
      dispatch->send(stream, restart);
  }
  listener->steer(options.connections_max, options.connections_max, Clock::now());
  return {};
}

// --- waiting ----------------------------------------------------------------------------------------------

bool Ingress::Parts::arm_doorbell(std::uint32_t seen) noexcept {
  if (doorbell_armed) return true;  // its word has not changed, or its completion is there already
  if (!ring->supports(uring_abi::op_futex_wait)) return false;
  io_uring_sqe* sqe = ring->next(UserData{RingOp::doorbell, 0, 0}.encode());
  if (sqe == nullptr) return false;
  uring_abi::prep_futex_wait(sqe, &lane->row().doorbell.sequence, seen);
  doorbell_armed = true;
  return true;
}

// How long to wait for a completion at most. `belled`: workers were told to ring; end_sleep() afterwards.
nanoseconds Ingress::Parts::prepare_to_wait(bool moved, bool& belled) noexcept {
  belled = false;
  nanoseconds limit = wait_max;
  if (const auto retry = listener->retry_at(); retry != Clock::time_point::max())
    limit = std::clamp<nanoseconds>(retry - Clock::now(), microseconds(1), wait_max);
  const bool blocks = receiver->waiting_for_blocks();
  if (!blocks && !receiver->waiting_for_workers()) return limit;
  if (moved) return std::min(limit, wait_progress);
  const auto seen = dispatch->begin_sleep();
  belled = true;
  if (dispatch->would_move()) return microseconds(1);
  return arm_doorbell(seen) && !blocks && dispatch->consumers_ring() ? limit : std::min(limit, wait_blocks);
}

// --- one turn ---------------------------------------------------------------------------------------------

void Ingress::Parts::process(const io_uring_cqe& completion, Clock::time_point now) noexcept {
  const auto data = UserData::decode(completion.user_data);
  switch (data.op) {
    case RingOp::accept: listener->complete(data, completion.res, completion.flags, now); break;
    case RingOp::receive: receiver->complete(data, completion.res, completion.flags, to_ns(now)); break;
    case RingOp::doorbell: doorbell_armed = false; break;
    case RingOp::cancel: receiver->cancel_failed(data); break;
    case RingOp::cancel_accept: listener->cancel_failed(); break;
    case RingOp::none: ++stale_others; break;
  }
}

// Sockets that were accepted become flows while there are slots.
void Ingress::Parts::admit(Clock::time_point now) const noexcept {
  while (!pool->full() && !cut) {
    const int fd = listener->next();
    if (fd < 0) break;
    receiver->begin(fd, to_ns(now));
  }
  listener->steer(pool->size() - pool->taken(), pool->size(), now);
}

// Wait, process what completed, and bring everything to where it can go. `moved` is in and out: whether the
// last turn did.
Expected<void> Ingress::Parts::step(bool& moved) {
  bool belled = false;
  const auto limit = prepare_to_wait(moved, belled);
  const Status waited = ring->wait(limit);
  if (belled) dispatch->end_sleep();
  ++waits;
  if (waited == Status::io_error) return fail_errno("io_uring_enter", ring->errno_value());

  const auto now = Clock::now();
  for (auto batch = ring->completions(); !batch.empty(); batch = ring->completions()) {
    for (const io_uring_cqe* completion : batch) process(*completion, now);
    ring->advance(batch.size());
  }
  admit(now);
  moved = receiver->settle(to_ns(now));
  dispatch->wake();
  publish();
  if (dispatch->health() != Status::ok)
    return fail(dispatch->health(), fmt::format("segment {}: a queue of the ingress fails: {}",
                                                lane->segment().path(), to_string(dispatch->health())));
  if (listener->failure() != 0) return fail_errno("accept on " + address, listener->failure());
  return {};
}

// --- drain ------------------------------------------------------------------------------------------------

bool Ingress::Parts::drained() const noexcept {
  return listener->stopped() && listener->waiting() == 0 && pool->taken() == 0 && dispatch->pending() == 0;
}

void Ingress::Parts::cut_off(Clock::time_point now) noexcept {
  cut = true;
  if (!listener->stopped()) return;  // sockets may still come
  while (listener->refuse_next()) ++refused_at_drain;
  receiver->cut(to_ns(now));
}

Expected<void> Ingress::Parts::drain() {
  listener->stop();
  const auto cut_at = Clock::now() + options.drain_grace;
  const auto give_up_at = cut_at + std::max(options.drain_grace, flush_grace_min);
  for (bool moved = false; !drained();) {
    const auto now = Clock::now();
    if (now >= cut_at) cut_off(now);
    if (now >= give_up_at) break;
    if (auto stepped = step(moved); !stepped) return stepped;
  }
  for (std::uint32_t stream = 0; stream < dispatch->stream_count(); ++stream)
    if (const auto left = dispatch->pending(stream); left != 0)
      return fail(Status::timeout,
                  fmt::format("drain: queue {} has no room for {} messages and no worker takes "
                              "any: they are lost",
                              dispatch->name(stream), left));
  dispatch->close();
  return {};
}

void Ingress::Parts::publish() noexcept {
  const ReceiverCounters& from = receiver->counters();
  const IngressCounters now{
      .accepted = from.accepted,
      .closed = from.closed,
      .reset = from.reset,
      .aborted_at_drain = from.aborted_at_drain,
      .refused_at_drain = refused_at_drain,
      .bytes = from.bytes,
      .messages = from.messages,
      .stalls_no_buffer = from.stalls_no_buffer,
      .stalls_stream_full = from.stalls_stream_full,
      .stalls_share = from.stalls_share,
      .accept_pauses = listener->pauses(),
      .accept_backoffs = listener->backoffs(),
      .stale_completions = from.stale_completions + listener->stale() + stale_others,
      .bad_buffers = from.bad_buffers,
      .waits = waits,
  };
  using Words = std::uint64_t[sizeof(IngressCounters) / sizeof(std::uint64_t)];
  const auto& source = reinterpret_cast<const Words&>(now);
  auto& target = reinterpret_cast<Words&>(published);
  for (std::size_t i = 0; i < std::size(source); ++i) store(target[i], source[i], relaxed);
}

// --- the public face --------------------------------------------------------------------------------------

Ingress::Ingress(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}
Ingress::~Ingress() = default;

Expected<std::unique_ptr<Ingress>> Ingress::open(Session& session, const IngressOptions& options) {
  auto parts = std::make_unique<Parts>();
  parts->options = options;
  if (auto opened = parts->open(session); !opened) return std::unexpected(std::move(opened.error()));
  return std::unique_ptr<Ingress>(new Ingress(std::move(parts)));
}

std::uint16_t Ingress::port() const noexcept { return parts_->listener->port(); }

Expected<void> Ingress::run(const std::atomic<bool>& stop) {
  for (bool moved = false; !stop.load(relaxed);)
    if (auto stepped = parts_->step(moved); !stepped) return stepped;
  return parts_->drain();
}

IngressCounters Ingress::counters() const noexcept {
  IngressCounters copy;
  using Words = std::uint64_t[sizeof(IngressCounters) / sizeof(std::uint64_t)];
  const auto& source = reinterpret_cast<const Words&>(parts_->published);
  auto& target = reinterpret_cast<Words&>(copy);
  for (std::size_t i = 0; i < std::size(source); ++i) target[i] = load(source[i], relaxed);
  return copy;
}

}  // namespace sluice
