"""Run directories: settings, checkpoints, damage, and metrics that survive everything."""

import csv
import dataclasses
import json
import os

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, numpy_state, small_data
from tf_robustcomp.runs import directory as runs
from tf_robustcomp.utils.errors import Interrupted
from tf_robustcomp.utils.settings import field


@dataclasses.dataclass(frozen=True)
class Settings:
    rate: float = field(0.1, "")
    sizes: tuple[int, ...] = field((1, 2), "")
    folder: str = field("x", "", operational=True)

    def shaped_by_length(self):
        return True


def model():
    return compiled(dense_net(), keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])


def begun(path, settings=None):
    with runs.open_run(path, "command", settings or Settings()) as run:
        run.begin()
    return run


def test_config_holds_every_setting_and_the_versions(tmp_path):
    config = json.loads(begun(tmp_path / "run").config_path.read_text())
    assert config["settings"] == {"rate": 0.1, "sizes": [1, 2], "folder": "x"}
    assert config["versions"]["keras"] == keras.__version__
    assert config["versions"]["backend"] == keras.backend.backend()


def test_other_settings_are_refused_by_name_but_operational_ones_are_not(tmp_path):
    begun(tmp_path)
    begun(tmp_path, Settings(folder="y"))
    with pytest.raises(rc.RunError, match=r"--rate is 0.1 there, 0.2 here; --sizes is \[1, 2\] there, \[3\] here"):
        begun(tmp_path, Settings(rate=0.2, sizes=(3,)))
    with pytest.raises(rc.RunError, match="made by command, not other"):
        runs.Run(tmp_path).check_settings("other", Settings())


def test_a_setting_younger_than_the_run_has_its_default(tmp_path):
    run = begun(tmp_path)
    config = json.loads(run.config_path.read_text())
    del config["settings"]["rate"]
    run.config_path.write_text(json.dumps(config))
    begun(tmp_path)
    with pytest.raises(rc.RunError, match=r"--rate is 0.1 there, 0.2 here"):
        begun(tmp_path, Settings(rate=0.2))


def test_a_second_user_of_a_directory_is_refused(tmp_path):
    with runs.open_run(tmp_path, "command", Settings()):
        with pytest.raises(rc.RunError, match="another process"), runs.open_run(tmp_path, "command", Settings()):
            pass
    begun(tmp_path)


