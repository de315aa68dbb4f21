#include "ublk/statistics.hpp"

#include <algorithm>

namespace sluice {

UblkCounters& UblkCounters::operator+=(const UblkCounters& other) noexcept {
  reads += other.reads;
  writes += other.writes;
  flushes += other.flushes;
  discards += other.discards;
  write_zeroes += other.write_zeroes;
  read_bytes += other.read_bytes;
  write_bytes += other.write_bytes;
  durable_writes += other.durable_writes;
  errors += other.errors;
  refused += other.refused;
  turns += other.turns;
  waits += other.waits;
  enters += other.enters;
  copy_calls += other.copy_calls;
  return *this;
}

UblkLatencies& UblkLatencies::operator+=(const UblkLatencies& other) noexcept {
  reads += other.reads;
  writes += other.writes;
  others += other.others;
  return *this;
}

UblkUnderWay& UblkUnderWay::operator+=(const UblkUnderWay& other) noexcept {
  requests += other.requests;
  if (other.oldest_age > oldest_age) {
    oldest_age = other.oldest_age;
    oldest_queue = other.oldest_queue;
    oldest_tag = other.oldest_tag;
  }
  turn_age = std::max(turn_age, other.turn_age);
  return *this;
}

UblkStatistics& UblkStatistics::operator+=(const UblkStatistics& other) noexcept {
  counters += other.counters;
  latencies += other.latencies;
  under_way += other.under_way;
  return *this;
}

}  // namespace sluice
