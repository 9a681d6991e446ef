"""What is measured, in this order.

Each part has measure(bench), which returns its rounds by name, or none if it cannot take part;
report(results, args), which prints them; and limits(results), what was measured of each limit.
"""
from benchmark.parts import chain, counts, modes, pause, scale, throttled, zeros

PARTS = {
    "modes": modes,
    "pause": pause,
    "throttled": throttled,
    "chain": chain,
    "zeros": zeros,
    "scale": scale,
    "counts": counts,
}
