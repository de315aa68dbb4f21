// How a script marks what is stepped.
#pragma once

#include "tests/verify/schedules/actor.hpp"

#include <type_traits>
#include <utility>

namespace sluice::verify {

template <class Operation>
auto Script::stepped(std::string_view what, Doing doing, Operation&& operation) {
  auto& row = board_.actors[self_];
  what.copy(doing.what, sizeof doing.what - 1);
  row.doing = doing;
  marks_.mark();
  if constexpr (std::is_void_v<decltype(operation())>) {
    operation();
    marks_.mark();
    row.doing = {};
  } else {
    auto result = operation();
    marks_.mark();
    row.doing = {};
    return result;
  }
}

}  // namespace sluice::verify
