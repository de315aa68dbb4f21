// What a server of a block device has served, as lines and as JSON; at its end, and on SIGUSR1 while it runs.
#pragma once

#include "runtime/unique_fd.hpp"
#include "shm/status.hpp"
#include "ublk/server.hpp"

#include <memory>
#include <string_view>
#include <thread>

namespace sluice::tools {

/// `served: …`, `latency: …` and `calls: …`, or a document of the schema sluice.ublk.served/1.
/// label  before each line: one of several servers, whose output is together
void print_served(const UblkStatistics& statistics, bool json, std::string_view label);

/// Answers each SIGUSR1 with a line on stderr, as long as it lives: what is under way, and the above. In a thread of its
/// own, so that it also answers while the server waits for a stop that does not come to an end.
class StatusAnswers {
 public:
  /// Before any other thread starts: the signal must be blocked in all of them.
  static void block_signal();

  /// server  outlives this
  /// errors  io_error  no descriptor is left
  static Expected<std::unique_ptr<StatusAnswers>> begin(const UblkServer& server);
  StatusAnswers(const StatusAnswers&) = delete;
  StatusAnswers& operator=(const StatusAnswers&) = delete;
  ~StatusAnswers();

 private:
  StatusAnswers(const UblkServer& server, UniqueFd signals, UniqueFd ended);
  void run() const;

  const UblkServer& server_;
  UniqueFd signals_;
  UniqueFd ended_;
  std::thread thread_;
};

}  // namespace sluice::tools
