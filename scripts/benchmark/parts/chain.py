"""Part chain: the pipeline without a disk, beside cats and one pipe."""
from benchmark.figures import median, ratios
from benchmark.limits import limit
from benchmark.machine import GIB, MIB, floor
from benchmark.programs import fixture, pipeline, splicing
from benchmark.report import one_table, spread
from benchmark.tools import CkptTarget

CATS = "cat | cat | cat"
PIPE = "one pipe of 1 MiB, write and read"


def measure(bench):
    size = bench.args.size * MIB

    def rounds(target):
        ways = ways_of(target, size)
        results = {name: [] for name in ways}
        for _ in range(bench.args.rounds):
            for name, way in ways.items():
                results[name].append({"memory": size, **way()})
        return results
    return bench.with_target(CkptTarget, bench.mix(), rounds)


def ways_of(target, size):
    snapshot, stopped = target.load(), target.load("--snapshot", "stop")
    scan, none = splicing("ckpt-scan-zero"), splicing("ckpt-compress", "--algorithm", "none")
    cat = ["cat"]
    return {
        "load (snapshot) | scan | none | cat": lambda: pipeline(snapshot, scan, none, cat),
        "load (stopped) | scan | none | cat": lambda: pipeline(stopped, scan, none, cat),
        "load (stopped) | scan | cat": lambda: pipeline(stopped, scan, cat),
        CATS: lambda: pipeline(fixture("floors", "stream", size), cat, cat, cat),
        PIPE: lambda: {"out": floor("pipe", size), "programs": {}},
    }


def rates(rounds):
    """In GB/s, from the start until all is out: what remains of a snapshot then is in nobody's way."""
    return [r["memory"] / r["out"] / 1e9 for r in rounds]


@one_table
def report(results):
    yield ("chain, no disk", "GB/s", "x one pipe", "x cats", "CPU s/GiB of each program")
    for name, rounds in results.items():
        yield (name, spread(rates(rounds), 2),
               spread(ratios(results[PIPE], rounds, "out"), 2),
               spread(ratios(results[CATS], rounds, "out"), 2),
               "  ".join("%s %.2f" % (program, median(
                   rounds, lambda r: r["programs"][program]["cpu"] / r["memory"] * GIB))
                         for program in rounds[0]["programs"]))


def limits(results):
    for name, rounds in results.items():
        if name.count("|") == 3:
            yield limit(name + ": GB/s", rates(rounds), least=4)
