"""Where the programs are that the build has left, and how they are run."""
import os
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("CKPT_BIN", ROOT + "/bin")


def fixture(name, *words):
    return [ROOT + "/.build/fixtures/" + name, *map(str, words)]


def splicing(name, *words):
    """A filter of ours."""
    return [BIN + "/" + name, "--splice", *words]


def run(*command, **more):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **more)
    if result.returncode:
        raise RuntimeError("%s: status %d: %s" % (command[0], result.returncode, result.stderr))
    return result.stdout


def pipeline(*commands):
    """As if typed by hand: seconds until all is out and until all have ended, and each program's own
    memory and CPU time."""
    start = time.monotonic()
    programs, result = {}, {}
    for command, process in reversed(list(zip(commands, started(commands)))):
        _, status, usage = os.wait4(process.pid, 0)
        result.setdefault("out", time.monotonic() - start)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError("%s: status %d" % (command[0], process.returncode))
        # An upper bound: the kernel counts what we had between fork and execve, too.
        program = programs.setdefault(os.path.basename(command[0]), {"resident": 0, "cpu": 0})
        program["resident"] = max(program["resident"], usage.ru_maxrss * 1024)
        program["cpu"] += usage.ru_utime + usage.ru_stime
    return {**result, "wall": time.monotonic() - start,
            "programs": dict(reversed(programs.items()))}


def started(commands):
    processes, source = [], subprocess.DEVNULL
    for i, command in enumerate(commands):
        last = i + 1 == len(commands)
        process = subprocess.Popen(command, stdin=source,
                                   stdout=subprocess.DEVNULL if last else subprocess.PIPE)
        if i:
            source.close()
        source = process.stdout
        processes.append(process)
    return processes
