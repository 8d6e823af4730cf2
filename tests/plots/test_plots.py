import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from score_sde import plots
from score_sde.plots import comparison, datasets, samples, scores
from score_sde.plots.captions import shortened
from score_sde.plots.curves import average_down, smoothed
from score_sde.plots.datasets import dataset_overview
from score_sde.plots.densities import draw_panels, histogram_density
from score_sde.plots.images import NON_FINITE_COLOR, render_tiles
from score_sde.plots.scores import metric_curves
from score_sde.plots.strips import within_range
from score_sde.plots.style import as_pixels, new_figure


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_to_uint8_inverts_every_level_and_rounds():
    levels = np.arange(256, dtype=np.uint8)
    image = levels.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(plots.to_uint8(image), levels)
    # 0.4 of a level above or below still belongs to the level; truncation would lose the lower half.
    np.testing.assert_array_equal(plots.to_uint8(image - np.float32(0.4 / 127.5)), levels)
    np.testing.assert_array_equal(plots.to_uint8(image + np.float32(0.4 / 127.5)), levels)
    np.testing.assert_array_equal(plots.to_uint8(np.array([-3.0, 7.0], np.float32)), [0, 255])


def test_to_uint8_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match=r"finite values, got 2 of 3 .* find out where"):
        plots.to_uint8(np.array([np.nan, np.inf, 0.0], np.float32))


def test_importing_plots_leaves_matplotlib_alone():
    code = "import sys, score_sde.plots; assert not {'matplotlib', 'PIL'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grid_puts_image_i_at_its_row_and_column():
    values = np.linspace(-1, 1, 5, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (5, 4, 6, 1))
    grid = plots.image_grid(images, columns=3, padding=2, upscale=3)
    assert grid.shape == (2 * (12 + 2) + 2, 3 * (18 + 2) + 2, 3)
    for i, value in enumerate(plots.to_uint8(values)):
        top, left = 2 + i // 3 * 14, 2 + i % 3 * 20
        assert (grid[top : top + 12, left : left + 18] == value).all()
    assert (grid[:2] == 255).all()
    assert (grid[-14:, -20:] == 255).all()  # the sixth tile is empty


def test_small_images_are_enlarged_by_repeating_pixels():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    grid = plots.image_grid(image, padding=0)
    assert grid.shape == (64, 64, 3)
    np.testing.assert_array_equal(grid[::8, ::8], plots.to_uint8(image[0]))
    assert plots.image_grid(np.zeros((1, 64, 100, 1), np.float32), padding=0).shape == (64, 100, 3)


def test_grid_takes_uint8_and_shows_the_same():
    u8 = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(plots.image_grid(u8), plots.image_grid(u8.astype(np.float32) / 127.5 - 1))


def test_two_channels_are_red_and_blue_and_grey_where_equal():
    pixel = np.array([[[[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]]], np.float32)
    expected = [[255, 128, 0], [0, 128, 255], [255, 255, 255]]
    np.testing.assert_array_equal(plots.image_grid(pixel, padding=0, upscale=1)[0], expected)


def test_non_finite_pixels_stand_out():
    images = np.zeros((1, 2, 2, 3), np.float32)
    images[0, 1, 0, 2] = np.nan
    grid = plots.image_grid(images, padding=0, upscale=1)
    assert tuple(grid[1, 0]) == NON_FINITE_COLOR
    assert (np.delete(grid.reshape(4, 3), 2, axis=0) == 128).all()


def test_signals_are_lines_at_the_height_of_their_values():
    ramp = np.linspace(-1, 1, 65, dtype=np.float32)
    tile = render_tiles(np.stack([ramp, -ramp])[..., None])
    assert tile.shape[0] == 2
    height, width = tile.shape[1:3]
    dark = tile.astype(int).sum(axis=-1)
    dark[:, height // 2 - 2 : height // 2 + 2] = 999  # the line at zero
    for x in (10, width - 10):
        row = dark[0, :, x].argmin()
        expected = height / 2 - (2 * x / width - 1) * (height / 2 - 3)
        assert abs(row - expected) < 3
        assert abs(dark[1, :, x].argmin() - (height - expected)) < 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 8, 8, 1), np.float32), r"at least one image, .* got shape \(0, 8, 8, 1\)"),
        (np.zeros((8, 8), np.float32), r"add the channel axis with images\[\.\.\., None\]"),
        (np.zeros((1, 8, 8, 4), np.float32), r"1, 2 or 3 channels in the last axis, got shape \(1, 8, 8, 4\)"),
    ],
)
def test_grid_says_which_shapes_it_takes(images, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images)


