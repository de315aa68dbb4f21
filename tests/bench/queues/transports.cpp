#include "tests/bench/queues/transports.hpp"

namespace sluice::bench {

bool has_iceoryx() {
#ifdef SLUICE_BENCH_ICEORYX
  return true;
#else
  return false;
#endif
}

std::vector<Transport> transports([[maybe_unused]] Choice choice) {
  std::vector<Transport> list = {
      {.name = "sluice stream", .open = open_stream},
      {.name = "sluice stream", .waits = Waits::sleeps, .open = open_stream},
      {.name = "sluice work queue", .open = open_work_queue},
      {.name = "sluice work queue", .waits = Waits::sleeps, .open = open_work_queue},
      {.name = "message_queue", .open = open_message_queue},
      {.name = "message_queue", .waits = Waits::sleeps, .open = open_message_queue},
      {.name = "datagram socket", .open = open_socket, .holds_messages = false},
      {.name = "datagram socket", .waits = Waits::sleeps, .open = open_socket, .holds_messages = false},
      {.name = "pipe", .open = open_pipe, .holds_messages = false},
      {.name = "pipe", .waits = Waits::sleeps, .open = open_pipe, .holds_messages = false},
      {.name = "bare cache line",
       .open = open_line,
       .holds_messages = false,
       .streams = false,
       .bytes_max = 64},
  };
#ifdef SLUICE_BENCH_ICEORYX
  if (choice.with_iceoryx) list.insert(list.begin() + 4, {.name = "iceoryx", .open = open_iceoryx});
#endif
  return list;
}

std::vector<FanTransport> fan_transports([[maybe_unused]] Choice choice) {
  std::vector<FanTransport> list = {{.name = "sluice broadcast", .open = open_broadcast}};
#ifdef SLUICE_BENCH_ICEORYX
  if (choice.with_iceoryx) list.push_back({.name = "iceoryx", .open = open_iceoryx_fan});
#endif
  return list;
}

std::vector<std::string> transport_notes() {
  return {
      "spins: both sides look again and again (iceoryx: take() polled; message_queue: try_send, try_receive; "
      "pipe and socket: O_NONBLOCK); sleeps: they wait in the kernel, ours after it has looked for at most 20 us",
      "on their way at once at most: 256 messages up to 64 KiB, 16 of 1 MiB, 4 of 4 MiB, in ours, iceoryx and "
      "message_queue alike; iceoryx: publishers wait for a full queue, chunks are aligned to 8 bytes",
      "pipe: F_SETPIPE_SZ 1 MiB where the system allows it; socket: pieces of 64 KiB, SO_SNDBUF 1 MiB as far as "
      "net.core.wmem_max allows it",
  };
}

}  // namespace sluice::bench
