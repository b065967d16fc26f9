import csv
import dataclasses
import math

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.evaluation.toys import gaussian_images, shrinking


@pytest.fixture(scope="module")
def all_results():
    images = gaussian_images(np.random.default_rng(0), count=6, side=16)
    toys = {"strong, or so": shrinking(0.9), "weak": shrinking(0.1)}
    codes = {
        "plain": rc.Compressor(2, levels=4, width=2, image_shape=(16, 16, 1)),
        "staged": rc.SuccessiveRefinement((1, 2), levels=4, width=2, image_shape=(16, 16, 1)),
    }
    return [
        rc.worst_case_curve(toys, images, [2, 1], steps=4, check=2),
        rc.rotation_curve(codes, images, [0, 45]),
        rc.noise_curve(toys, images, [1, 2]),
        rc.lp_curve(toys, images, [0.1], norm="linf", steps=2),
        rc.rate_allocation(codes, images),
        rc.rate_allocation(codes),
        rc.dual_estimate(toys, images, 1.0, [0.5, 1]),
    ]


def same(one, two):
    return len(one) == len(two) and all(
        a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
        for row, other in zip(one.rows, two.rows, strict=True)
        for a, b in zip(dataclasses.astuple(row), dataclasses.astuple(other), strict=True)
    )


@pytest.mark.slow
def test_csv_gives_back_the_same_values(all_results, tmp_path):
    for results in all_results:
        results.to_csv(tmp_path / "r.csv")
        assert same(type(results).from_csv(tmp_path / "r.csv"), results)
        assert same(type(results).from_records(results.to_records()), results)
        assert type(results).from_csv(tmp_path / "r.csv") == results
        assert hash(type(results).from_records(results.to_records())) == hash(results)
        rows = list(csv.DictReader((tmp_path / "r.csv").open()))
        assert len(rows) == len(results) and set(rows[0]) == set(results.columns())


def test_tables_have_a_line_for_every_row(all_results):
    for results in all_results:
        lines = results.table().splitlines()
        assert len(lines) == len(results) + 1
        assert lines[0].split() == results.columns()
        assert str(results) == results.table()


def test_every_line_is_drawn_with_its_label(all_results):
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    for results in all_results:
        axes = results.plot()
        assert axes.get_xlabel()
        drawn = axes.get_legend_handles_labels()[1] or [label.get_text() for label in axes.get_yticklabels()]
        for model in {row.model for row in results.rows}:
            assert any(label.startswith(model) for label in drawn)
        _, own = plt.subplots()
        assert results.plot(own) is own
        plt.close("all")


def test_rates_are_those_of_the_models(all_results):
    rows = all_results[5].rows
    assert [(row.model, row.stage, row.latents, row.rate_bits) for row in rows] == [
        ("plain", 1, 2, 4.0),
        ("staged", 1, 1, 2.0),
        ("staged", 2, 3, 6.0),
    ]
    assert [row.fraction for row in rows] == pytest.approx([1, 1 / 3, 1])
    assert all(math.isnan(row.distortion) and row.images == 0 for row in rows)
    assert all(row.distortion > 0 and row.images == 6 for row in all_results[4].rows)


def test_results_of_one_kind_are_joined(all_results):
    noise, worst = all_results[2], all_results[0]
    assert (noise + noise).rows == noise.rows * 2
    with pytest.raises(TypeError):
        noise + worst


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be"),
        ("a,b\n1,2\n", "line 1 must be"),
        ("HEADER\nm,1\n", "line 2"),
        ("HEADER\nm,one,1,angle,0,0,0,0,1\n", "line 2: invalid literal"),
        ("HEADER\n" + "\0" * 3, "line 2"),
    ],
)
def test_damaged_csv_is_named_with_its_line(text, message, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text(text.replace("HEADER", ",".join(rc.ShiftCurve.columns())))
    with pytest.raises(rc.DataError, match=f"c.csv: {message}"):
        rc.ShiftCurve.from_csv(path)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(rc.DataError, match=r"none\.csv: no such file"):
        rc.WorstCaseCurve.from_csv(tmp_path / "none.csv")
