"""Part modes: each mode, beside runsc and criu where they are installed and run."""
import os
import shutil
import statistics
import subprocess

from benchmark.figures import median, of_each, of_limit, ratios
from benchmark.limits import SAME, limit, off_one, pause_limit, worst
from benchmark.machine import MIB
from benchmark.report import show, spread
from benchmark.tools import (CRIU_MODES, MODES, RUNSC_MODES, CkptTarget, CriuTarget,
                             RunscTarget)

OTHERS = (("runsc", RunscTarget, RUNSC_MODES), ("criu", CriuTarget, CRIU_MODES))
BESIDE = (  # what is compared with what
    ("none direct zero", "runsc none direct zero"),
    ("flate", "runsc flate"),
    ("flate direct zero", "runsc flate"),
    ("lz4 direct zero", "runsc flate"),
    ("lz4 direct zero", "flate direct zero"),
    ("none", "criu"),
)
FASTER = (  # how many times, at least
    ("none direct zero", "runsc none direct zero", "safe", 1.4),
    ("none direct zero", "runsc none direct zero", "wall", 1.4),
    ("flate direct zero", "runsc flate", "safe", 3),
    ("flate direct zero", "runsc flate", "wall", 3),
    ("lz4 direct zero", "flate direct zero", "wall", 1.1),
    ("flate direct zero", "runsc flate", "restore", 2),
    ("lz4 direct zero", "runsc flate", "restore", 2),
    ("none", "criu", "restore", 1),
)


def measure(bench):
    modes = modes_of_all(bench)
    results = {name: [] for name in modes}
    for _ in range(bench.args.rounds):
        for name, (kind, flags) in modes.items():
            results[name].append({"limit": usual_limit(bench.args), **bench.there_and_back(
                kind, flags, bench.mix())})
    return results


def usual_limit(args):
    return pause_limit(args.size * MIB, args.pages)


def modes_of_all(bench):
    """Of all tools that take part: (kind, flags)."""
    found = {name: (CkptTarget, flags) for name, flags in MODES.items()}
    for tool, kind, modes in OTHERS:
        if not shutil.which(tool):
            bench.absent[tool] = "is not installed"
            continue
        for name, flags in modes.items():
            if any(takes_part(bench, tool, kind, flags, name) for kind.platform in kind.platforms):
                found[name] = (kind, flags)
                bench.absent.pop(name, None)
    return found


def takes_part(bench, tool, kind, flags, name):
    """Some versions do not know some modes, or do not run on this kernel at all."""
    kind.patience = 20
    try:
        bench.with_target(kind, bench.mix(size=4), lambda target: bench.saved(target, flags))
        return True
    except (subprocess.SubprocessError, RuntimeError, OSError) as error:
        text = getattr(error, "stderr", None) or \
            (last_words(bench) if tool == "runsc" else "") or str(error)
        bench.absent[name] = "does not run here: " + text.strip().split("\n")[0][:160]
        return False
    finally:
        kind.patience = None


def last_words(bench):
    return open(bench.dir + "/out").read() if os.path.exists(bench.dir + "/out") else ""


def report(results, args):
    print("%d MiB (%d%% zero, %d%% text), %s pages, %d rounds: median (least-most); a pause's limit"
          " is %.1f ms" % (args.size, args.zero, args.text, args.pages, args.rounds,
                           usual_limit(args)))
    show(mode_table(results, args.size * MIB))
    show(beside_table(results))
    show(stage_table(results))
    print("memcpy: %.1f GB/s\n" % statistics.median(
        args.size * MIB / r["memcpy"] / 1e9 for rounds in results.values() for r in rounds))


def mode_table(results, size):
    yield ("mode", "wall s", "safe s", "GB/s", "pause ms", "gap ms", "x limit", "image MB",
           "x disk", "restore s")
    for name, rounds in results.items():
        get = lambda key: [r[key] for r in rounds]
        yield (name, spread(get("wall"), 2), spread(get("safe"), 2),
               "%.2f" % median(rounds, lambda r: size / r["safe"] / 1e9),
               spread(get("pause"), 1) if "pause" in rounds[0] else "", spread(get("gap"), 1),
               spread(of_limit(rounds, "pause" if "pause" in rounds[0] else "gap"), 2),
               "%.0f" % (statistics.median(get("image")) / 1e6),
               spread(of_disk(rounds), 2), spread(get("restore"), 2))


def of_disk(rounds):
    return [r["safe"] / r["disk"] for r in rounds]


def beside_table(results):
    yield ("mode", "beside", "x faster safe", "x faster wall", "x faster restore", "x its image")
    for ours, theirs in BESIDE:
        if theirs in results:
            yield (ours, theirs, *(spread(ratios(results[theirs], results[ours], key), 2)
                                   for key in ("safe", "wall", "restore")),
                   spread(ratios(results[ours], results[theirs], "image"), 2))


def stage_table(results):
    yield ("mode", "stage", "MB in", "MB out", "MB/s")
    for name, rounds in results.items():
        for stage in rounds[0].get("stages", {}):
            get = lambda key: statistics.median(r["stages"][stage][key] for r in rounds)
            yield (name, stage, "%.0f" % (get("bytes_in") / 1e6), "%.0f" % (get("bytes_out") / 1e6),
                   "%.0f" % (max(get("bytes_in"), get("bytes_out")) / get("seconds") / 1e6))


def limits(results):
    ours = {name: rounds for name, rounds in results.items() if name in MODES}
    first = ours["none direct zero"]
    for key in ("pause", "gap"):
        yield worst(of_each(ours, lambda rounds: of_limit(rounds, key)), key + ", x its limit",
                    most=1)
        yield worst(of_each(ours, lambda rounds: ratios(rounds, first, key)),
                    key + ", x that of none direct zero", off_one, **SAME)
    yield limit("none direct zero: safe, x disk", of_disk(first), most=1.35)
    for mode, other, key, least in FASTER:
        if other in results:
            yield limit("%s: %s, x faster than %s" % (mode, key, other),
                        ratios(results[other], results[mode], key), least=least)
    if "runsc flate" in results:
        yield limit("flate direct zero: image, x that of runsc flate",
                    ratios(ours["flate direct zero"], results["runsc flate"], "image"), most=1.1)
