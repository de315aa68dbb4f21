#include "tests/verify/soak/holdings.hpp"

#include "tests/support/must.hpp"
#include "tests/verify/soak/content.hpp"

#include <fmt/format.h>

#include <array>
#include <stdexcept>
#include <utility>

namespace sluice::verify {

namespace {

template <class... Args>
[[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) {
  throw std::runtime_error(fmt::format(format, std::forward<Args>(args)...));
}

// All kinds: small slots, those of a page and more, and runs of units.
constexpr std::size_t all_sizes[] = {64,
                                     64,
                                     100,
                                     320,
                                     640,
                                     1000,
                                     4096,
                                     5000,
                                     16384,
                                     20480,
                                     32768,
                                     unit_bytes,
                                     unit_bytes,
                                     2 * unit_bytes,
                                     70000,
                                     40000,
                                     unit_bytes,
                                     3 * 60'000,
                                     3 * unit_bytes,
                                     4 * unit_bytes};

constexpr bool is_refusal(Status status) noexcept {
  return status == Status::exhausted || status == Status::no_cell;
}

}  // namespace

Holdings::Holdings(Lane& lane, ActorJournal& journal, std::uint64_t seed, std::size_t most)
    : lane_(lane), journal_(journal), random_(seed), most_(most) {
  held_.reserve(most + 1);
  for (int i = 0; i < 4; ++i) sizes_.push_back(all_sizes[random_() % std::size(all_sizes)]);
}

std::size_t Holdings::random_size() {
  const auto most = sizes_[random_() % sizes_.size()];
  return random_() % 4 == 0 ? 1 + random_() % most : most;
}

void Holdings::let_go_of_some() {
  while (held_.size() > most_ / 2) release_one();
}

Reference Holdings::fresh(std::uint64_t seed) {
  const auto bytes = random_size();
  const auto allocated = lane_.heap().allocate(bytes);
  if (!allocated) {
    if (!is_refusal(allocated.error())) wrong("allocate {} bytes: {}", bytes, to_string(allocated.error()));
    let_go_of_some();
    return {};
  }
  const auto span = lane_.heap().bytes(*allocated);
  if (span.size() < bytes) wrong("a block of {} bytes has {}", bytes, span.size());
  write_block(span, allocated->handle, seed);
  count_one(bytes > slab_block_bytes_max ? journal_.runs : journal_.allocations);
  return *allocated;
}

bool Holdings::allocate() {
  const auto reference = fresh(random_());
  if (reference) keep(reference);
  return bool(reference);
}

void Holdings::keep(Reference reference) {
  held_.push_back(reference);
  if (held_.size() > most_) release_one();
}

void Holdings::check(Reference reference) const {
  const auto span = lane_.heap().bytes(reference);
  if (span.empty())
    wrong("the block {:#x} is gone while lane {} holds it", reference.handle.value, lane_.id());
  if (!read_block(span, reference.handle))
    wrong("the block {:#x} has other bytes while lane {} holds it", reference.handle.value, lane_.id());
}

void Holdings::check_one() {
  if (!held_.empty()) check(held_[pick()]);
}

void Holdings::release(Reference reference) {
  check(reference);
  if (const auto status = lane_.heap().release(reference); status != Status::ok)
    wrong("release of {:#x}: {}", reference.handle.value, to_string(status));
}

void Holdings::release_one() {
  if (held_.empty()) return;
  const auto index = pick();
  const auto reference = held_[index];
  held_[index] = held_.back();
  held_.pop_back();
  release(reference);
}

void Holdings::release_all() {
  while (!held_.empty()) release_one();
  if (small_) release(std::exchange(small_, {}));
  lane_.heap().flush();
}

void Holdings::clone_one() {
  if (held_.empty()) return;
  const auto original = held_[pick()];
  check(original);
  const auto cloned = lane_.heap().clone(original);
  if (!cloned) {
    if (cloned.error() != Status::no_cell)
      wrong("clone of {:#x}: {}", original.handle.value, to_string(cloned.error()));
    return let_go_of_some();
  }
  count_one(journal_.clones);
  keep(*cloned);
}

void Holdings::publish_one(Witness& witness) {
  if (held_.empty()) return;
  const auto reference = held_[pick()];
  if (const auto status = lane_.heap().make_findable(reference); status != Status::ok)
    wrong("make {:#x} findable: {}", reference.handle.value, to_string(status));
  witness.board[random_() % board_places] = reference.handle.value;
}

void Holdings::look_up_one(Witness& witness) {
  const Handle handle{witness.board[random_() % board_places].load()};
  const auto found = lane_.heap().look_up(handle);
  if (!found) {
    if (found.error() != Status::stale && found.error() != Status::no_cell)
      wrong("look-up of {:#x}: {}", handle.value, to_string(found.error()));
    return;
  }
  count_one(journal_.look_ups);
  check(*found);
  keep(*found);
}

void Holdings::churn_references(std::uint64_t times) {
  if (held_.empty()) return;
  const auto original = held_[pick()];
  check(original);
  for (; times != 0; --times) {
    const auto cloned = lane_.heap().clone(original);
    if (!cloned) return clone_one();  // which knows what is allowed
    count_one(journal_.clones);
    if (const auto status = lane_.heap().release(*cloned); status != Status::ok)
      wrong("release of a clone of {:#x}: {}", original.handle.value, to_string(status));
  }
}

void Holdings::churn_blocks(std::uint64_t times) {
  const auto bytes = random_size();
  std::array<Reference, 8> taken;
  for (; times != 0; --times) {
    auto& place = taken[times % taken.size()];
    if (place) {
      if (const auto status = lane_.heap().release(place); status != Status::ok)
        wrong("release of {:#x}: {}", place.handle.value, to_string(status));
      place = {};
    }
    if (const auto allocated = lane_.heap().allocate(bytes)) {
      place = *allocated;
      count_one(bytes > slab_block_bytes_max ? journal_.runs : journal_.allocations);
    }
  }
  for (const auto& place : taken)
    if (place) test::must(lane_.heap().release(place));
}

Reference Holdings::another_small() {
  if (!small_) {
    const auto allocated = lane_.heap().allocate(64 + random_() % 400);
    if (!allocated) return {};
    small_ = *allocated;
    write_block(lane_.heap().bytes(small_), small_.handle, random_());
  }
  const auto cloned = lane_.heap().clone(small_);
  if (!cloned) return {};
  count_one(journal_.clones);
  return *cloned;
}

void Holdings::rewrite_one() {
  if (held_.empty()) return;
  const auto index = pick();
  const auto before = held_[index];
  check(before);
  if (const auto owned = lane_.heap().own(before); owned && random_() % 2 == 0) {
    write_block(*owned, before.handle, random_());
    return;
  } else if (!owned && owned.error() != Status::shared) {
    wrong("own {:#x}: {}", before.handle.value, to_string(owned.error()));
  }
  const auto bytes_before = bytes_of(before);
  const auto after = lane_.heap().resize(before, random_size());
  if (!after) {
    if (after.error() != Status::shared && !is_refusal(after.error()))
      wrong("resize of {:#x}: {}", before.handle.value, to_string(after.error()));
    return;
  }
  held_[index] = *after;
  const auto span = lane_.heap().bytes(*after);
  const auto seed = read_block(span, before.handle, bytes_before);
  if (!seed) wrong("resize of {:#x} to {:#x}: other bytes", before.handle.value, after->handle.value);
  write_block(span, after->handle, *seed);
}

Reference Holdings::give() {
  if (held_.empty()) return {};
  if (random_() % 2 == 0) {
    const auto reference = held_.back();
    held_.pop_back();
    return reference;
  }
  clone_one();
  const auto reference = held_.back();
  held_.pop_back();
  return reference;
}

}  // namespace sluice::verify
