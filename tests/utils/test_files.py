"""Files are replaced whole, and what killed writers left goes with the next writer of the same file."""

import multiprocessing
import os
import signal
import time

from tf_robustcomp.utils import files


def _write_for_ever(path):
    with files.replacing(path) as temporary:
        temporary.write_text("half")
        time.sleep(600)


def test_a_killed_writer_leaves_the_old_file_and_the_next_writer_removes_what_it_left(tmp_path):
    path = tmp_path / "rates.png"
    files.write_text(path, "old")
    neighbour = tmp_path / f".tmp-{os.getpid()}-of-another-program"
    neighbour.write_text("")
    writers = [multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while sum(left.read_text() == "half" for left in tmp_path.glob(".tmp-*")) < 2:
        time.sleep(0.01)
    os.kill(writers[0].pid, signal.SIGKILL)
    writers[0].join()
    assert path.read_text() == "old" and len(list(tmp_path.glob(".tmp-*-rates.png"))) == 2
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert len(list(tmp_path.glob(".tmp-*-rates.png"))) == 1  # of the one that still writes
    os.kill(writers[1].pid, signal.SIGKILL)
    writers[1].join()
    files.write_text(tmp_path / "w-rates.png", "")  # not the same file
    assert len(list(tmp_path.glob(".tmp-*-rates.png"))) == 1
    files.write_text(path, "newest")
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "w-rates.png", neighbour])
