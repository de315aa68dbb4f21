// Two cores of those that this process may use, one for each side.
#pragma once

#include <expected>
#include <string>

namespace sluice::bench {

struct Cores {
  unsigned caller = 0;
  unsigned partner = 0;
  std::string about;  // how they lie to each other, for the report
};

/// Two different cores of one processor where there are such; else two threads of a core, or two processors.
/// errors  a sentence, if this process may use only one
std::expected<Cores, std::string> choose_cores();

/// Keep the calling thread on a core; threads that it started before stay free.
void keep_on(unsigned core);

}  // namespace sluice::bench
