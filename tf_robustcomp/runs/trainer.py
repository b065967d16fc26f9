"""One training loop for both halves: Keras' fit with the callbacks that keep the run directory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from tf_robustcomp.backend.precision import configured
from tf_robustcomp.backend.replicas import build_optimizer, join_batch_statistics
from tf_robustcomp.runs.directory import Progress, Run, digest, load_model, open_run
from tf_robustcomp.runs.keeper import Keeper
from tf_robustcomp.utils.settings import spelled


def train_run(
    command: str,
    settings: Any,
    load: Callable,
    build: Callable,
    batches_from: Callable,
    max_steps: Any,
    describe: Callable | None = None,
    complete: Callable | None = None,
    digests: Callable | None = None,
    hint: str = "; `eval` with the same flags evaluates it",
) -> None:
    """Train in the settings' run directory, from its checkpoint where there is one.

    Args:
        command: name of the command.
        settings: dataclass with ``train_dir``, ``log_steps``, ``checkpoint_steps`` and the fields of
            `cli.settings.common.DeviceSettings`.
        load: function that returns the training data, a tuple of arrays of one length.
        build: function of the data that returns the compiled model a new run starts with.
        batches_from: function of the data and a step that returns endless batches from that step on.
        max_steps: step at which training ends, or a function of the data.
        describe: see `train`.
        complete: see `train`; of the model and the data.
        digests: function of the data that returns digests by split, which config.json keeps; default: of all of it.
        hint: what to do next, for the last line.
    """
    with open_run(settings.train_dir, command, settings) as run:
        longer = run.longer(settings)
        if run.finished and not longer:
            print(f"{run.path}: has finished; delete it to train again")
            return
        data = load()
        with configured(settings):
            # A builder may refuse flags: so the first time it comes before the folder holds them.
            built = None if run.config_path.is_file() else build(data)
            run.begin(digests(data) if digests else {"train": digest(*data)})
            for name, (old, new) in longer.items():
                print(
                    f"{run.path}: goes on from {spelled(name)} {old:g} to {new:g}; evaluate it again then", flush=True
                )
                run.prolong(settings)
            steps = max_steps(data) if callable(max_steps) else max_steps
            model, progress = run.resume(load_model) or (built or build(data), Progress())
            join_batch_statistics(model, settings.strategy)
            print(f"{run.path}: {len(data[0])} images, step {progress.step} of {steps}", flush=True)
            train(
                run,
                model,
                progress,
                batches_from(data, progress.step),
                steps,
                settings.log_steps,
                settings.checkpoint_steps,
                describe,
                complete and (lambda model: complete(model, data)),
            )
    print(f"{run.path}: trained{hint}", flush=True)


def train(
    run: Run,
    model: keras.Model,
    progress: Progress,
    batches: Iterable,
    max_steps: int,
    log_steps: int,
    checkpoint_steps: int,
    describe: Callable | None = None,
    complete: Callable | None = None,
) -> None:
    """Train ``model`` from ``progress`` to ``max_steps``, then finish the run.

    Args:
        run: opened.
        model: compiled; its metrics must be sums or means, so that a row cut in two can be joined.
        progress: where the model stands.
        batches: for ``model.fit``, without end; the first batch is that of the present step.
        max_steps: step at which training ends.
        log_steps: steps between rows of metrics.csv.
        checkpoint_steps: steps between checkpoints.
        describe: function of the model that returns further columns, a dict of floats.
        complete: function of the trained model, called before it is written.

    Raises:
        RunError: the loss is not finite; the last checkpoint before it stays.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    if progress.step < max_steps:
        build_optimizer(model)
        keeper = Keeper(run, progress, max_steps, log_steps, checkpoint_steps, describe)
        with keeper.keeping():
            steps = max_steps - progress.step
            model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[keeper])
    if complete:
        complete(model)
    run.finish(model)


def stepwise(boundaries: Sequence[int], rates: Sequence[float]) -> Any:
    """Return a learning rate that changes at each boundary, a step: a Keras schedule, or the one rate.

    Keras' schedule holds a rate up to and including its boundary; here, as published, it changes at the boundary.
    """
    if not boundaries:
        return rates[0]
    return keras.optimizers.schedules.PiecewiseConstantDecay([boundary - 1 for boundary in boundaries], list(rates))
