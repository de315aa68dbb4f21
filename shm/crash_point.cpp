#include "shm/crash_point.hpp"

namespace sluice {

#if defined(SLUICE_CRASH_POINTS) && SLUICE_CRASH_POINTS
std::atomic<void (*)(std::size_t)> crash_hook{nullptr};
#endif

}  // namespace sluice
