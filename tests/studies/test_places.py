"""What is at an address is what was sent, whoever looks, and at every moment something that a run can go on from."""

import os
import re
import shutil
import signal
import uuid
from pathlib import Path

import pytest

from tests.faults.test_killed import same
from tests.test_train_compressor import SMALL
from tf_robustcomp import train_compressor
from tf_robustcomp.errors import RunError
from tf_robustcomp.studies import address as address_module
from tf_robustcomp.studies import places, worker
from tf_robustcomp.studies.task import Task

TREE = {"runs/a/config.json": b"{}", "runs/a/model.keras": b"weights" * 99, "runs/ab/x": b"other", "runs/a/deep/x": b""}
ONE = Task("one", "train_compressor", {"train-dir": "run", "warm-start": "first"})


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path, monkeypatch):
    """An address that nobody else uses; every test is a machine of its own."""
    machine(tmp_path / "here", monkeypatch)
    monkeypatch.setattr(address_module, "WAITS", ())
    return f"memory://{uuid.uuid4().hex}/study" if request.param == "memory" else f"file://{tmp_path}/there/study"


def machine(folder, monkeypatch):
    """From here on the temporary files are those of another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))


def write(place, tree):
    for path, content in tree.items():
        (place.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / path).write_bytes(content)


def read(place, top="runs"):
    return {
        p.relative_to(place.folder).as_posix(): p.read_bytes() for p in (place.folder / top).rglob("*") if p.is_file()
    }


def test_what_is_sent_is_what_another_machine_fetches(address, tmp_path, monkeypatch):
    here = places.at(address)
    write(here, TREE)
    here.send(["runs/"])
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address)
    assert other.folder != here.folder and not read(other)
    other.fetch(["runs/a/"])
    assert read(other) == {path: content for path, content in TREE.items() if path.startswith("runs/a/")}
    other.fetch(["runs/"])
    assert read(other) == TREE
    (other.folder / "runs/a/model.keras").unlink()
    other.fetch(["runs/"], without=[".keras"])
    assert set(TREE) - set(read(other)) == {"runs/a/model.keras"}


def test_what_is_removed_there_goes_here(address, tmp_path, monkeypatch):
    here = places.at(address)
    write(here, TREE)
    here.send(["runs/"])
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address)
    other.fetch(["runs/"])
    (other.folder / "runs/a/model.keras").unlink()
    other.send(["runs/"])
    here.fetch(["runs/"])
    assert read(here) == TREE  # a copy that lost a file, say to a cleaner of temporary files, deletes none there
    other.remove("runs/a/model.keras")
    write(here, {"runs/a/never-sent": b""})
    here.fetch(["runs/"])
    assert read(here) == read(other) == {path: content for path, content in TREE.items() if "model" not in path}


def test_nothing_is_copied_twice(address, monkeypatch):
    here = places.at(address)
    write(here, TREE)
    here.send(["runs/"])
    here.fetch(["runs/"])
    forbidden = lambda *_, **__: pytest.fail("copied again")  # noqa: E731
    monkeypatch.setattr(here.system, "put_file", forbidden)
    monkeypatch.setattr(here.system, "get_file", forbidden)
    here.fetch(["runs/"])
    here.send(["runs/"])
    again = places.at(address)
    with again.held():  # another day
        again.fetch(["runs/"])
        again.send(["runs/"])


def test_hidden_files_and_locks_stay(address, tmp_path, monkeypatch):
    here = places.at(address)
    write(here, {"runs/.tmp-1-model.keras": b"half", "runs/one.lock": b"", "runs/model.keras": b"whole"})
    here.send(["runs/"])
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address)
    other.fetch(["runs/"])
    assert read(other) == {"runs/model.keras": b"whole"}


class Cut(Exception):
    """The machine is gone."""


@pytest.mark.parametrize("operations", range(12))
def test_whenever_a_machine_is_lost_rows_and_models_are_there_before_what_tells_of_them(
    operations, address, tmp_path, monkeypatch
):
    here = places.at(address)
    write(here, {"run/metrics.csv": b"1\n", "run/config.json": b"{}"})
    here.send(["run/"])
    write(here, {"run/metrics.csv": b"1\n2\n", "run/checkpoint.keras": b"2"})
    here.send(["run/"])
    # At the end, in this order; rows and logs grow to the last.
    end = {"run/model.keras": b"3", "tasks/one.json": b"done", "run/metrics.csv": b"1\n2\n3\n"}
    write(here, end)
    for number, path in enumerate(end):
        os.utime(here.folder / path, ns=(number, 2**60 + number))
    made = []

    def counting(operation):
        def counted(*words):
            made.append(words)
            if len(made) > operations:
                raise Cut
            return operation(*words)

        return counted

    for name in ("put_file", "mv"):
        monkeypatch.setattr(here.system, name, counting(getattr(here.system, name)))
    try:
        here.send(["run/", "tasks/"])
        whole = True
    except RunError:
        whole = False
    monkeypatch.undo()
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address)
    other.fetch(["run/", "tasks/"])
    found = {name: content for top in ("run", "tasks") for name, content in read(other, top).items()}
    rows = found["run/metrics.csv"].count(b"\n")
    assert rows >= max(int(found.get("run/model.keras", b"0")), int(found["run/checkpoint.keras"])) >= 2
    assert "tasks/one.json" not in found or "run/model.keras" in found
    assert whole == ("tasks/one.json" in found)


def test_whoever_takes_a_task_later_has_it(address, tmp_path, monkeypatch):
    first = places.at(address, "tasks/one")
    with first.taken(ONE, "key"):
        write(first, {"run/metrics.csv": b"1\n"})
        first.send(ONE.writes())
        machine(tmp_path / "other", monkeypatch)
        second = places.at(address, "tasks/one")
        with second.taken(ONE, "key"):
            assert read(second, "run") == {"run/metrics.csv": b"1\n"}
            write(first, {"run/metrics.csv": b"1\n2\n"})
            with pytest.raises(places.TakenOver, match="has taken this task over"):
                first.send(ONE.writes())
            write(second, {"run/metrics.csv": b"1\n2\n3\n"})
            second.send(ONE.writes())


@pytest.mark.parametrize("key", ["key", "other"])
def test_what_could_not_be_sent_is_there_for_the_next_attempt_at_the_same_task(key, address):
    with places.at(address, "tasks/one").taken(ONE, "key"):
        write(places.at(address, "tasks/one"), {"run/model.keras": b"a night's work"})
    with places.at(address, "tasks/one").taken(ONE, key):
        expected = {"run/model.keras": b"a night's work"} if key == "key" else {}
        assert read(places.at(address, "tasks/one"), "run") == expected


def test_what_a_task_needed_goes_with_it(address):
    place = places.at(address, "tasks/one")
    with place.taken(ONE, "key"):
        write(place, {"run/model.keras": b"3", "run/checkpoint.keras": b"2", "tasks/one.json": b"done"})
        place.send(ONE.writes())
        place.finish(ONE)
    assert not place.folder.exists()
    assert place.sees("run/model.keras") and place.sees("tasks/one.json") and not place.sees("run/checkpoint.keras")


def test_a_task_fetches_what_its_flags_name(address, tmp_path, monkeypatch):
    task = Task("one", "eval_wass_ball", {"models": ("runs/a",), "data": "inputs/x.npz", "output": "figures/worst"})
    tree = {"inputs/x.npz": b"x", "inputs/y.npz": b"y", "tasks/one.cfg": b"", "tasks/one.5.cfg": b"", **TREE}
    tree |= {"figures/worst.json": b"1", "figures/worst-rates.csv": b"2", "figures/worst_15.csv": b"3"}
    here = places.at(address)
    write(here, tree)
    here.send([f"{top}/" for top in ("inputs", "tasks", "runs", "figures")])
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address, "tasks/one")
    with other.taken(task, "key"):
        found = {name for top in ("inputs", "tasks", "runs", "figures") for name in read(other, top)}
    others = {"inputs/y.npz", "tasks/one.5.cfg", "runs/ab/x", "figures/worst_15.csv"}
    assert found == set(tree) - others


@pytest.mark.parametrize("outside", ["../outside", "..", "{}/outside", "runs/../../outside"])
def test_nothing_outside_the_place_is_touched(outside, address, tmp_path):
    task = Task("one", "train_compressor", {"train-dir": "run", "data": outside.format(tmp_path)})
    place = places.at(address, "tasks/one")
    (tmp_path / "outside").mkdir()
    for folder in (tmp_path, place.folder.parent, place.base):
        (folder / "outside").mkdir(exist_ok=True)
        (folder / "outside/mine").touch()
    place.system.makedirs(f"{place.root}/runs", exist_ok=True)
    with place.taken(task, "key"):
        pass
    for folder in (tmp_path, place.folder.parent, place.base):
        assert (folder / "outside/mine").is_file()


def test_a_key_that_leads_out_of_the_copy_is_left_alone(address, monkeypatch):
    here = places.at(address)
    write(here, TREE)
    here.send(["runs/"])
    found = here.system.find(f"{here.root}/runs", detail=True)
    path, entry = next(iter(found.items()))
    evil = f"{here.root}/runs/../../evil"
    monkeypatch.setattr(here.system, "find", lambda *_, **__: {path: entry, evil: entry | {"name": evil}})
    monkeypatch.setattr(here.system, "get_file", lambda there, here: Path(here).write_text("evil"))
    here.known.clear()
    here.fetch(["runs/"])
    assert not (here.folder / "runs/../../evil").exists() and len(read(here)) == 1


def test_names_are_taken_as_they_are(address, tmp_path, monkeypatch):
    address += " a*[1]?=,+&#%20"
    tree = {f"runs/{name}/model.keras": name.encode() for name in ("a*", "[b]", "c?", "d e", "é", "f=1,2+3", "%20")}
    here = places.at(address)
    write(here, tree)
    here.send(["runs/"])
    machine(tmp_path / "other", monkeypatch)
    other = places.at(address)
    other.fetch(["runs/"])
    assert read(other) == tree


def test_what_fails_for_a_moment_is_tried_again(address, monkeypatch):
    monkeypatch.setattr(address_module, "WAITS", (0, 0))
    here = places.at(address)
    write(here, TREE)
    kept, calls = here.system.put_file, []

    def unsteady(*words):
        calls.append(words)
        if len(calls) % 3:
            raise ConnectionError("reset by peer")
        kept(*words)

    monkeypatch.setattr(here.system, "put_file", unsteady)
    here.send(["runs/"])
    assert len(calls) == 3 * len(TREE)


def test_a_copy_that_others_can_write_to_is_refused(address, tmp_path):
    base = places.at(address).base
    base.chmod(0o777)
    with pytest.raises(RunError, match="others may write there"):
        places.at(address)
    shutil.rmtree(base)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    base.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="others may write there"):
        places.at(address)


def test_a_second_driver_of_this_machine_is_refused(address, tmp_path):
    for name in (address, tmp_path / "folder"):
        with (
            places.at(name).held(),
            pytest.raises(RunError, match="another process performs a study here"),
            places.at(name).held(),
        ):
            pass


def test_what_tasks_read_is_shared_once_and_known_by_its_content(address, tmp_path, monkeypatch):
    (tmp_path / "warm/deep").mkdir(parents=True)
    (tmp_path / "warm/.git").mkdir()
    (tmp_path / "warm/.git/config").write_bytes(b"secret")
    (tmp_path / "warm/deep/x").write_bytes(b"1")
    (tmp_path / "x.npz").write_bytes(b"2")
    here = places.at(address)
    names = [here.share(tmp_path / name) for name in ("warm", "x.npz")]
    with monkeypatch.context() as patch:
        patch.setattr(here.system, "put_file", lambda *_: pytest.fail("copied again"))
        assert [here.share(tmp_path / name) for name in ("warm", "x.npz")] == names
    here.fetch(["inputs/"])
    assert read(here, "inputs") == {f"{names[0]}/deep/x": b"1", names[1]: b"2"}
    kept, fetched = here.system.get_file, []
    monkeypatch.setattr(here.system, "get_file", lambda *words: [fetched.append(words), kept(*words)])
    for name in ("one", "two"):  # tasks of one machine
        task = Task(name, "train_compressor", {"train-dir": "run", "data": names[1]})
        with (place := places.at(address, f"tasks/{name}")).taken(task, "key"):
            assert (place.folder / names[1]).read_bytes() == b"2"
    assert len(fetched) == 1
    (tmp_path / "warm/deep/x").rename(tmp_path / "warm/deep/y")
    (tmp_path / "x.npz").write_bytes(b"3")
    assert not set(names) & {here.share(tmp_path / name) for name in ("warm", "x.npz")}
    assert places.Folder(tmp_path / "study").share(tmp_path / "x.npz") == "../x.npz"


@pytest.mark.parametrize(
    ("address", "message"),
    [("nowhere://x/study", "Protocol not known"), ("memory://", "must have a path"), ("file:///", "must have a path")],
)
def test_an_address_that_is_none_is_one_clear_line(address, message, capsys):
    assert train_compressor.main(["train", *SMALL, "--sweep=seed=0:2", f"--train-dir={address}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_address_that_cannot_be_written_is_one_clear_line(tmp_path, monkeypatch, capsys):
    machine(tmp_path / "here", monkeypatch)
    (tmp_path / "there").write_text("a file")
    words = ["train", *SMALL, "--sweep=seed=0:2", f"--train-dir=file://{tmp_path}/there"]
    assert train_compressor.main(words) == 2
    error = capsys.readouterr().err
    assert "look at the address, the rights and the network" in error and error.count("\n") == 1


@pytest.mark.tensorflow_only
def test_a_sweep_at_an_address_that_moves_to_another_machine_is_that_of_a_folder(tmp_path, monkeypatch):
    machine(tmp_path / "here", monkeypatch)
    address = f"file://{tmp_path}/there/study"
    words = ["train", *SMALL, "--epochs=10", "--eval-images=5", "--checkpoint-steps=1", "--sweep=seed=0:2"]
    assert train_compressor.main([*words, f"--train-dir={tmp_path / 'folder'}"]) == 0
    place = places.at(address)

    def lost(host, send):
        """The machine is gone as soon as it has sent a checkpoint of the second run."""
        while (code := host.ended(0.01)) is None:
            send()
            if place.sees("seed=1/checkpoint.keras"):
                os.killpg(host.process.pid, signal.SIGKILL)  # and its task
                shutil.rmtree(tmp_path / "here")
                raise Cut
        return code

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_end", lost)
        with pytest.raises(Cut):
            train_compressor.main([*words, f"--train-dir={address}"])
    machine(tmp_path / "other", monkeypatch)
    assert train_compressor.main([*words, f"--train-dir={address}"]) == 0
    machine(tmp_path / "third", monkeypatch)
    third = places.at(address)
    third.fetch(["seed=0/", "seed=1/", "sweep.csv", "tasks/"])
    log = (third.folder / "tasks/seed=1.log").read_text()
    first, second = map(int, re.findall(r"images, step (\d+) of", log))
    assert first == 0 < second
    for seed in range(2):
        (third.folder / f"seed={seed}/.lock").touch()  # which is not sent
        same(third.folder / f"seed={seed}", tmp_path / f"folder/seed={seed}")
    assert (third.folder / "sweep.csv").read_text() == (tmp_path / "folder/sweep.csv").read_text()
