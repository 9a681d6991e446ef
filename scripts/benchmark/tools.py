"""The tools that save and restore a program, and the modes of each."""
import json
import os
import re
import signal
import subprocess
import time

from benchmark.programs import BIN, run

EXCLUDE = "--exclude-committed-zero-pages"
DIRECT_ZERO = ["--direct", EXCLUDE]
MODES = {
    "none": ["--compression=none"],
    "none direct zero": ["--compression=none", *DIRECT_ZERO],
    "flate": ["--compression=flate-best-speed"],
    "flate direct zero": ["--compression=flate-best-speed", *DIRECT_ZERO],
    "lz4 direct zero": ["--compression=lz4", *DIRECT_ZERO],
}
DIRECT_MODES = ("none direct zero", "flate direct zero", "lz4 direct zero")
RUNSC_MODES = {
    "runsc none direct zero": ["--compression=none", *DIRECT_ZERO],
    "runsc flate": [],  # what it does by itself; old versions know no other
}
CRIU_MODES = {"criu": []}


def eventually(condition, what):
    for _ in range(24000):
        if condition():
            return
        time.sleep(0.005)
    raise RuntimeError("never: " + what)


def size_of(image):
    return sum(os.path.getsize(image + "/" + name) for name in os.listdir(image))


def sync(image):
    """Nothing, where the tool has done so itself."""
    for name in os.listdir(image):
        fd = os.open(image + "/" + name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


class Target:
    """A program with a heart, under one tool. What differs between tools is in the subclasses."""
    name = "mix"
    patience = None  # seconds for one command

    def __init__(self, directory, beat, words):
        self.dir = directory
        self.beat = beat
        self.words = words
        if os.path.exists(self.beat):
            os.unlink(self.beat)
        self.start()
        eventually(self.gap, "a beat of " + words[0])

    def gap(self):
        """The longest time between two beats, in ms."""
        words = open(self.beat).read().split() if os.path.exists(self.beat) else []
        return int(words[1]) / 1000 if len(words) == 2 else 0

    def checkpoint(self, flags, image, keep):
        if keep:
            os.truncate(self.beat, 0)
            time.sleep(0.05)
        start = time.monotonic()
        more = self.save(flags, image, keep)
        result = {"wall": time.monotonic() - start, "image": size_of(image), **more}
        sync(image)
        result["safe"] = time.monotonic() - start
        if keep:
            time.sleep(0.05)
            result["gap"] = self.gap()
        return result

    def restore(self, image):
        before = open(self.beat).read()
        start = time.monotonic()
        self.bring_back(image)
        eventually(lambda: open(self.beat).read() != before, "a beat after the restore")
        return time.monotonic() - start


class CkptTarget(Target):
    throttle = None  # that its checkpoints are under

    def command(self, program, *words):
        return [BIN + "/" + program, "--root", self.dir + "/registry", *words]

    def load(self, *flags):
        """What begins a pipeline that saves it."""
        return self.command("ckpt-load", "--splice", *flags, self.name)

    def start(self):
        # What is left open by our caller is no business of the program's.
        with open(self.dir + "/out", "w") as out:
            subprocess.run(self.command("ckpt-run", "--id", self.name, "--detach", "--",
                                        *self.words, self.beat),
                           check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def save(self, flags, image, keep):
        stats = json.loads(run(*self.command("ckpt-checkpoint", "--image-path", image,
                                             "--stats=json", *(["--leave-running"] if keep else []),
                                             *flags, self.name),
                               preexec_fn=self.throttle and self.throttle.enter))
        stages = {stage["stage"]: stage for stage in stats["stages"]}
        return {"pause": stages["ckpt-load"]["pause_seconds"] * 1000, "stages": stages,
                "memory": stages["ckpt-load"]["memory_bytes"]}

    def huge(self):
        """Bytes of it that are in huge pages."""
        pid = run(*self.command("ckpt-run", "--list")).split()[-1]
        return int(re.search(r"AnonHugePages: +(\d+)",
                             open("/proc/%s/smaps_rollup" % pid).read()).group(1)) * 1024

    def bring_back(self, image):
        run(*self.command("ckpt-restore", "--image-path", image, "--detach"))

    def end(self):
        subprocess.run(self.command("ckpt-run", "--delete", self.name, "--force"),
                       stderr=subprocess.DEVNULL)


class RunscTarget(Target):
    """The same program in a sandbox whose root is the machine's, read-only."""
    platforms = ("systrap", "ptrace")  # old versions know the latter alone
    platform = platforms[0]

    def command(self, *words):
        with open(self.dir + "/out", "w") as out:
            subprocess.run(["runsc", "--root", self.dir + "/runsc", "--platform=" + self.platform,
                            "--network=none", "--ignore-cgroups", *words],
                           check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                           timeout=self.patience)

    def write_bundle(self):
        config = {
            "ociVersion": "1.0.0", "hostname": "bench",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/bin"],
                        "args": [*self.words, self.beat]},
            "root": {"path": "/", "readonly": True},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       *({"destination": path, "type": "bind", "source": path,
                          "options": ["rbind", "rw"]}
                         for path in (self.dir, os.path.dirname(self.beat)))],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "network")]}}
        json.dump(config, open(self.dir + "/config.json", "w"))

    def start(self):
        self.id = "bench-%d" % os.getpid()
        self.write_bundle()
        self.command("run", "--detach", "--bundle", self.dir, self.id)

    def save(self, flags, image, keep):
        self.command("checkpoint", "--image-path", image, *(["--leave-running"] if keep else []),
                     *flags, self.id)
        return {}

    def bring_back(self, image):
        self.end()
        self.id += "r"
        self.command("restore", "--detach", "--bundle", self.dir, "--image-path", image, self.id)

    def end(self):
        subprocess.run(["runsc", "--root", self.dir + "/runsc", "delete", "--force", self.id],
                       stderr=subprocess.DEVNULL)


class CriuTarget(Target):
    platforms = (None,)

    def start(self):
        self.process = subprocess.Popen([*self.words, self.beat], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True)
        self.pid = self.process.pid

    def save(self, flags, image, keep):
        os.mkdir(image)
        try:
            run("criu", "dump", "-t", str(self.pid), "-D", image, "-o", "log",
                *(["--leave-running"] if keep else []))
        except RuntimeError:
            raise RuntimeError(open(image + "/log").read().strip().split("\n")[-1])
        if not keep:
            self.process.wait()
        return {}

    def bring_back(self, image):
        run("criu", "restore", "-D", image, "-d", "-o", "restore.log")

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
