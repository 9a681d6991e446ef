"""Part counts: what one process, thread, mapping, descriptor costs."""
from benchmark.limits import limit, pause_limit
from benchmark.programs import fixture
from benchmark.report import one_table, spread
from benchmark.tools import MODES, CkptTarget

MANY = "100 processes of 100 mappings, 20 descriptors"
KINDS = {  # processes, and each one's threads, pairs of mappings, descriptors
    "nothing": (1, 0, 0, 0),
    "100 processes": (101, 0, 0, 0),
    "100 threads": (1, 100, 0, 0),
    "1000 threads": (1, 1000, 0, 0),
    "2000 mappings": (1, 0, 1000, 0),
    "1000 descriptors": (1, 0, 0, 1000),
    MANY: (100, 0, 50, 20),
}
STEPS = {  # from, to, how many more
    "process": ("nothing", "100 processes", 100),
    "thread, of 100": ("nothing", "100 threads", 100),
    "thread, of 1000": ("100 threads", "1000 threads", 900),
    "mapping": ("nothing", "2000 mappings", 2000),
    "descriptor": ("nothing", "1000 descriptors", 1000),
}
US = {"pause": 1e3, "gap": 1e3, "restore": 1e6}  # in one of its own unit


def measure(bench):
    results = {name: [] for name in KINDS}
    for _ in range(bench.args.rounds):
        for name, counts in KINDS.items():
            results[name].append(bench.there_and_back(CkptTarget, MODES["none"],
                                                      fixture("many", *counts)))
    return results


@one_table
def report(results):
    yield ("one more", "pause us", "gap us", "restore us")
    for name, steps in STEPS.items():
        yield (name, *(spread(each(results, key, *steps), 0) for key in US))
    yield (MANY + ", in all", *(spread([r[key] * us for r in results[MANY]], 0)
                                for key, us in US.items()))


def each(results, key, less, more, count):
    """What one of so many costs, in us."""
    return [(a[key] - b[key]) / count * US[key]
            for a, b in zip(results[more], results[less])]


def limits(results):
    for name, steps in STEPS.items():
        if "thread" in name:
            yield limit(name + ": pause, us", each(results, "pause", *steps), most=20)
    for key in ("pause", "gap"):
        yield limit("1000 threads: %s, x its limit" % key, [
            r[key] / pause_limit(0, "small", 1002) for r in results["1000 threads"]], most=1)
    yield limit(MANY + ": restore, s", [r["restore"] for r in results[MANY]], most=1)
