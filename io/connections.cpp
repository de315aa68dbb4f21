#include "io/connections.hpp"

#include <unistd.h>

namespace sluice {

namespace {
constexpr auto nobody = ConnectionId::nobody;
}

ConnectionPool::ConnectionPool(std::uint32_t count) : slots_(count) {
  for (std::uint32_t slot = count; slot-- > 0;) {
    slots_[slot].slot = slot;
    slots_[slot].next = free_head_;
    free_head_ = slot;
  }
}

ConnectionPool::~ConnectionPool() {
  for (Connection& connection : slots_) close(connection);
}

Connection* ConnectionPool::take(int fd) noexcept {
  if (free_head_ == nobody) return nullptr;
  Connection& connection = slots_[free_head_];
  free_head_ = connection.next;
  ++taken_;
  const auto slot = connection.slot;
  const auto generation = connection.generation;
  connection = Connection{};
  connection.fd = fd;
  connection.slot = slot;
  connection.generation = generation;
  connection.state = Connection::State::open;
  return &connection;
}

void ConnectionPool::close(Connection& connection) noexcept {
  if (connection.fd >= 0) ::close(connection.fd);
  connection.fd = -1;
  if (connection.state == Connection::State::open) connection.state = Connection::State::ending;
}

void ConnectionPool::free(Connection& connection) noexcept {
  close(connection);
  connection.state = Connection::State::free;
  ++connection.generation;
  connection.next = free_head_;
  free_head_ = connection.slot;
  --taken_;
}

Connection* ConnectionPool::find(ConnectionId id) noexcept {
  if (id.slot >= slots_.size()) return nullptr;
  Connection& connection = slots_[id.slot];
  if (connection.generation != id.generation || connection.state == Connection::State::free) return nullptr;
  return &connection;
}

void ConnectionList::push(ConnectionPool& pool, Connection& connection) noexcept {
  connection.next = nobody;
  connection.previous = tail_;
  (tail_ == nobody ? head_ : pool.at(tail_).next) = connection.slot;
  tail_ = connection.slot;
  ++count_;
}

void ConnectionList::remove(ConnectionPool& pool, Connection& connection) noexcept {
  (connection.previous == nobody ? head_ : pool.at(connection.previous).next) = connection.next;
  (connection.next == nobody ? tail_ : pool.at(connection.next).previous) = connection.previous;
  connection.next = connection.previous = nobody;
  --count_;
}

}  // namespace sluice
