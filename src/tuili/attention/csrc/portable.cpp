// The kernels for any processor: vectors of four lanes, which every 64-bit one has.
namespace {
constexpr int W = 4;
}
#include "backward.h"
#include "select.h"

const tuili::Kernels tuili::portable_kernels = {pack_strip<Single>, normalize<Single>, attend<Single>,
    pack_gate<Single>, pack_means<Single>, select<Single>, pack_back, backward};
