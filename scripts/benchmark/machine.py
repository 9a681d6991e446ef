"""What the machine can do by itself: its floors, its room, and a disk made slower."""
import os
import re
import shutil

from benchmark.programs import fixture, run

MIB = 1 << 20
GIB = 1 << 30


def floor(*words):
    """In seconds."""
    return float(run(*fixture("floors", *words)))


def disk_floor(directory, image):
    """For the image's own bytes: what a disk, or who plays it, makes of them is part of it."""
    path = directory + "/floor"
    try:
        return floor("disk", path, image)
    finally:
        os.unlink(path)


def has_room(directory, size):
    """For a program of so many MiB, what it may write meanwhile, and its image."""
    text = open("/proc/meminfo").read()
    available = int(re.search(r"MemAvailable: +(\d+)", text).group(1)) // 1024
    return size * 5 // 4 + 512 < available and \
        size * MIB * 2 < shutil.disk_usage(directory).free


def disk_of(directory):
    """MAJOR:MINOR of the whole disk that it is on: a part of one has no rate of its own."""
    device = os.stat(directory).st_dev
    path = os.path.realpath("/sys/dev/block/%d:%d" % (os.major(device), os.minor(device)))
    if not os.path.exists(path):
        raise OSError("%s is on no disk of its own" % directory)
    if os.path.exists(path + "/partition"):
        path = os.path.dirname(path)
    return open(path + "/dev").read().strip()


def throttling():
    """Where control groups limit the rate of a disk: the mount, the file, its text."""
    for line in open("/proc/mounts"):
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "blkio" in options.split(","):
            return mount, "blkio.throttle.write_bps_device", "%s %d"
        if kind == "cgroup2" and "io" in open(mount + "/cgroup.controllers").read().split():
            put(mount + "/cgroup.subtree_control", "+io")
            return mount, "io.max", "%s wbps=%d"
    raise OSError("no control group here limits the rate of a disk")


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


class Throttle:
    """A control group: what it has in it writes to the directory's disk at that rate, at most."""
    def __init__(self, directory, rate):
        disk = disk_of(directory)
        mount, file, text = throttling()
        self.group = "%s/bench-%d" % (mount, os.getpid())
        os.mkdir(self.group)
        try:
            put(self.group + "/" + file, text % (disk, rate))
        except OSError:
            self.end()
            raise

    def enter(self):
        put(self.group + "/cgroup.procs", "0")

    def end(self):
        os.rmdir(self.group)
