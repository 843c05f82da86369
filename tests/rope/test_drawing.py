"""The picture: what is in the figure, and the file that it becomes."""

import struct

import numpy as np
import pytest
from transformers import LlamaConfig

from ultralong_hf import describe_rope
from ultralong_hf.errors import ModelError
from ultralong_hf.rope.drawing import rope_figure


@pytest.fixture
def config():
    return LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )


def test_wavelengths_and_slowdowns_are_drawn_a_line_a_method(config):
    description = describe_rope(config, "4K")
    above, below = rope_figure(description).axes
    drawn = {line.get_label().split(",")[0]: line.get_ydata() for line in above.lines}
    slower = {line.get_label().split(",")[0]: line.get_ydata() for line in below.lines}
    np.testing.assert_allclose(drawn["plain"], 2 * np.pi * 10_000 ** (np.arange(16) / 16), rtol=1e-12)
    for rope in description.methods:
        np.testing.assert_allclose(drawn[rope.name], [pair.wavelength for pair in rope.pairs])
        np.testing.assert_allclose(slower[rope.name], [pair.slower for pair in rope.pairs])


def test_both_lengths_are_lines_and_the_ramp_is_shaded(config):
    above, below = rope_figure(describe_rope(config, "4K")).axes
    assert {text.get_text() for text in above.texts} == {"original length 256", "length 4K"}
    levels = {line.get_ydata()[0] for line in above.lines if len(set(line.get_ydata())) == 1}
    assert levels == {256, 4096}
    for axes in (above, below):
        (shade,) = axes.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (4.5, 6.5)  # pairs 5 and 6


def test_a_models_own_rope_is_drawn_without_a_target(config):
    above, _ = rope_figure(describe_rope(config)).axes
    assert {line.get_label() for line in above.lines[:2]} == {"plain, theta 10,000", "own (default)"}
    assert not above.patches


def test_the_file_is_a_png_of_the_promised_size(config, tmp_path):
    path = describe_rope(config, "4K").plot(tmp_path / "rope.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">II", data[16:24]) == (1350, 1080)
    assert [file.name for file in tmp_path.iterdir()] == ["rope.png"]


def test_drawing_leaves_pyplot_alone(config, tmp_path):
    import matplotlib.pyplot

    backend = matplotlib.get_backend()
    describe_rope(config).plot(tmp_path / "rope.png")
    assert matplotlib.pyplot.get_fignums() == []
    assert matplotlib.get_backend() == backend


def test_a_file_that_cannot_be_written_is_named(config, tmp_path):
    with pytest.raises(ModelError, match=r"nowhere/rope\.png cannot be written: No such file or directory"):
        describe_rope(config).plot(tmp_path / "nowhere" / "rope.png")
