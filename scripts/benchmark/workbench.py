"""What all parts measure with: directories, fresh programs and images, and turns."""
import os
import shutil
import tempfile
import time

from benchmark.machine import MIB, disk_floor, floor
from benchmark.programs import fixture


class Bench:
    def __init__(self, args):
        self.args = args
        self.dir = tempfile.mkdtemp(prefix="bench-", dir=args.dir)
        self.heart = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm")  # no disk stops it
        self.images = 0
        self.absent = {}  # tools and parts, and why they do not take part

    def mix(self, size=None, zero=None, pages=None, reserved=0):
        args = self.args
        return fixture("mix", size or args.size, args.zero if zero is None else zero,
                       args.text if zero is None else (100 - zero) // 2, pages or args.pages,
                       reserved)

    def with_target(self, kind, words, measure):
        target = kind(self.dir, self.heart + "/beat", words)
        os.sync()
        time.sleep(0.5)  # whoever was there before is still being cleared away
        try:
            return measure(target)
        finally:
            target.end()

    def with_image(self, measure):
        self.images += 1
        image = "%s/image-%d" % (self.dir, self.images)
        try:
            return measure(image)
        finally:
            shutil.rmtree(image, ignore_errors=True)

    def saved(self, target, flags):
        """A checkpoint of it; it runs on."""
        return self.with_image(lambda image: target.checkpoint(flags, image, keep=True))

    def there_and_back(self, kind, flags, words):
        """One of everything. A fresh program: zeros left out do not come back as pages."""
        def there(target, image):
            result = target.checkpoint(flags, image, keep=True)
            result["disk"] = disk_floor(self.dir, image)
            result["memcpy"] = floor("memcpy", self.args.size * MIB)
            return result

        def and_back(target, image):
            target.checkpoint(flags, image, keep=False)
            return target.restore(image)

        def both(target):
            result = self.with_image(lambda image: there(target, image))
            result["restore"] = self.with_image(lambda image: and_back(target, image))
            return result
        return self.with_target(kind, words, both)

    def close(self):
        for directory in (self.dir, self.heart):
            shutil.rmtree(directory, ignore_errors=True)


def in_turns(number, measure, ways):
    """A B B A, and the next round B A A B: what drifts does so for both."""
    first, second = ways if number % 2 == 0 else reversed(ways)
    results = {way: [] for way in ways}
    for way in (first, second, second, first):
        results[way].append(measure(ways[way]))
    return results
