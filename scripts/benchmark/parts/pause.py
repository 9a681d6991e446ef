"""Part pause: of small and huge pages, at half, once and twice the size, beside a bare fork(2)."""
from benchmark.figures import median, of_limit
from benchmark.limits import PAUSE_MS_PER_GIB, pause_limit, worst
from benchmark.machine import MIB, floor, has_room
from benchmark.report import one_table, spread
from benchmark.tools import MODES, CkptTarget


def measure(bench):
    results = {}
    usual = bench.args.size
    sizes = [size for size in (usual // 2, usual, usual * 2) if has_room(bench.dir, size)]
    for _ in range(bench.args.rounds):
        for pages in PAUSE_MS_PER_GIB:
            for size in sizes:
                results.setdefault("%d MiB, %s pages" % (size, pages), []).append(
                    {"limit": pause_limit(size * MIB, pages),
                     "fork": floor("fork", pages, size * MIB) * 1000,
                     **saved(bench, size, pages)})
    return results


def saved(bench, size, pages):
    def measured(target):
        return {"huge": target.huge(), **bench.saved(target, MODES["none direct zero"])}
    return bench.with_target(CkptTarget, bench.mix(size=size, pages=pages), measured)


@one_table
def report(results):
    yield ("memory", "in huge MiB", "pause ms", "gap ms", "fork ms", "limit ms", "pause, x limit",
           "gap, x limit")
    for name, rounds in results.items():
        yield (name, "%.0f" % median(rounds, lambda r: r["huge"] / MIB),
               *(spread([r[key] for r in rounds], 1) for key in ("pause", "gap", "fork")),
               "%.1f" % rounds[0]["limit"],
               *(spread(of_limit(rounds, key), 2) for key in ("pause", "gap")))


def limits(results):
    for key in ("pause", "gap"):
        for pages in PAUSE_MS_PER_GIB:
            yield worst({name: of_limit(rounds, key) for name, rounds in results.items()
                         if pages in name}, key + ", x its limit", most=1)
