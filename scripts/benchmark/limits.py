"""Limits, and whether what was measured is within them."""
import os
import statistics

from benchmark.machine import GIB, MIB

PAUSE_MS_PER_GIB = {"small": 30, "huge": 3}
SAME = {"least": 0.8, "most": 1.2}


def pause_limit(memory, pages, threads=1):
    """In ms."""
    return PAUSE_MS_PER_GIB[pages] * memory / GIB + 5 + 0.02 * threads


def memory_limit():
    """Of each of our programs, whatever the size of what it saves."""
    return (64 + 4 * os.cpu_count()) * MIB


def limit(what, values, least=None, most=None):
    """What was measured of one thing that has a limit."""
    middle = statistics.median(values)
    return {"what": what, "measured": values, "median": middle, "least": least, "most": most,
            "holds": (least is None or middle >= least) and (most is None or middle <= most)}


def worst(named, what, badness=lambda middle: middle, **bounds):
    """Of several that have the same limit."""
    name = max(named, key=lambda name: badness(statistics.median(named[name])))
    return limit("%s: %s" % (name, what), named[name], **bounds)


def off_one(ratio):
    return abs(ratio - 1)
