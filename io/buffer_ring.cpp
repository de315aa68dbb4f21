#include "io/buffer_ring.hpp"

#include <fmt/format.h>

#include <bit>
#include <cerrno>

#include <sys/mman.h>

namespace sluice {

namespace {

// For who moves the blocks on: a message without a block has a cell on its way into a work queue, and a broadcast that is
// full takes a message out into one before another can go in. With none left neither could ever be done.
constexpr std::uint32_t cells_kept = 4;

}  // namespace

Expected<std::unique_ptr<BufferRing>> BufferRing::open(Ring& ring, Heap& heap, std::uint32_t count,
                                                       std::uint32_t bytes, std::uint16_t group) {
  std::unique_ptr<BufferRing> buffers(new BufferRing(ring, heap, bytes, group));
  if (const auto registered = buffers->register_ring(count); !registered)
    return std::unexpected(registered.error());
  const std::uint32_t least = count < 2 ? count : 2;
  if (const auto got = buffers->refill(); got < least)
    return fail(Status::exhausted,
                fmt::format("segment {}: room for {} receive buffers of {} bytes, at least {} are needed",
                            heap.segment().path(), got, bytes, least));
  return buffers;
}

Expected<void> BufferRing::register_ring(std::uint32_t count) {
  entry_count_ = std::bit_ceil(count);
  const std::size_t length = entry_count_ * sizeof(io_uring_buf);
  void* memory =
      mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return fail_errno("mmap of the receive buffer ring");
  madvise(memory, length, MADV_DONTFORK);
  entries_ = static_cast<io_uring_buf_ring*>(memory);
  io_uring_buf_ring_init(entries_);

  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<std::uint64_t>(memory);
  registration.ring_entries = entry_count_;
  registration.bgid = group_;
  if (const int result = io_uring_register_buf_ring(ring_.raw(), &registration, 0); result < 0)
    return fail_errno(fmt::format("io_uring_register_buf_ring with {} entries", entry_count_), -result);
  registered_ = true;

  slots_.resize(count);
  order_.resize(entry_count_);
  empty_.reserve(count);
  for (std::uint32_t id = count; id-- > 0;) empty_.push_back(static_cast<std::uint16_t>(id));
  return {};
}

BufferRing::~BufferRing() {
  // Synchronous: after it no receive finds a buffer, whatever is still armed.
  if (registered_) io_uring_unregister_buf_ring(ring_.raw(), group_);
  for (Slot& slot : slots_) {
    if (slot.state == State::empty) continue;
    store(heap_.cell(slot.reference.cell).aux, cell_aux::at_rest, release);
    (void)heap_.release(slot.reference);
  }
  if (entries_ != nullptr) munmap(entries_, entry_count_ * sizeof(io_uring_buf));
}

// Entry `ahead` past the tail becomes buffer `id`; the caller advances the tail.
void BufferRing::hand_over(std::uint32_t id, int ahead) noexcept {
  Slot& slot = slots_[id];
  const auto mask = static_cast<int>(entry_count_ - 1);
  slot.place = static_cast<std::uint16_t>((entries_->tail + ahead) & mask);
  slot.state = State::kernel;
  ++slot.generation;
  order_[slot.place] = static_cast<std::uint16_t>(id);
  // Before the kernel knows the block: a recoverer must not find it at rest while bytes may still arrive.
  store(heap_.cell(slot.reference.cell).aux, cell_aux::make(cell_aux::kernel, 0, 0, id), release);
  io_uring_buf_ring_add(entries_, slot.address, bytes_, static_cast<unsigned short>(id), mask, ahead);
  ++with_kernel_;
}

std::uint32_t BufferRing::refill() noexcept {
  std::uint32_t added = 0;
  while (!empty_.empty()) {
    if (heap_.cells_free() <= cells_kept) heap_.flush();
    if (heap_.cells_free() <= cells_kept) break;
    const auto reference = heap_.allocate(bytes_);
    if (!reference) break;
    const std::uint32_t id = empty_.back();
    empty_.pop_back();
    slots_[id].reference = *reference;
    slots_[id].address = heap_.bytes(*reference).data();
    hand_over(id, static_cast<int>(added++));
  }
  if (added != 0) io_uring_buf_ring_advance(entries_, static_cast<int>(added));
  return added;
}

BufferLease BufferRing::lease(std::uint32_t id) noexcept {
  Slot& slot = slots_[id];
  slot.state = State::leased;
  --with_kernel_;
  // A receive that fills several buffers may first have shortened the entry to what there was to read.
  const std::uint32_t length = load(entries_->bufs[slot.place].len, relaxed);
  return {id, slot.generation, group_, {slot.address, length < bytes_ ? length : bytes_}};
}

std::expected<BufferLease, Status> BufferRing::take(std::uint32_t id) noexcept {
  if (id >= slots_.size()) return std::unexpected(Status::bad_argument);
  if (slots_[id].state != State::kernel) return std::unexpected(Status::stale);
  return lease(id);
}

std::expected<BufferLease, Status> BufferRing::take_next(const BufferLease& lease_before) noexcept {
  const std::uint32_t place = (slots_[lease_before.id].place + 1U) & (entry_count_ - 1);
  const std::uint32_t id = order_[place];
  if (slots_[id].state != State::kernel || slots_[id].place != place) return std::unexpected(Status::stale);
  return lease(id);
}

BufferRing::Slot* BufferRing::leased(const BufferLease& lease, Status& status) noexcept {
  status = Status::bad_argument;
  if (lease.group != group_ || lease.id >= slots_.size()) return nullptr;
  status = Status::stale;
  Slot& slot = slots_[lease.id];
  if (slot.state != State::leased || slot.generation != lease.generation) return nullptr;
  status = Status::ok;
  return &slot;
}

Status BufferRing::give_back(const BufferLease& lease) noexcept {
  Status status;
  if (leased(lease, status) == nullptr) return status;
  hand_over(lease.id, 0);
  io_uring_buf_ring_advance(entries_, 1);
  return Status::ok;
}

std::expected<Reference, Status> BufferRing::keep(const BufferLease& lease) noexcept {
  Status status;
  Slot* slot = leased(lease, status);
  if (slot == nullptr) return std::unexpected(status);
  slot->state = State::empty;
  empty_.push_back(static_cast<std::uint16_t>(lease.id));
  store(heap_.cell(slot->reference.cell).aux, cell_aux::at_rest, release);
  return slot->reference;
}

}  // namespace sluice
