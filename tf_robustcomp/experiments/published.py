"""Published figures that a study is compared with."""

# Randomisation (Zhou et al. 2018, arXiv 1804.05862): accuracy on the randomly labelled training set by fraction of
# random labels, at target sparsities 0.5 to 0.9; one seed.
RANDOMISATION = {
    0.0: (1.0, 1.0, 1.0, 1.0, 0.979),
    0.3: (1.0, 1.0, 0.978, 0.691, 0.623),
    0.5: (1.0, 1.0, 0.928, 0.605, 0.419),
    0.7: (1.0, 0.995, 0.878, 0.646, 0.279),
    1.0: (1.0, 0.988, 0.888, 0.674, 0.208),
}

# Robust compression (Lei, Hassani, Saeedi Bidokhti 2021, arXiv 2110.07007), MNIST test set, as read from the original
# notebooks' saved outputs.  Names are those of the study's runs.
CLEAN = {
    "d4-standard": 19.29,
    "d5-standard": 16.01,
    "d6-standard": 13.33,
    "d7-standard": 11.31,
    "d8-standard": 9.66,
    "d9-standard": 8.42,
    "standard": 7.446,
    "wass_ball-1": 7.79,
    "wass_ball-0.36": 14.51,
}
CLEAN_STAGES = {  # structured models at gamma 1: (d1, d2) -> decoders 1 and 2
    (4, 6): (34.1, 9.12),
    (5, 5): (28.0, 8.70),
    (6, 4): (18.3, 8.66),
    (7, 3): (14.2, 8.54),
    (8, 2): (10.3, 8.34),
    (9, 1): (8.42, 8.30),
}
WORST_CASE = {  # by 15 steps: (rho, D)
    "standard": ((32.2, 93.5), (37.4, 104.5), (43.2, 117), (49.4, 130), (56.9, 145)),
    "wass_ball-1": (
        (3.2, 21.7),
        (4.4, 24.1),
        (6.8, 28.3),
        (10, 33),
        (13.7, 37.7),
        (18.5, 43.5),
        (24.1, 49.5),
        (30.6, 56.2),
    ),
    "structured-3-7-0.36, stage 2": ((41.1, 70.3), (50.1, 78.3), (60.9, 87.5), (72.4, 97.5), (84.1, 107)),
}
ROTATED = {  # at 0 degrees, at other angles
    "standard": ("-", "40-45 near +-100"),
    "rotation": ("7.35", "12.7-13.5"),
    "worst_angle": ("10.7", "12.3-12.9"),
    "angle_prediction": ("-", "9.7-12.6, mean near 11"),
}
