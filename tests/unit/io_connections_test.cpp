#include "io/connections.hpp"
#include "io/user_data.hpp"

#include <catch2/catch.hpp>

#include <vector>

namespace sluice::test {

namespace {

// The pool closes what it is given: numbers above any descriptor stand for sockets.
constexpr int no_socket = 1'000'000;

std::vector<std::uint32_t> in_order(ConnectionPool& pool, ConnectionList& list) {
  std::vector<std::uint32_t> slots;
  while (!list.empty()) {
    slots.push_back(list.front());
    list.remove(pool, pool.at(list.front()));
  }
  return slots;
}

}  // namespace

TEST_CASE("connections: user data keeps operation, slot and generation apart", "[io]") {
  for (const auto op :
       {RingOp::accept, RingOp::receive, RingOp::cancel, RingOp::cancel_accept, RingOp::doorbell})
    for (const std::uint32_t slot : {0U, 1U, 65535U, 0xffffffU})
      for (const std::uint32_t generation : {0U, 1U, 0x80000000U, 0xffffffffU})
        CHECK(UserData::decode(UserData{op, slot, generation}.encode()) == UserData{op, slot, generation});
}

TEST_CASE("connections: an id finds its connection until the slot is freed, and no later holder", "[io]") {
  ConnectionPool pool(2);
  Connection* first = pool.take(no_socket);
  REQUIRE(first != nullptr);
  const auto id = first->id();
  CHECK(pool.find(id) == first);
  pool.close(*first);
  CHECK(pool.find(id) == first);  // closed, its last message is still to be sent
  pool.free(*first);
  CHECK(pool.find(id) == nullptr);
  Connection* second = pool.take(no_socket);
  REQUIRE(second->slot == id.slot);
  CHECK(pool.find(id) == nullptr);
  CHECK(pool.find(second->id()) == second);
}

TEST_CASE("connections: ids out of range and of free slots find nothing", "[io]") {
  ConnectionPool pool(2);
  CHECK(pool.find({0, 0}) == nullptr);
  CHECK(pool.find({2, 0}) == nullptr);
  CHECK(pool.find({ConnectionId::nobody, 0}) == nullptr);
}

TEST_CASE("connections: a full pool gives no slot, and one again after a free", "[io]") {
  ConnectionPool pool(2);
  pool.take(no_socket);
  Connection* last = pool.take(no_socket);
  CHECK(pool.full());
  CHECK(pool.take(no_socket) == nullptr);
  pool.free(*last);
  CHECK(pool.taken() == 1);
  CHECK(pool.take(no_socket) != nullptr);
}

TEST_CASE("connections: a new holder of a slot starts with nothing of the old one", "[io]") {
  ConnectionPool pool(1);
  Connection* connection = pool.take(no_socket);
  connection->outstanding = 7;
  connection->position = 99;
  connection->cut = connection->ended = true;
  connection->failure = 5;
  pool.free(*connection);
  connection = pool.take(no_socket);
  CHECK(connection->outstanding == 0);
  CHECK(connection->position == 0);
  CHECK_FALSE(connection->cut);
  CHECK_FALSE(connection->ended);
  CHECK(connection->failure == 0);
}

TEST_CASE("connections: a list keeps its order whichever member leaves", "[io]") {
  ConnectionPool pool(5);
  ConnectionList list;
  for (int i = 0; i < 5; ++i) pool.take(no_socket);
  const auto leaving = GENERATE(range(0U, 5U));
  CAPTURE(leaving);
  for (std::uint32_t slot = 0; slot < 5; ++slot) list.push(pool, pool.at(slot));
  list.remove(pool, pool.at(leaving));
  list.push(pool, pool.at(leaving));
  std::vector<std::uint32_t> expected;
  for (std::uint32_t slot = 0; slot < 5; ++slot)
    if (slot != leaving) expected.push_back(slot);
  expected.push_back(leaving);
  CHECK(list.count() == 5);
  CHECK(in_order(pool, list) == expected);
}

}  // namespace sluice::test
