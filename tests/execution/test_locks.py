"""Signals that come while a journal is locked, written and unlocked: real ones, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Interrupts come from a thread, at any moment of the main thread's work; it counts those that got through.
FLOOD = """
import os, random, signal, sys, threading, time
from pathlib import Path
from loracle.records.space import default_space
from loracle.run.storage.journal import FileLock
from loracle.run.storage.opening import open_study
from loracle.records.trial import Outcome

folder, interrupts = Path(sys.argv[1]), 0
done = threading.Event()

def flood():
    chance = random.Random(0)
    while not done.is_set():
        time.sleep(chance.random() / 1000)
        os.kill(os.getpid(), SIGNAL)

def interrupted(number, frame):
    while frame is not None:
        if frame.f_code.co_name == "attempt":  # and not in the few lines that count what happens
            raise KeyboardInterrupt
        frame = frame.f_back

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, interrupted)
"""

LOCK = """
journal = folder / "journal.log"
journal.touch()
lock, held, others = FileLock(journal), 0, 0

def work():
    global held, others
    while not done.is_set():
        lock.acquire()
        held += 1
        assert held == 1, "two at the same time"
        held -= 1
        others += 1
        lock.release()

def attempt():
    global taken
    lock.acquire()
    taken += 1
    lock.release()
    lock.release()  # of nothing

worker = threading.Thread(target=work)
worker.start()
threading.Thread(target=flood, daemon=True).start()
taken = 0
while taken < 800 or interrupts < 200 or others < 200:
    try:
        attempt()
    except KeyboardInterrupt:
        interrupts += 1
lock.acquire()
lock.acquire()  # what is held already
lock.release()
done.set()
worker.join()
print(taken, others, interrupts)
"""

JOURNAL = """
space = default_space()
study = open_study(folder, space)
threading.Thread(target=flood, daemon=True).start()
index = 0

def attempt():
    study.finish(study.start(index), Outcome(float(index)))

while index < 150 or interrupts < 50:
    try:
        attempt()
    except KeyboardInterrupt:
        interrupts += 1
    index += 1
done.set()
assert study.history() == open_study(folder, space).history()
print(len(study.history().succeeded), interrupts)
"""


@pytest.mark.parametrize(("work", "number"), [(LOCK, "SIGINT"), (JOURNAL, "SIGTERM")])
def test_interrupts_at_any_moment_leave_no_lock_and_no_half_record(
    work: str, number: str, tmp_path: Path
) -> None:
    script = FLOOD.replace("SIGNAL", f"signal.{number}") + work
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 50  # interrupts that came through
