// TCP over loopback into blocks, through a stream, to a worker that reads every byte; beside iperf3, whose server
// reads and drops. Rounds are interleaved. One connection; the sender writes 128 KiB at a time, as iperf3 does.
// Sender and receiver have a core each in both; the worker takes what is left.
#include "io/ingress.hpp"
#include "runtime/worker.hpp"
#include "tests/bench/support/bench.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace sluice;
using namespace sluice::bench;

constexpr int rounds = 5;
constexpr int seconds = 2;
constexpr std::uint16_t iperf_port = 55201;

struct Shared {
  std::uint64_t port;   // of the ingress, once it listens
  std::uint64_t bytes;  // the worker has read
  std::uint64_t sum;    // of what it read, so that the reading is not optimised away
  std::uint64_t messages;
};

std::atomic<bool> stopping{false};
void on_term(int) { stopping = true; }

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "ingress_bench: {}\n", what);
  std::_Exit(1);
}

void ingress_main(const std::string& path, Shared& shared) {
  signal(SIGTERM, on_term);
  pin_to_core(1);
  auto session = Session::open(path, "ingress");
  if (!session) die(session.error().message);
  IngressOptions options;
  options.into = {"in"};
  auto ingress = Ingress::open(*session, options);
  if (!ingress) die(ingress.error().message);
  store(shared.port, (*ingress)->port(), release);
  if (auto ran = (*ingress)->run(stopping); !ran) die(ran.error().message);
  ingress->reset();
}

void worker_main(const std::string& path, Shared& shared) {
  auto session = Session::open(path, "worker");
  if (!session) die(session.error().message);
  auto lane = session->claim_lane({.cells = 1024, .name = "worker"});
  if (!lane) die(lane.error().message);
  const auto handler = [&](const Delivery& delivery) {
    std::uint64_t sum = 0;
    const auto* words = reinterpret_cast<const std::uint64_t*>(delivery.bytes.data());
    for (std::size_t i = 0; i < delivery.bytes.size() / 8; ++i) sum += words[i];
    store(shared.sum, shared.sum + sum, relaxed);
    store(shared.bytes, shared.bytes + delivery.bytes.size(), release);
    store(shared.messages, shared.messages + 1, relaxed);
    return Status::ok;
  };
  const auto ran = run_worker(**lane, {.from = {"in"}}, handler, stopping);
  if (!ran) die(ran.error().message);
}

// Send for `seconds`; returns Gbit/s as the worker read them.
double our_rate(Shared& shared) {
  pin_to_core(0);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(load(shared.port, acquire)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) die("connect to the ingress");
  static std::array<char, 128 * 1024> block;
  const auto before = load(shared.bytes, acquire);
  const auto begin = now_ns();
  std::uint64_t sent = 0;
  while (now_ns() - begin < std::uint64_t{seconds} * 1'000'000'000) {
    const auto put = send(fd, block.data(), block.size(), MSG_NOSIGNAL);
    if (put <= 0) die("send to the ingress");
    sent += static_cast<std::uint64_t>(put);
  }
  close(fd);
  while (load(shared.bytes, acquire) - before != sent) usleep(100);
  return static_cast<double>(sent) * 8 / static_cast<double>(now_ns() - begin);
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return text;
  std::array<char, 4096> buffer;
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) != 0;)
    text.append(buffer.data(), got);
  pclose(pipe);
  return text;
}

double iperf_rate() {
  const auto server =
      fmt::format("timeout {} iperf3 -s -1 -B 127.0.0.1 -p {} -A 1 >/dev/null 2>&1 & sleep 0.3; ",
                  seconds + 10, iperf_port);
  const auto client = fmt::format("timeout {} iperf3 -c 127.0.0.1 -p {} -t {} -A 0,1 -J 2>&1; wait",
                                  seconds + 10, iperf_port, seconds);
  const auto text = output_of(server + client);
  try {
    return nlohmann::json::parse(text).at("end").at("sum_received").at("bits_per_second").get<double>() / 1e9;
  } catch (const std::exception&) {
    die("iperf3 gave no result: " + text.substr(0, 200));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Report report("ingress", argc, argv);
  const ScratchPath path("ingress");
  {
    auto segment = Segment::create(path.str());
    if (!segment) die(segment.error().message);
    auto session = Session::join(std::move(*segment), "setup");
    if (!session) die(session.error().message);
    auto lane = session->claim_lane();
    if (!lane) die(lane.error().message);
    if (auto queue = create_stream(**lane, "in", 1024); !queue) die(queue.error().message);
  }
  auto& shared = *static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::array<pid_t, 2> children{};
  if ((children[0] = fork()) == 0) {
    ingress_main(path.str(), shared);
    _exit(0);
  }
  while (load(shared.port, acquire) == 0) {
    usleep(1000);
    if (waitpid(children[0], nullptr, WNOHANG) != 0) die("the ingress ended");
  }
  if ((children[1] = fork()) == 0) {
    worker_main(path.str(), shared);
    _exit(0);
  }
  std::vector<double> ours, peer, ratio;
  for (int round = 0; round < rounds; ++round) {
    ours.push_back(our_rate(shared));
    peer.push_back(iperf_rate());
    ratio.push_back(ours.back() / peer.back());
  }
  for (const pid_t child : children) {
    kill(child, SIGTERM);
    waitpid(child, nullptr, 0);
  }
  report.note(fmt::format("{} rounds of {} s, interleaved; ratio of a round: median {:.2f}, least {:.2f}",
                          rounds, seconds, percentile(ratio, 50), percentile(ratio, 0)));
  report.note(
      fmt::format("mean DATA message: {} bytes", shared.bytes / std::max<std::uint64_t>(1, shared.messages)));
  report.add({"TCP loopback to a reading worker, median", "Gbit/s", percentile(ours, 50), "iperf3",
              percentile(peer, 50)});
  report.add({"TCP loopback to a reading worker, least", "Gbit/s", percentile(ours, 0), "iperf3",
              percentile(peer, 0)});
  return report.finish();
}
