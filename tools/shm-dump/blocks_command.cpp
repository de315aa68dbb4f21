// `shm-dump blocks`: what is allocated, and who holds it.
#include "tools/common/format.hpp"
#include "tools/common/table.hpp"
#include "tools/shm-dump/block_table.hpp"
#include "tools/shm-dump/commands.hpp"
#include "tools/shm-dump/holders.hpp"
#include "tools/shm-dump/lane_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace sluice::tools {

namespace {

constexpr std::uint64_t blocks_listed = 50;

struct BlockOptions {
  DumpOptions dump;
  ListLimit limit;
  bool unheld = false;
  bool freeing = false;
};

struct HeldBlock {
  BlockEntry block;
  std::vector<Holder> holders;
};

struct Listing {
  HeapTotals totals;
  std::uint64_t matching = 0;  // blocks that the list would have without its limit
  std::vector<HeldBlock> blocks;
  std::vector<QueueEntry> queues;
};

bool seems_unheld(const HeldBlock& held) {
  return held.holders.empty() && held.block.state == BlockState::live;
}

// A block of a live segment may move from cell to queue to cell while it is looked for: one that nobody seems
// to hold is looked for again, and stays in the list only if it is still the same block.
void find_unheld_again(const Segment& segment, Listing& listing) {
  constexpr int tries = 3;
  for (int i = 0; i < tries && std::ranges::any_of(listing.blocks, seems_unheld); ++i) {
    const auto index = HolderIndex::read(segment, read_queue_table(segment));
    listing.matching -= std::erase_if(listing.blocks, [&](HeldBlock& held) {
      if (!seems_unheld(held)) return false;
      const auto found = index.of(held.block.handle);
      held.holders.assign(found.begin(), found.end());
      return !unchanged(segment, held.block);
    });
  }
}

Listing list_blocks(const Segment& segment, const BlockOptions& options) {
  Listing listing;
  listing.queues = read_queue_table(segment);
  const auto index = HolderIndex::read(segment, listing.queues);
  listing.totals = walk_blocks(segment, [&](const BlockEntry& block) {
    const bool wanted =
        block.state == BlockState::live || (options.freeing && block.state == BlockState::freeing);
    if (!wanted) return;
    const auto found = index.of(block.handle);
    if (options.unheld && !found.empty()) return;
    ++listing.matching;
    // Of the unheld ones all are kept until the second look.
    if (options.unheld || listing.blocks.size() < options.limit.rows_max())
      listing.blocks.push_back({block, {found.begin(), found.end()}});
  });
  find_unheld_again(segment, listing);
  if (options.unheld) {
    listing.matching -= std::erase_if(listing.blocks, [](const auto& held) { return !held.holders.empty(); });
    if (listing.blocks.size() > options.limit.rows_max()) listing.blocks.resize(options.limit.rows_max());
  }
  return listing;
}

void print_summary(const HeapTotals& totals) {
  Table table({{"CLASS", Align::right},
               {"SLABS", Align::right},
               {"ORPHANED", Align::right},
               {"SLOTS", Align::right},
               {"LIVE", Align::right},
               {"FREEING", Align::right},
               {"RETIRED", Align::right},
               {"QUARANTINED", Align::right},
               {"FREE", Align::right},
               {"LIVE BYTES", Align::right}});
  const auto add = [&](const std::string& name, const ClassTotals& row) {
    if (row.used())
      table.add({name, row.slabs, row.orphaned, row.slots, row.live, row.freeing, row.retired,
                 row.quarantined, row.free(), format_size(row.live_bytes)});
  };
  for (const auto& row : totals.classes) add(format_size(row.bytes), row);
  add("runs", totals.runs);
  if (table.empty())
    fmt::print("no slabs, no runs\n");
  else
    table.print();
}

std::string describe_holders(const HeldBlock& held, const std::vector<QueueEntry>& queues) {
  if (held.holders.empty()) return held.block.state == BlockState::freeing ? "-" : "nobody";
  auto text = describe_holder(held.holders.front(), queues);
  if (held.holders.size() == 2) text += ", " + describe_holder(held.holders.back(), queues);
  if (held.holders.size() > 2) text += fmt::format(" and {} more", held.holders.size() - 1);
  return text;
}

void print_blocks(const Listing& listing) {
  Table table({{"HANDLE"},
               {"UNIT", Align::right},
               {"SLOT", Align::right},
               {"BYTES", Align::right},
               {"GENERATION", Align::right},
               {"STATE"},
               {"REFS", Align::right},
               {"OWNER"},
               {"HELD BY"}});
  for (const auto& held : listing.blocks) {
    const auto& block = held.block;
    const auto owner =
        block.is_run ? "run" : fmt::format("lane {}{}", block.lane, block.orphaned ? " (gone)" : "");
    table.add(
        {format_handle(block.handle.value), block.unit, block.slot, block.bytes, block.generation,
         std::string(to_string(block.state)), block.references, owner,
         TableCell(describe_holders(held, listing.queues), seems_unheld(held) ? Tone::bad : Tone::plain)});
  }
  if (!table.empty()) {
    fmt::print("\n");
    table.print();
  }
  if (listing.matching > listing.blocks.size())
    fmt::print("… and {} more (--all lists them)\n", listing.matching - listing.blocks.size());
}

Json class_json(const ClassTotals& totals) {
  return {{"slabs", totals.slabs},
          {"orphaned", totals.orphaned},
          {"slots", totals.slots},
          {"live", totals.live},
          {"freeing", totals.freeing},
          {"retired", totals.retired},
          {"quarantined", totals.quarantined},
          {"free", totals.free()},
          {"live_bytes", totals.live_bytes}};
}

Json holder_json(const Holder& holder, const std::vector<QueueEntry>& queues) {
  if (!holder.in_queue)
    return {{"kind", "cell"},
            {"lane", holder.owner},
            {"cell", holder.place},
            {"moving", moving_name(holder.moving)}};
  const auto queue = std::ranges::find(queues, holder.owner, &QueueEntry::index);
  return {{"kind", "queue"},
          {"queue", holder.owner},
          {"name", queue == queues.end() ? Json(nullptr) : Json(queue->name)},
          {"position", holder.place},
          {"leased_by", holder.leased_by == 0 ? Json(nullptr) : Json(holder.leased_by)}};
}

Json block_json(const HeldBlock& held, const std::vector<QueueEntry>& queues) {
  const auto& block = held.block;
  Json row = {{"handle", format_handle(block.handle.value)},
              {"unit", block.unit},
              {"slot", block.slot},
              {"bytes", block.bytes},
              {"run", block.is_run},
              {"generation", block.generation},
              {"state", to_string(block.state)},
              {"references", block.references},
              {"shared", block.shared},
              {"owner_lane", block.is_run ? Json(nullptr) : Json(block.lane)},
              {"orphaned", block.orphaned}};
  auto& holders = row["holders"] = Json::array();
  for (const auto& holder : held.holders) holders.push_back(holder_json(holder, queues));
  return row;
}

void print_document(const Segment& segment, const Listing& listing) {
  auto document = dump_document(segment, "blocks");
  auto& classes = document["classes"] = Json::array();
  for (const auto& totals : listing.totals.classes) {
    if (!totals.used()) continue;
    Json row = {{"bytes", totals.bytes}};
    row.update(class_json(totals));
    classes.push_back(std::move(row));
  }
  const auto& runs = listing.totals.runs;
  document["runs"] = {{"live", runs.live},
                      {"freeing", runs.freeing},
                      {"retired", runs.retired},
                      {"quarantined", runs.quarantined},
                      {"live_bytes", runs.live_bytes}};
  document["matching"] = listing.matching;
  auto& blocks = document["blocks"] = Json::array();
  for (const auto& held : listing.blocks) blocks.push_back(block_json(held, listing.queues));
  print_json(document);
}

}  // namespace

void add_blocks_command(CLI::App& app) {
  auto* command = app.add_subcommand("blocks", "Live blocks by class, one by one, and who holds them");
  auto options = std::make_shared<BlockOptions>();
  add_limit_options(*command, options->limit, blocks_listed, "blocks");
  command->add_flag("--unheld", options->unheld, "Only live blocks that no ledger and no queue names");
  command
      ->add_flag("--freeing", options->freeing,
                 "Also blocks that wait for their slab's owner to take them back")
      ->excludes("--unheld");
  const std::shared_ptr<DumpOptions> dump(options, &options->dump);
  on_dump(*command, dump, [options](const Segment& segment) {
    const auto listing = list_blocks(segment, *options);
    if (options->dump.json) {
      print_document(segment, listing);
    } else {
      print_summary(listing.totals);
      print_blocks(listing);
    }
    return ExitCode::ok;
  });
}

}  // namespace sluice::tools
