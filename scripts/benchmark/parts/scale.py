"""Part scale: from 64 MiB to the largest size that memory has room for, and a TiB reserved."""
import statistics

from benchmark.figures import median, of_each, of_limit, ratios
from benchmark.limits import SAME, limit, memory_limit, pause_limit, worst
from benchmark.machine import GIB, MIB, has_room
from benchmark.programs import BIN, pipeline, splicing
from benchmark.report import one_table, spread
from benchmark.tools import MODES, CkptTarget

TIB_RESERVED = "64 MiB, 1 TiB reserved"


def measure(bench):
    results = {}
    size = 64
    while size <= bench.args.largest and has_room(bench.dir, size):
        programs = {"%d MiB" % size: 0, **({TIB_RESERVED: 1024} if size == 64 else {})}
        for _ in range(bench.args.rounds if size <= 1024 else 1):
            for name, reserved in programs.items():
                results.setdefault(name, []).append(bench.with_target(
                    CkptTarget, bench.mix(size=size, reserved=reserved),
                    lambda target: at_size(bench, target, size * MIB)))
        size *= 4 if size < 1024 else 2
    return results


def at_size(bench, target, memory):
    return {**bench.saved(target, MODES["none direct zero"]), "memory": memory,
            "limit": pause_limit(memory, bench.args.pages),
            **bench.with_image(lambda image: typed(target, image))}


def typed(target, image):
    """Saved and restored by pipelines as a person types them."""
    there = pipeline(target.load(), splicing("ckpt-scan-zero"), splicing("ckpt-compress"),
                     [BIN + "/ckpt-write-direct", "--direct", "--image-path", image])
    target.end()
    back = pipeline(splicing("ckpt-read-direct", "--image-path", image),
                    splicing("ckpt-decompress"), target.command("ckpt-rebuild"))
    return {"restore": back["wall"], "programs": {**there["programs"], **back["programs"]}}


@one_table
def report(results):
    allowed = memory_limit() / MIB
    yield ("memory", "wall s", "GB/s", "pause ms", "x limit", "restore s",
           "most MiB of %.0f" % allowed, "resident MiB of each program")
    for name, rounds in results.items():
        most = statistics.median(most_resident(rounds))
        yield (name, spread([r["wall"] for r in rounds], 2),
               "%.2f" % median(rounds, lambda r: r["memory"] / r["wall"] / 1e9),
               spread([r["pause"] for r in rounds], 1), spread(of_limit(rounds, "pause"), 2),
               spread([r["restore"] for r in rounds], 2),
               "%.0f%s" % (most, " ABOVE" if most > allowed else ""),
               "  ".join("%s %.0f" % (program, median(
                   rounds, lambda r: r["programs"][program]["resident"] / MIB))
                         for program in rounds[0]["programs"]))


def most_resident(rounds):
    """The largest program of each round, in MiB."""
    return [max(program["resident"] for program in r["programs"].values()) / MIB for r in rounds]


def limits(results):
    yield worst(of_each(results, lambda rounds: of_limit(rounds, "pause")), "pause, x its limit",
                most=1)
    yield worst(of_each(results, most_resident), "a program's own memory, MiB",
                most=memory_limit() / MIB)
    for key in ("wall", "pause"):
        yield limit("%s: %s, x that without" % (TIB_RESERVED, key),
                    ratios(results[TIB_RESERVED], results["64 MiB"], key), most=1.1)
    largest = list(results)[-1]
    if results[largest][0]["memory"] > GIB:
        slope = lambda rounds: median(rounds, lambda r: r["wall"] / r["memory"])
        yield limit(largest + ": wall per GiB, x that of 1024 MiB",
                    [slope(results[largest]) / slope(results["1024 MiB"])], **SAME)
