"""What is made of several rounds: medians and ratios."""
import statistics


def median(rounds, key):
    return statistics.median(key(r) for r in rounds)


def ratios(over, under, key):
    """Of each round."""
    return [a[key] / b[key] for a, b in zip(over, under)]


def ratios_of_sums(rounds, over, under, key):
    """Of what was measured in turns."""
    total = lambda results: sum(result[key] for result in results)
    return [total(r[over]) / total(r[under]) for r in rounds]


def of_limit(rounds, key):
    return [r[key] / r["limit"] for r in rounds]


def of_each(results, key):
    """By name: the rounds, as that function sees them."""
    return {name: key(rounds) for name, rounds in results.items()}
