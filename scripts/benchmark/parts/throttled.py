"""Part throttled: the pause when the disk takes 50 MB/s, beside that when it takes what it can."""
import functools
import statistics

from benchmark.figures import of_each, ratios_of_sums
from benchmark.limits import SAME, off_one, worst
from benchmark.machine import Throttle
from benchmark.report import one_table, spread
from benchmark.tools import DIRECT_MODES, MODES, CkptTarget
from benchmark.workbench import in_turns

RATE = 50 * 10**6  # bytes a second


def measure(bench):
    try:
        throttle = Throttle(bench.dir, RATE)
    except OSError as error:
        bench.absent["throttled"] = "is left out: %s" % error
        return {}
    try:
        return bench.with_target(CkptTarget, bench.mix(size=min(256, bench.args.size)),
                                 lambda target: under(bench, target, throttle))
    finally:
        throttle.end()


def under(bench, target, throttle):
    results = {mode: [] for mode in DIRECT_MODES}

    def saved(mode, throttle):
        target.throttle = throttle
        return bench.saved(target, MODES[mode])
    bench.saved(target, MODES["none"])  # the first one finds all cold
    for number in range(bench.args.rounds):
        for mode, rounds in results.items():
            rounds.append(in_turns(number, functools.partial(saved, mode),
                                   {"free": None, "throttled": throttle}))
    return results


@one_table
def report(results):
    ways = ("free", "throttled")
    yield ("disk", *("%s, %s" % (what, way) for what in ("MB/s", "pause ms", "gap ms")
                     for way in ways), "pause, x free", "gap, x free")
    for name, rounds in results.items():
        yield (name, *("%.0f" % statistics.median(image_rates(rounds, way)) for way in ways),
               *(spread([result[key] for r in rounds for result in r[way]], 1)
                 for key in ("pause", "gap") for way in ways),
               *(spread(of_free(rounds, key), 2) for key in ("pause", "gap")))


def image_rates(rounds, way):
    """In MB/s."""
    return [result["image"] / result["wall"] / 1e6 for r in rounds for result in r[way]]


def of_free(rounds, key):
    return ratios_of_sums(rounds, "throttled", "free", key)


def limits(results):
    yield worst(of_each(results, lambda rounds: image_rates(rounds, "throttled")),
                "MB/s of the throttled disk", most=RATE / 1e6 * 1.2)
    for key in ("pause", "gap"):
        yield worst(of_each(results, lambda rounds: of_free(rounds, key)), key + ", x that without",
                    off_one, **SAME)