def test_an_address_is_no_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rc.InvalidArgument, match="must be a path; mount what is elsewhere"):
        begun("s3://bucket/run")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit_with_its_progress(tmp_path):
    run, trained = begun(tmp_path), model()
    trained.fit(*small_data(), verbose=0)
    progress = runs.Progress(7, (0.1 + 0.2, 3.0, [1.5, 2.5]))
    run.save_checkpoint(trained, progress)
    loaded, found = run.resume(runs.load_model)
    assert found == progress
    for a, b in zip(numpy_state(trained), numpy_state(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, rng, capsys):
    run, trained = begun(tmp_path), model()
    trained.fit(*small_data(), verbose=0)
    for step in (1, 2):
        run.save_checkpoint(trained, runs.Progress(step))
    newest, previous = run.checkpoint_paths
    whole = newest.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", whole[:1000] + bytes(200) + whole[1200:]):
        newest.write_bytes(damage)
        assert run.resume(runs.load_model)[1].step == 1
        assert "checkpoint.keras: cannot be read" in capsys.readouterr().out
    previous.write_bytes(b"")
    with pytest.raises(rc.RunError, match="no checkpoint can be read"):
        run.resume(runs.load_model)


def test_a_reader_finds_a_whole_checkpoint_at_every_moment_of_a_save(tmp_path, monkeypatch):
    run, trained = begun(tmp_path), model()
    run.save_checkpoint(trained, runs.Progress(step=0))
    seen = []

    def replaced(source, target, replace=os.replace):
        replace(source, target)
        seen.append(run.resume(keras.saving.load_model)[1].step)
        assert run.checkpoint_paths[0].is_file()

    monkeypatch.setattr(os, "replace", replaced)
    for step in (1, 2):
        run.save_checkpoint(trained, runs.Progress(step=step))
    assert seen == [0, 1, 1, 2]
    assert {path.name for path in tmp_path.glob("*.keras")} == {path.name for path in run.checkpoint_paths}
    assert runs.Run(tmp_path).checkpoint_paths[1].samefile(run.checkpoint_paths[0]) is False


def test_without_hard_links_the_one_before_stays_too(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refused)
    run, trained = begun(tmp_path), model()
    for step in (1, 2):
        run.save_checkpoint(trained, runs.Progress(step=step))
    assert [run.resume(keras.saving.load_model)[1].step] == [2]
    run.checkpoint_paths[0].unlink()
    assert run.resume(keras.saving.load_model)[1].step == 1


def test_a_run_that_finishes_while_its_checkpoint_is_read_gives_the_trained_model(tmp_path, capsys):
    run, trained = begun(tmp_path), model()
    run.save_checkpoint(trained, runs.Progress(step=1))

    def load(path):
        run.finish(trained)  # deletes what is being read
        return keras.saving.load_model(path)

    assert keras.ops.all(run.load_model(load).weights[0] == trained.weights[0])
    assert "not finished" not in capsys.readouterr().out


def test_a_directory_without_or_with_damaged_contents_is_named(tmp_path):
    with pytest.raises(rc.RunError, match="not a run directory"):
        runs.Run(tmp_path).load_model()
    run = begun(tmp_path)
    with pytest.raises(rc.RunError, match="holds no trained model"):
        run.load_model()
    run.model_path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(rc.RunError, match="model.keras: cannot be read"):
        run.load_model()
    for text in ("", "{", "[]", '{"command": 1}', "null"):
        run.config_path.write_text(text)
        with pytest.raises(rc.RunError, match="config.json: cannot be read"):
            run.config


def test_a_model_that_would_run_code_is_refused(tmp_path):
    run = begun(tmp_path)
    hostile = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
    hostile.save(run.model_path)
    with pytest.raises(rc.RunError, match="cannot be read"):
        run.load_model()


def test_an_interrupted_row_is_joined_exactly(tmp_path, monkeypatch):
    """Training stopped by a signal in the middle of a row gives the rows and weights of training that was not."""
    from tf_robustcomp.runs import keeper
    from tf_robustcomp.runs import trainer as training

    x, y = small_data()

    def batches(first):
        for step in range(first, 10**6):
            rows = (np.arange(16) + 16 * step) % len(y)
            yield x[rows], y[rows]

    def train(name, stops):
        keras.utils.set_random_seed(1)
        run = begun(tmp_path / name)
        state = (model(), runs.Progress())
        for stop in [*stops, None]:
            keeper_stop = _StopAt(stop)
            try:
                training.train(run, *state, batches(state[1].step), 20, 6, 100, keeper_stop)
            except Interrupted:
                state = run.resume(runs.load_model)
                assert state[1].step == stop
        return run

    class _StopAt:
        def __init__(self, step):
            self.step = step

        def __call__(self, model):
            return {"rate": 0.1}

    original = keeper.Keeper.on_train_batch_end

    def stopping(self, batch, logs=None):
        if self.step + 1 == getattr(self.describe, "step", 0):
            self.received = 15
        original(self, batch, logs)

    monkeypatch.setattr(keeper.Keeper, "on_train_batch_end", stopping)
    straight, stopped = train("straight", []), train("stopped", [4, 6, 13])
    assert straight.metrics_path.read_text() == stopped.metrics_path.read_text()
    rows = list(csv.DictReader(straight.metrics_path.open()))
    assert [row["step"] for row in rows] == ["6", "12", "18", "20"]
    for a, b in zip(numpy_state(straight.load_model()), numpy_state(stopped.load_model()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(path.exists() for path in stopped.checkpoint_paths)


def test_rows_beyond_the_checkpoint_and_half_rows_are_dropped(tmp_path):
    from tf_robustcomp.runs.metrics import MetricsTable, read_metrics

    run = begun(tmp_path)
    run.metrics_path.write_text("step,loss\n100,0.5\n200,0.4\n300,0.3\n400,0.")
    assert [row["step"] for row in read_metrics(run.metrics_path)] == [100, 200, 300, 400]
    run.metrics_path.write_text("step,loss\n100,0.5\n200,0.4\n300,0.3\n400")
    table = MetricsTable(run.metrics_path, 200)
    table.add(300, {"loss": 0.25})
    table.close()
    assert run.metrics_path.read_text() == "step,loss\n100,0.5\n200,0.4\n300,0.25\n"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    from tf_robustcomp.runs import trainer as training

    x, y = small_data()

    def batches():
        for step in range(10**6):
            yield (x if step < 5 else np.full_like(x, np.nan)), y

    run = begun(tmp_path)
    with pytest.raises(rc.RunError, match=r"loss is nan at step 6; checkpoint.keras holds the last good state"):
        training.train(run, model(), runs.Progress(), batches(), 20, 2, 2)
    loaded, progress = run.resume(runs.load_model)
    assert progress.step == 4
    assert all(np.isfinite(value).all() for value in loaded.get_weights())
