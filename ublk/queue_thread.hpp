// The thread of one queue: everything of it is opened, used and closed there.
//
// Thread safety: one controlling thread.
#pragma once

#include "ublk/io_memory.hpp"
#include "ublk/queue.hpp"
#include "ublk/ring_driver_queue.hpp"
#include "ublk/server.hpp"

#include <condition_variable>
#include <mutex>
#include <thread>

#include <sched.h>

namespace sluice {

struct QueueThreadOptions {
  std::uint32_t device_id = 0;
  int device_fd = -1;
  bool encoded = true;  // opcodes
  std::size_t buffer_bytes = 0;
  bool lock_memory = false;
  cpu_set_t cpus{};        // where it runs; empty: anywhere
  UblkQueueOptions queue;  // its buffers are filled in
};

class UblkServer::QueueThread {
 public:
  /// ended_fd  an eventfd that is raised when the thread has ended by itself
  QueueThread(const QueueThreadOptions& options, Target& target, int ended_fd);
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;
  ~QueueThread();

  /// Until every tag was fetched, or the error that kept it from that.
  Expected<void> wait_ready();
  /// Tell the target that the end is near.
  void stop() noexcept;
  bool has_ended() const noexcept;
  /// End it now, whatever it has.
  void join() noexcept;
  /// How it ended; ok while it runs.
  Expected<void> result() const;
  UblkStatistics statistics() const noexcept;

 private:
  void run() noexcept;
  Expected<void> work();
  void prepare_thread() const noexcept;

  QueueThreadOptions options_;
  Target& target_;
  int ended_fd_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Under the mutex:
  UblkQueue* queue_ = nullptr;  // while it can be told and asked something
  bool ready_ = false;
  bool ended_ = false;
  Expected<void> result_;
  UblkStatistics last_statistics_;

  std::atomic<bool> abandoned_{false};
  std::thread thread_;
};

}  // namespace sluice