def test_grid_says_which_layouts_it_takes():
    with pytest.raises(ValueError, match=r"needs columns, upscale >= 1 and padding >= 0, got columns=0"):
        plots.image_grid(np.zeros((1, 8, 8, 1), np.float32), columns=0)


def test_save_image_round_trips(tmp_path):
    u8 = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read(plots.save_image(tmp_path / "new" / "a.png", u8)), u8)


def test_save_image_refuses_floats_and_unknown_endings(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 array .* got float32 of shape \(2, 2\); call image_grid"):
        plots.save_image(tmp_path / "a.png", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"ends in \.png, \.webp or \.jpg, got 'a\.xyz'"):
        plots.save_image(tmp_path / "a.xyz", np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
@pytest.mark.parametrize("colored", [False, True])
def test_animation_keeps_frames_colours_and_times(tmp_path, ending, colored):
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, (6, 2, 8, 8, 3 if colored else 1)).astype(np.float32)
    frames = [plots.image_grid(images) for images in noise]
    path = plots.animation(frames, tmp_path / f"film.{ending}", frames_per_second=20, hold_seconds=1.5)
    with Image.open(path) as film:
        assert film.n_frames == 6
        assert film.info["loop"] == 0
        durations = []
        for i, frame in enumerate(frames):
            film.seek(i)
            film.load()
            durations.append(film.info["duration"])
            difference = np.abs(np.asarray(film.convert("RGB")).astype(int) - frame)
            # GIF: half the distance of 64 greys; or 256 colours for 768 random ones, six levels a channel, 42 apart.
            worst = {"gif": (42 if colored else 3)}.get(ending, 0)
            assert np.quantile(difference, 0.99) <= worst
    assert durations == [50] * 5 + [1500]


def test_animation_says_what_it_takes(tmp_path):
    frame = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"of one size, got uint8 \(4, 4, 3\), uint8 \(5, 4, 3\)"):
        plots.animation([frame, np.zeros((5, 4, 3), np.uint8)], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="got no frames; make each with image_grid"):
        plots.animation([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"ends in \.gif, \.png, \.webp, got 'a\.mp4'"):
        plots.animation([frame], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"0 < frames_per_second <= 50, got 60"):
        plots.animation([frame], tmp_path / "a.gif", frames_per_second=60)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 12, 3), (40, 1)])
def test_denoising_strip_shows_each_image(tmp_path, shape):
    images = np.full((3, *shape), -1, np.float32)
    labels = [f"σ = {i}" for i in range(3)]
    path = plots.denoising_strip(images, images, images, labels, tmp_path / "a.png", clean=images[0], title="One image")
    picture = read(path)
    black = (picture == 0).all(axis=-1).mean()
    assert picture.shape[1] > picture.shape[0] / 2
    if len(shape) == 3:
        assert black > 0.4  # ten black tiles


def test_strip_refuses_rows_of_different_lengths(tmp_path):
    images = np.zeros((3, 8, 8, 1), np.float32)
    with pytest.raises(
        ValueError, match=r"same number of noise levels, .* got \{'noised': 3, .* 'full': 2, 'labels': 3"
    ):
        plots.denoising_strip(images, images, images[:2], ["a"] * 3, tmp_path / "a.png")


def test_large_noise_is_scaled_into_range_and_small_is_left_alone():
    noised = np.random.default_rng(0).normal(size=(2, 50, 50, 1)) * np.array([0.2, 80.0])[:, None, None, None]
    shown = within_range(noised)
    np.testing.assert_array_equal(shown[0], noised[0])
    assert 0.97 < (np.abs(shown[1]) <= 1).mean() < 0.99


def test_loss_curve_draws_losses_and_marks_non_finite_values(tmp_path):
    steps = np.arange(100)
    values = np.exp(-steps / 20.0) + 0.1
    path = plots.loss_curve({"loss": (steps, values), "lr": (steps, values)}, tmp_path / "a.png")
    clean = read(path)
    values[40] = np.nan
    broken = read(plots.loss_curve({"loss": (steps, values)}, tmp_path / "b.png"))

    def red(picture):
        r, g, b = np.moveaxis(picture.astype(int), -1, 0)
        return ((r - g > 60) & (r - b > 60)).sum()

    assert red(clean) == 0
    assert red(broken) > 200


