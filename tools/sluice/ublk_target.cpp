#include "tools/sluice/ublk_target.hpp"

#include "tools/sluice/fault_script.hpp"
#include "ublk/fault_target.hpp"
#include "ublk/file_target.hpp"
#include "ublk/null_target.hpp"

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>

namespace sluice::tools {

namespace {

// How long what a dead server had in flight may take.
constexpr std::chrono::seconds lock_wait_recover{30};

Expected<void> refuse_store_flags(const TargetFlags& flags) {
  const auto& store = flags.store;
  if (store.segment.empty() && store.name.empty() && store.publish.empty() && !store.thin) return {};
  return fail(Status::bad_argument,
              fmt::format("--target {} takes none of --segment, --name, --publish and --thin", flags.kind));
}

Expected<std::unique_ptr<Target>> open_plain(const TargetFlags& flags, bool recover) {
  if (flags.kind == "null") {
    if (!flags.path.empty() || flags.read_only)
      return fail(Status::bad_argument, "--target null takes --size, neither --path nor --read-only");
    if (auto refused = refuse_store_flags(flags); !refused)
      return std::unexpected(std::move(refused.error()));
    return NullTarget::open(flags.bytes);
  }
  if (flags.kind == "file") {
    if (flags.path.empty()) return fail(Status::bad_argument, "--target file needs --path");
    if (auto refused = refuse_store_flags(flags); !refused)
      return std::unexpected(std::move(refused.error()));
    return FileTarget::open({.path = flags.path,
                             .bytes = flags.bytes,
                             .read_only = flags.read_only,
                             .lock_wait = recover ? lock_wait_recover : std::chrono::seconds(0)});
  }
  if (flags.kind == "store") {
    if (!flags.path.empty() || flags.read_only)
      return fail(Status::bad_argument, "--target store takes neither --path nor --read-only");
    if (flags.store.segment.empty() || flags.store.name.empty())
      return fail(Status::bad_argument, "--target store needs --segment and --name");
    auto options = flags.store;
    options.bytes = flags.bytes;
    options.role_wait = recover ? lock_wait_recover : std::chrono::seconds(0);
    return StoreTarget::open(options);
  }
  return fail(Status::bad_argument,
              fmt::format("--target is '{}', expected null, store or file", flags.kind));
}

}  // namespace

void add_target_options(CLI::App& command, TargetFlags& flags) {
  command.add_option("--target", flags.kind, "What stands behind it: null (keeps nothing), store, file")
      ->required();
  command.add_option("--path", flags.path, "file: a file or block device");
  command.add_option("--segment", flags.store.segment, "store: the segment that has its content");
  command.add_option("--name", flags.store.name, "store: its name there; created if there is none");
  add_size_option(command, "--size", flags.bytes,
                  "The device's size; file, or a store that is there: all of it unless given");
  command.add_flag("--thin", flags.store.thin, "store: may be larger than the segment");
  command.add_option(
      "--publish", flags.store.publish,
      "store: the stream that gets every write, range of zeroes and flush; created if there is none");
  command
      .add_option("--publish-policy", flags.store.policy,
                  "While that stream is full: block, writes wait; fail, they fail [block]")
      ->needs("--publish")
      ->transform(CLI::Transformer(std::map<std::string, PublishPolicy>{{"block", PublishPolicy::block},
                                                                        {"fail", PublishPolicy::fail}}))
      ->type_name("POLICY");
  command
      .add_option("--queue-capacity", flags.store.stream_capacity,
                  "Messages in that stream, if it is created")
      ->needs("--publish")
      ->capture_default_str();
  command.add_flag("--read-only", flags.read_only, "file: never written to");
  command.add_option("--faults", flags.faults,
                     "A script of errors, delays and stalls, for tests (docs/ublk.md)");
}

Expected<std::unique_ptr<Target>> open_target(const TargetFlags& flags, bool recover) {
  std::vector<FaultRule> rules;
  if (!flags.faults.empty()) {
    auto read = read_fault_script(flags.faults);
    if (!read) return std::unexpected(std::move(read.error()));
    rules = std::move(*read);
  }
  auto target = open_plain(flags, recover);
  if (!target || flags.faults.empty()) return target;
  return std::make_unique<FaultTarget>(std::move(*target), std::move(rules));
}

}  // namespace sluice::tools
