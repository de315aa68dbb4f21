// What the programs exit with: one list for all of them, printed below --help and in docs/tools.md (a test
// compares the two). The values are stable: scripts test them.
#pragma once

#include "shm/status.hpp"

#include <array>
#include <string>
#include <string_view>

namespace sluice::tools {

enum class [[nodiscard]] ExitCode : int {
  ok = 0,
  failure = 1,
  usage = 2,
  not_found = 3,
  incompatible = 4,
  corrupt = 5,
  permission = 6,
  busy = 7,
  no_room = 8,
  disagreement = 9,
  exists = 10,
};

struct ExitCodeMeaning {
  ExitCode code;
  std::string_view meaning;
};

inline constexpr std::array exit_code_meanings = {
    ExitCodeMeaning{ExitCode::ok, "done; for a check: sound"},
    ExitCodeMeaning{ExitCode::failure, "the operation failed"},
    ExitCodeMeaning{ExitCode::usage, "the command line or the configuration is wrong"},
    ExitCodeMeaning{ExitCode::not_found, "no such file, queue, name or block"},
    ExitCodeMeaning{ExitCode::incompatible, "not a segment, or of another layout, byte order or page size"},
    ExitCodeMeaning{ExitCode::corrupt, "damaged, or the check found violations"},
    ExitCodeMeaning{ExitCode::permission, "not permitted"},
    ExitCodeMeaning{ExitCode::busy, "in use"},
    ExitCodeMeaning{ExitCode::no_room, "no room: file system, segment or table is full"},
    ExitCodeMeaning{ExitCode::disagreement,
                    "evidence of death contradicts itself, nothing was done about it"},
    ExitCodeMeaning{ExitCode::exists, "something has that name already"},
};

/// The exit code that an operation's status leads to.
ExitCode exit_code_of(Status status) noexcept;

/// The list as text, for the end of --help.
std::string exit_code_footer();

}  // namespace sluice::tools