def test_loss_curve_names_the_metrics_that_there_are(tmp_path):
    series = (np.arange(3), np.ones(3))
    with pytest.raises(ValueError, match=r"got \['los'\]; choose from accuracy, loss"):
        plots.loss_curve({"loss": series, "accuracy": series}, tmp_path / "a.png", names=["los"])
    with pytest.raises(ValueError, match="got none that is called loss; choose from nothing: the log is empty"):
        plots.loss_curve({}, tmp_path / "a.png")


def test_smoothing_keeps_lines_and_averages_noise():
    x = np.arange(4000)
    line = smoothed(0.001 * x)
    np.testing.assert_allclose(line[:3700], 0.001 * x[:3700], atol=1e-6)  # symmetric windows shift nothing
    noise = np.random.default_rng(0).normal(size=4000)
    assert smoothed(noise)[1000:].std() < 3 / np.sqrt(2 * 4000 / 40)
    steps, values = average_down(x, noise)
    assert len(steps) == len(values) == 2000
    np.testing.assert_allclose(values, noise.reshape(-1, 2).mean(axis=1))
    assert average_down(x[:1], noise[:1])[1] == noise[0]


def test_loss_by_noise_level_draws_bars(tmp_path):
    levels, means = np.geomspace(0.01, 10, 8), np.geomspace(1, 0.01, 8)
    none = read(plots.loss_by_noise_level({"a": (levels, means, 0 * means)}, tmp_path / "a.png"))
    bars = read(plots.loss_by_noise_level({"a": (levels, means, 0.3 * means)}, tmp_path / "b.png"))
    assert none.shape == bars.shape
    assert (none != bars).any(axis=-1).sum() > 500
    with pytest.raises(ValueError, match="needs at least one curve, got none"):
        plots.loss_by_noise_level({}, tmp_path / "a.png")


def test_grid_points_are_cell_centres_row_by_row():
    points = plots.grid_points((0.0, 2.0, 10.0, 14.0), 2)
    np.testing.assert_array_equal(points, [[0.5, 11.0], [1.5, 11.0], [0.5, 13.0], [1.5, 13.0]])


def test_histogram_is_the_density_on_the_same_grid():
    extent = (-1.0, 3.0, -2.0, 0.5)
    samples = np.random.default_rng(0).uniform([0, -1], [1, 0], (40_000, 2))
    density, outside = histogram_density(samples, extent)
    rows, columns = density.shape
    x = -1 + 4 * (np.arange(columns) + 0.5) / columns
    y = -2 + 2.5 * (np.arange(rows) + 0.5) / rows
    inside = ((y > -0.95) & (y < -0.05))[:, None] & ((x > 0.05) & (x < 0.95))
    per_cell = 40_000 * 10 / density.size
    assert abs(density[inside].mean() - 1) < 5 / np.sqrt(per_cell * inside.sum()) + 0.02
    assert density[(y > 0.1), :].max() == 0
    assert outside == 0
    samples[:400] = np.nan
    samples[400:800] = 99
    assert histogram_density(samples, extent)[1] == pytest.approx(0.02)


def test_density_plot_draws_all_panels(tmp_path):
    extent = (-3.0, 3.0, -3.0, 3.0)
    points = plots.grid_points(extent, 40)
    density = np.exp(-0.5 * (points**2).sum(axis=1)) / (2 * np.pi)
    samples = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    one = read(plots.density_plot(samples, tmp_path / "a.png"))
    paths = np.linspace(1, 0.1, 5, dtype=np.float32)[:, None, None] * samples[None, :20]
    path = tmp_path / "b.png"
    plots.density_plot(samples, path, extent, density, density, paths, title="A Gaussian")
    assert read(path).shape[1] > 2.5 * one.shape[1]


def test_density_plot_says_what_it_needs(tmp_path):
    samples = np.zeros((10, 2), np.float32)
    with pytest.raises(ValueError, match="needs the extent on which its densities were evaluated"):
        plots.density_plot(samples, tmp_path / "a.png", true_density=np.zeros(4, np.float32))
    with pytest.raises(
        ValueError, match=r"square number of density values, got 5; evaluate the density at grid_points"
    ):
        plots.density_plot(samples, tmp_path / "a.png", (0.0, 1.0, 0.0, 1.0), true_density=np.zeros(5, np.float32))


