#include "ublk/queue_thread.hpp"

#include <fmt/format.h>

#include <utility>

#include <linux/prctl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace sluice {

namespace {

// An idle queue sleeps in the kernel; this only bounds how long a lost wake-up could last.
constexpr auto idle_max = std::chrono::seconds(1);

}  // namespace

UblkServer::QueueThread::QueueThread(const QueueThreadOptions& options, Target& target, int ended_fd)
    : options_(options), target_(target), ended_fd_(ended_fd), thread_([this] { run(); }) {}

UblkServer::QueueThread::~QueueThread() { join(); }

void UblkServer::QueueThread::prepare_thread() const noexcept {
  const auto name = fmt::format("ublk{}-q{}", options_.device_id, options_.queue.index);
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
  // Both are for speed and for memory shortage; a server that may not do them works all the same.
  if (CPU_COUNT(&options_.cpus) != 0) ::sched_setaffinity(0, sizeof options_.cpus, &options_.cpus);
  // Memory that this thread asks for must not make the kernel write back through its own device.
  ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

void UblkServer::QueueThread::run() noexcept {
  prepare_thread();
  auto result = work();
  {
    const std::lock_guard lock(mutex_);
    result_ = std::move(result);
    ended_ = true;
  }
  changed_.notify_all();
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto ignored = ::write(ended_fd_, &one, sizeof one);
}

// Destruction is the reverse: the target's part, the ring, the map, the memory.
Expected<void> UblkServer::QueueThread::work() {
  auto memory = IoMemory::map(options_.buffer_bytes, options_.lock_memory);
  if (!memory) return std::unexpected(std::move(memory.error()));
  auto driver = RingDriverQueue::open(options_.device_fd, options_.queue.index, options_.queue.depth,
                                      options_.encoded, options_.queue.data_path == DataPath::zero_copy);
  if (!driver) return std::unexpected(std::move(driver.error()));
  options_.queue.buffers = memory->bytes();
  auto queue = UblkQueue::open(**driver, target_, options_.queue);
  if (!queue) return std::unexpected(std::move(queue.error()));
  if (auto fetched = (*queue)->fetch_all(); !fetched) return fetched;
  {
    const std::lock_guard lock(mutex_);
    queue_ = queue->get();
    ready_ = true;
  }
  changed_.notify_all();

  Expected<void> turned;
  while (turned && !(*queue)->ended() && !abandoned_.load(std::memory_order_acquire))
    turned = (*queue)->turn(idle_max);
  const std::lock_guard lock(mutex_);
  queue_ = nullptr;
  last_statistics_ = (*queue)->statistics();
  return turned;
}

Expected<void> UblkServer::QueueThread::wait_ready() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ready_ || ended_; });
  return ready_ ? Expected<void>{} : result_;
}

void UblkServer::QueueThread::stop() noexcept {
  const std::lock_guard lock(mutex_);
  if (queue_ != nullptr) queue_->stop();
}

bool UblkServer::QueueThread::has_ended() const noexcept {
  const std::lock_guard lock(mutex_);
  return ended_;
}

void UblkServer::QueueThread::join() noexcept {
  abandoned_.store(true, std::memory_order_release);
  stop();  // wakes it
  if (thread_.joinable()) thread_.join();
}

Expected<void> UblkServer::QueueThread::result() const {
  const std::lock_guard lock(mutex_);
  return result_;
}

UblkStatistics UblkServer::QueueThread::statistics() const noexcept {
  const std::lock_guard lock(mutex_);
  return queue_ != nullptr ? queue_->statistics() : last_statistics_;
}

}  // namespace sluice
