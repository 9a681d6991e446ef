"""What is printed and written: tables, the limits, JSON, SVG."""
import json
import statistics
import sys

from benchmark.figures import median
from benchmark.tools import MODES


def spread(values, digits):
    middle = "%.*f" % (digits, statistics.median(values))
    if len(values) == 1:
        return middle
    return "%s (%.*f-%.*f)" % (middle, digits, min(values), digits, max(values))


def show(rows):
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
    sys.stdout.flush()


def one_table(rows):
    """Makes the rows a part's whole report."""
    return lambda results, args: show(rows(results))


def limit_table(limits):
    """Where several have the same limit, the worst of them is here."""
    yield ("part", "limit", "measured", "wanted", "holds")
    for found in limits:
        least, most = found["least"], found["most"]
        yield (found["part"], found["what"], spread(found["measured"], 2),
               "<= %g" % most if least is None else
               ">= %g" % least if most is None else "%g to %g" % (least, most),
               "yes" if found["holds"] else "NO")


def write_json(path, **everything):
    with open(path, "w") as file:
        json.dump(everything, file, indent=1)


def draw(path, results):
    """Bars of the median time until the image is safe, the disk's floor below each."""
    longest = max(r["safe"] for rounds in results.values() for r in rounds)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="760" height="%d" '
             'font-family="sans-serif" font-size="13">' % (50 * len(results) + 30)]
    for i, (name, rounds) in enumerate(results.items()):
        parts += bars(20 + 50 * i, name, longest, median(rounds, lambda r: r["safe"]),
                      median(rounds, lambda r: r["disk"]))
    parts.append('<text x="180" y="%d" fill="#777">grey: one O_DIRECT writer of as many bytes'
                 '</text></svg>' % (50 * len(results) + 24))
    with open(path, "w") as file:
        file.write("\n".join(parts) + "\n")


def bars(y, name, longest, safe, disk):
    yield '<text x="8" y="%d">%s</text>' % (y + 17, name)
    yield ('<rect x="180" y="%d" width="%.1f" height="18" fill="%s"/>'
           % (y, 450 * safe / longest, "#36c" if name in MODES else "#c63"))
    yield ('<rect x="180" y="%d" width="%.1f" height="8" fill="#aaa"/>'
           % (y + 20, 450 * disk / longest))
    yield '<text x="%.1f" y="%d">%.2f s</text>' % (186 + 450 * safe / longest, y + 14, safe)