def test_panels_put_y_upwards(tmp_path):
    density = np.zeros((8, 8))
    density[0, 0] = 1.0  # low x, low y
    picture = read(draw_panels({"one": density}, None, (0.0, 1.0, 0.0, 1.0), None, tmp_path / "a.png"))
    rows, columns = np.nonzero((picture == (11, 47, 99)).all(axis=-1) & (np.arange(picture.shape[1]) < 200))
    assert rows.min() > picture.shape[0] / 2
    assert columns.max() < picture.shape[1] / 2


def test_figures_leave_no_global_state():
    new_figure(2.0, 2.0)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_captions_stand_below_their_images_and_a_title_above():
    images = np.linspace(-1, 1, 3, dtype=np.float32)[:, None, None, None] * np.ones((3, 8, 8, 1), np.float32)
    plain, named = plots.image_grid(images, columns=2), plots.image_grid(images, columns=2, captions=["a", "", "c"])
    band = (named.shape[0] - plain.shape[0]) // 2
    assert band > 12 and named.shape[1] == plain.shape[1]
    for row, column, level, has_text in ((0, 0, 0, True), (0, 1, 128, False), (1, 0, 255, True)):
        top, left = 4 + row * (64 + band + 4), 4 + column * 68
        assert (named[top : top + 64, left : left + 64] == level).all()
        assert (named[top + 64 : top + 64 + band, left : left + 64] < 128).any() == has_text
    titled = plots.image_grid(images, columns=2, title="Samples after 7 steps")
    np.testing.assert_array_equal(titled[-plain.shape[0] :], plain)
    assert (titled[: -plain.shape[0]] < 128).any()
    with pytest.raises(ValueError, match="image_grid needs a caption for each of 3 images, got 1"):
        plots.image_grid(images, captions=["a"])


def test_a_long_caption_is_shortened_to_its_tile():
    fits = lambda text: len(text) <= 6  # noqa: E731
    assert [shortened(text, fits) for text in ("horse", "automobile", "a b\nc", "")] == ["horse", "autom…", "a b c", ""]
    assert shortened("wide", lambda text: text == "") == ""


@pytest.fixture
def figures(monkeypatch):
    """The figures that are made, as (figure, axes)."""
    made = []
    for module in (datasets, comparison, samples, scores):
        monkeypatch.setattr(module, "new_figure", lambda *a, **k: made.append(new_figure(*a, **k)) or made[-1])
    return made


def test_points_have_axes_and_a_colour_for_each_class(figures):
    points = np.random.default_rng(0).normal(size=(90, 2))
    points[3] = np.nan
    picture = plots.point_picture(points, np.arange(90) % 3, "abc".__getitem__, "Samples after 5 steps")
    ((_, [[axes]]),) = figures
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 1
    assert axes.get_title(loc="left") == "Samples after 5 steps: 90 points, 1 of them not finite and left out"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x₀", "x₁")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    drawn = [np.asarray(group.get_offsets()) for group in axes.collections]
    np.testing.assert_allclose(drawn[1], points[1::3])
    assert len({tuple(group.get_facecolor()[0]) for group in axes.collections}) == 3


@pytest.mark.parametrize(
    ("shape", "x", "y"),
    [
        ((40, 1), "x", "density"),
        (
            (40, 5),
            "principal axis 1 (100% of the variance of 5 numbers)",
            "principal axis 2 (0% of the variance of 5 n",
        ),
    ],
)
def test_points_on_a_line_and_in_space(figures, shape, x, y):
    points = np.zeros(shape)
    points[:, -1] = np.linspace(-1, 1, len(points))
    plots.point_picture(points)
    ((_, [[axes]]),) = figures
    assert axes.get_xlabel() == x and axes.get_ylabel().startswith(y) and axes.get_legend() is None


def test_signals_share_axes_and_tell_their_class(figures):
    signals = np.random.default_rng(0).normal(size=(18, 30, 2))
    plots.signal_picture(signals, np.arange(18) % 2, ("walk", "run").__getitem__, "Samples")
    ((figure, axes),) = figures
    assert axes.shape == (4, 4) and [one.get_title() for one in axes[0]] == ["walk", "run", "walk", "run"]
    np.testing.assert_array_equal(axes[1, 2].get_lines()[1].get_ydata(), signals[6, :, 1])
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("position in the signal", "value")


