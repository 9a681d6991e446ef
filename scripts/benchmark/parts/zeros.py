"""Part zeros: what leaving zero-filled pages out costs and gains."""
from benchmark.figures import ratios_of_sums
from benchmark.limits import worst
from benchmark.report import one_table, spread
from benchmark.tools import DIRECT_MODES, EXCLUDE, MODES, CkptTarget
from benchmark.workbench import in_turns

PERCENTS = (0, 10, 25, 50, 75)


def named(mode, percent):
    return "%s, %d%% zeros" % (mode, percent)


def measure(bench):
    results = {}
    for number in range(bench.args.rounds):
        for percent in PERCENTS:
            pairs = bench.with_target(CkptTarget, bench.mix(zero=percent),
                                      lambda target: with_and_without(bench, target, number))
            for mode, pair in pairs.items():
                results.setdefault(named(mode, percent), []).append(pair)
    return results


def with_and_without(bench, target, number):
    """Zeros, in images of one program."""
    bench.saved(target, MODES["none"])  # the first one finds all cold
    return {mode: in_turns(number, lambda flags: bench.saved(target, flags), {
        "without": MODES[mode], "with": [flag for flag in MODES[mode] if flag != EXCLUDE]})
            for mode in DIRECT_MODES}


def gains(rounds):
    return ratios_of_sums(rounds, "without", "with", "wall")


@one_table
def report(results):
    yield ("left out", "wall s with", "wall s without", "without / with")
    for name, rounds in results.items():
        yield (name, *(spread([result["wall"] for r in rounds for result in r[way]], 2)
                       for way in ("with", "without")), spread(gains(rounds), 3))


def limits(results):
    for mode in DIRECT_MODES:
        for least, what, most in ((0, "any", 1.03), (25, "a quarter or more", 1)):
            names = [named(mode, percent) for percent in PERCENTS if percent >= least]
            yield worst({name: gains(results[name]) for name in names},
                        "wall, x that with them (%s)" % what, most=most)
