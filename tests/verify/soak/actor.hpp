// One process of the soak: it joins, works by its role until it is told otherwise, and usually is killed.
//
// Ends with 0 when it left in order, with exit_failed when something was not as it must be; why is in its journal.
// Thread safety: single-threaded; a signal handler only makes a child that touches nothing.
#pragma once

#include "runtime/session.hpp"
#include "tests/verify/soak/broadcast_ends.hpp"
#include "tests/verify/soak/holdings.hpp"
#include "tests/verify/soak/journal.hpp"
#include "tests/verify/soak/stream_ends.hpp"
#include "tests/verify/soak/work_ends.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>

namespace sluice::verify {

enum class Role : std::uint32_t { producer, consumer, worker, caster, sharer, allocator, recoverer, looper };
inline constexpr std::uint32_t role_count = 8;
std::string_view to_string(Role role) noexcept;

/// The world that an actor finds.
struct Stage {
  Witness* witness = nullptr;
  std::string path;           // of the segment
  std::uint32_t streams = 0;  // the even ones are between two, the odd ones have both ends in one process

  pid_t driver = 0;
};

class Actor {
 public:
  Actor(const Stage& stage, std::uint32_t slot, Role role, std::uint64_t seed);

  /// Live. Does not return.
  [[noreturn]] void run();

 private:
  void live();
  bool join();
  bool claim_lanes();
  void find_streams();
  void act();
  void work_in(Role role);
  void produce();
  void consume();
  void loop();
  void work();
  void end_lease();
  void cast();
  void publish();
  void read();
  void subscribe();
  std::optional<QueueId> broadcast(std::uint32_t broadcast);
  template <class End>
  bool claim_end(End& end, bool is_loop);
  void recover();
  void pause();
  void obey();
  void hold_still();
  void leave();
  void forget_everything();
  void fork_here();

  ActorJournal& journal() const noexcept { return stage_.witness->actors[slot_]; }
  bool chance(std::uint64_t one_in) { return random_() % one_in == 0; }
  Holdings& some_holdings() { return chance(2) && second_ ? *second_ : *first_; }

  Stage stage_;
  std::uint32_t slot_;
  Role role_;
  std::mt19937_64 random_;
  std::optional<Session> session_;
  std::unique_ptr<Lane> first_lane_, second_lane_;
  std::optional<Holdings> first_, second_;
  std::vector<std::optional<QueueId>> streams_;
  WitnessedProducer producer_;
  WitnessedConsumer consumer_;
  std::optional<WitnessedWork> work_;
  WitnessedPublisher publisher_;
  WitnessedSubscriber subscriber_;
};

/// What an actor's child does that was made in a signal handler, in the middle of anything: nothing, but live.
void install_fork_handler(const Stage& stage, std::uint32_t slot);

/// A child of this process's parent, as fork makes it otherwise: who starts processes can wait for it, and nobody
/// else can. Returns like fork.
pid_t fork_sibling(std::atomic<pid_t>& pid) noexcept;

}  // namespace sluice::verify