def test_a_mismatch_of_zero_has_no_bar(tmp_path, figures):
    mismatch = {"vp": 1e-3, "flow": 0.0, "ve": 1e-2}
    names = ("cat", "dog").__getitem__
    histogram = (np.arange(4.0), np.ones(3))
    dataset_overview(histogram, np.ones(9), mismatch, {0: 5, 1: 6}, tmp_path / "a.png", names)
    ((_, axes),) = figures
    bars, texts = axes[1, 0].patches, [text.get_text().strip() for text in axes[1, 0].texts]
    assert texts == ["0.001", "0", "0.01"] and [bar.get_width() > 0 for bar in bars] == [True, False, True]
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in bars][::2], [1e-3, 1e-2])
    assert [tick.get_text() for tick in axes[1, 1].get_xticklabels()] == ["cat", "dog"]
    dataset_overview(histogram, np.ones(9), {"flow": 0.0}, {}, tmp_path / "b.png")  # nothing but zeros
    assert figures[1][1][1, 0].patches[0].get_width() == 0


@pytest.mark.parametrize("shape", [(50, 2), (3, 8, 8, 1), (3, 20, 2)])
def test_strips_say_what_each_solve_took(tmp_path, figures, shape):
    values = np.random.default_rng(0).uniform(-1, 1, shape)
    panels = {"heun": [values, values], "ddim": [values, values]}
    captions = {"heun": ["2 steps\n4 evaluations", "b"], "ddim": ["c", "d"]}
    comparison.solver_strips(panels, ["budget 5", "budget 10"], captions, tmp_path / "a.png", "Solvers")
    ((_, axes),) = figures
    assert [one.get_xlabel() for one in axes.flat] == ["2 steps\n4 evaluations", "b", "c", "d"]
    assert [one.get_title() for one in axes.flat] == ["budget 5", "budget 10", "", ""]


def test_long_labels_do_not_cover_the_curves(tmp_path, figures):
    points = (np.array([1.0, 9.0]), np.array([0.1, 1.0]), np.zeros(2))
    labels = [", ".join(f"grid.field_{i}={value}" for i in range(12)) for value in "ab"]
    metric_curves(dict.fromkeys(labels, points), tmp_path / "a.png", "x", "y")
    ((figure, [[axes]]),) = figures
    figure.canvas.draw()
    legend, reach = axes.get_legend().get_window_extent(), axes.xaxis.get_tightbbox()
    assert legend.y1 < reach.y0 and legend.width < figure.bbox.width


def test_names_with_dollars_are_no_formulas(tmp_path):
    """Of classes, metrics and runs; the ticks of logarithmic axes stay formulas, as matplotlib writes them."""
    name = "$\\frac{$ of [%_^#"
    points = (np.array([1.0, 1e4]), np.array([1e-3, 1.0]), np.zeros(2))
    metric_curves({name: points}, tmp_path / "a.png", name, name, name)
    figure, [[axes]] = new_figure(3.0, 2.0)
    axes.loglog(points[0], points[1])
    axes.set_title(name)
    as_pixels(figure)
    assert axes.title.get_parse_math() is False
    (ticks,) = {tick.label1.get_parse_math() for tick in axes.xaxis.get_major_ticks()}
    assert ticks is True


def test_class_rows_shows_the_images_of_each_class(tmp_path):
    """White images of class 1 and black images of class 0: the upper half is dark, and the lower half is light."""
    labels = np.arange(8) % 2
    images = np.where(labels == 1, 1.0, -1.0).astype(np.float32)[:, None, None, None] * np.ones(
        (1, 6, 6, 1), np.float32
    )
    panels = {"guidance scale 1": images, "guidance scale 3": images}
    path = plots.class_rows(panels, labels, ["black", "white"], tmp_path / "rows.png", per_class=3, title="Two classes")
    picture = read(path).astype(float)
    black = np.flatnonzero((picture.mean(axis=2) < 40).mean(axis=1) > 0.5)
    assert black.size and black.max() < 0.75 * len(picture)
    with pytest.raises(ValueError, match="class_rows needs 5 images of each of 2 classes, got a class with 4"):
        plots.class_rows(panels, labels, ["black", "white"], tmp_path / "rows.png", per_class=5)


def test_metric_panels_need_a_panel(tmp_path):
    with pytest.raises(ValueError, match="metric_panels needs at least one panel, got none"):
        scores.metric_panels({}, tmp_path / "none.png", "scale")
    curves = {"rule": ([1.0, 2.0], [0.5, 0.7], [0.1, 0.1]), "rule, interval": ([1.0, 2.0], [0.5, 0.6], [0.0, 0.0])}
    path = scores.metric_panels({"recall": curves, "precision": curves}, tmp_path / "a.png", "scale", "Two panels")
    assert read(path).std() > 5
