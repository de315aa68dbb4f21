#include "ublk/request.hpp"

#include "shm/atomic.hpp"
#include "ublk/queue.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace sluice {

namespace {

alignas(4096) constexpr std::array<std::byte, zeroes_bytes> zero_pages{};

}  // namespace

std::span<const std::byte> zeroes() noexcept { return zero_pages; }

int Request::take_data(std::uint32_t at, std::span<std::byte> to) noexcept {
  if (const int error = queue_->move_data(*this, at, to.size(), Operation::write); error != 0) return error;
  if (queue_->options_.data_path == DataPath::copy) {
    if (to.data() != buffer_.data() + at) std::memmove(to.data(), buffer_.data() + at, to.size());
    return 0;
  }
  while (!to.empty()) {
    count_up(copy_calls_);
    const auto moved = queue_->driver_.read_data(tag_, at, to);
    if (moved <= 0) return moved == 0 ? EIO : static_cast<int>(-moved);
    at += static_cast<std::uint32_t>(moved);
    to = to.subspan(static_cast<std::size_t>(moved));
  }
  return 0;
}

int Request::give_data(std::uint32_t at, std::span<const std::byte> from) noexcept {
  if (const int error = queue_->move_data(*this, at, from.size(), Operation::read); error != 0) return error;
  if (queue_->options_.data_path == DataPath::copy) {
    if (from.data() != buffer_.data() + at) std::memmove(buffer_.data() + at, from.data(), from.size());
    return 0;
  }
  while (!from.empty()) {
    count_up(copy_calls_);
    const auto moved = queue_->driver_.write_data(tag_, at, from);
    if (moved <= 0) return moved == 0 ? EIO : static_cast<int>(-moved);
    at += static_cast<std::uint32_t>(moved);
    from = from.subspan(static_cast<std::size_t>(moved));
  }
  return 0;
}

int Request::take_data(std::uint32_t at, std::span<const iovec> to) noexcept {
  return in_pieces(
      at, to, Operation::write,
      [this](std::uint32_t from, auto pieces) { return queue_->driver_.read_pieces(tag_, from, pieces); },
      [this](std::uint32_t from, const iovec& piece) { return take_data(from, bytes_of(piece)); });
}

int Request::give_data(std::uint32_t at, std::span<const iovec> from) noexcept {
  return in_pieces(
      at, from, Operation::read,
      [this](std::uint32_t to, auto pieces) { return queue_->driver_.write_pieces(tag_, to, pieces); },
      [this](std::uint32_t to, const iovec& piece) { return give_data(to, bytes_of(piece)); });
}

// With user copy all in one call, and the rest of a piece at which it stopped by itself; in copy mode each by itself.
template <class All, class One>
int Request::in_pieces(std::uint32_t at, std::span<const iovec> pieces, Operation wanted, All all,
                       One one) noexcept {
  std::size_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  if (const int error = queue_->move_data(*this, at, total, wanted); error != 0) return error;
  while (!pieces.empty()) {
    std::size_t moved = 0;
    if (queue_->options_.data_path != DataPath::copy) {
      count_up(copy_calls_);
      const auto result = all(at, pieces);
      if (result <= 0) return result == 0 ? EIO : static_cast<int>(-result);
      moved = static_cast<std::size_t>(result);
    }
    while (!pieces.empty() && moved >= pieces.front().iov_len) {
      moved -= pieces.front().iov_len;
      at += static_cast<std::uint32_t>(pieces.front().iov_len);
      pieces = pieces.subspan(1);
    }
    if (pieces.empty() || (moved == 0 && queue_->options_.data_path != DataPath::copy)) continue;
    const iovec rest{static_cast<std::byte*>(pieces.front().iov_base) + moved,
                     pieces.front().iov_len - moved};
    if (const int error = one(at + static_cast<std::uint32_t>(moved), rest); error != 0) return error;
    at += static_cast<std::uint32_t>(pieces.front().iov_len);
    pieces = pieces.subspan(1);
  }
  return 0;
}

int Request::give_zeroes(std::uint32_t at, std::uint32_t count) noexcept {
  while (count != 0) {
    const auto part = std::min<std::uint32_t>(count, zeroes_bytes);
    if (const int error = give_data(at, zeroes().first(part)); error != 0) return error;
    at += part;
    count -= part;
  }
  return 0;
}

void Request::finish(int errno_value) noexcept { queue_->finished(*this, errno_value); }

}  // namespace sluice
