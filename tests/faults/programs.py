"""Entry points as processes: straight, killed, limited."""

import os
import resource
import signal
import subprocess
import sys
import time

CLASSIFIER = ["--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--batch-size=32", "--log-steps=3"]
COMPRESSOR = ["--data=digits", "--width=2", "--side=16", "--max-images=64", "--batch-size=16", "--log-steps=3"]


def words(name, *arguments):
    return [sys.executable, "-m", f"tf_robustcomp.{name}", *map(str, arguments)]


def run(command, **options):
    """Run to the end: (exit code, stdout, stderr)."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), **options)
    return done.returncode, done.stdout, done.stderr


def environment():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}


def kill_after(command, seconds, number=signal.SIGKILL):
    """Start, wait, send the signal: exit code and stderr."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, stderr = process.communicate()
    return process.returncode, stderr


def kill_when(command, condition, number=signal.SIGKILL, timeout=240):
    """Start, send the signal as soon as ``condition()`` holds: exit code and stderr."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            process.send_signal(number)
            break
        time.sleep(0.002)
    _, stderr = process.communicate()
    return process.returncode, stderr


def limited_files(size):
    """For ``preexec_fn``: no file may grow beyond ``size`` bytes, as on a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def one_line(stderr):
    """The last line of stderr; there must be no traceback."""
    assert "Traceback" not in stderr, stderr[-2000:]
    return stderr.strip().splitlines()[-1]
