"""The frequencies against the papers' equations, transformers' own functions and tabulated values."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ultralong_hf.errors import RopeError
from ultralong_hf.rope.frequencies import (
    METHODS,
    angle_error,
    attention_temperature,
    inverse_frequencies,
    ntk_theta,
    turns_ramp,
)

# theta, rotary_dim, original length, scale, beta_slow, beta_fast: the three models of the paper, and heads of
# 64 and 128 at theta 10,000, whose ramps end beyond the last pair.
SETTINGS = [
    (500_000.0, 128, 8192, 128, 1.0, 4.0),
    (500_000.0, 128, 8192, 256, 1.0, 4.0),
    (500_000.0, 128, 8192, 512, 1.0, 4.0),
    (500_000.0, 128, 8192, 128, 1.0, 32.0),
    (10_000.0, 64, 4096, 32, 1.0, 4.0),
    (10_000.0, 128, 4096, 32, 1.0, 4.0),
    (10_000.0, 64, 131_072, 8, 1.0, 4.0),
    (10_000.0, 128, 131_072, 8, 1.0, 4.0),
    (10_000.0, 128, 131_072, 8, 1.0, 32.0),
    (10_000.0, 32, 256, 16, 1.0, 4.0),
    (1_000_000.0, 128, 32_768, 32, 0.5, 7.5),
]


def by_the_papers(method, theta, d, length, scale, slow, fast):
    """One pair after the other, in 50 digits, from wavelengths and periods as the papers write them."""
    mp.dps = 50
    frequencies = []
    for pair in range(d // 2):
        wavelength = 2 * mp.pi * mpf(theta) ** (mpf(2 * pair) / d)
        if method == "linear":
            wavelength *= scale
        elif method == "ntk":
            # The base b' for which b'^((d-2)/d) = s b^((d-2)/d).
            base = (scale * mpf(theta) ** (mpf(d - 2) / d)) ** (mpf(d) / (d - 2))
            wavelength = 2 * mp.pi * base ** (mpf(2 * pair) / d)
        elif method in ("llama3", "yarn"):
            stretched_share = 1 - kept_share(method, pair, wavelength, theta, d, length, slow, fast)
            wavelength = 1 / ((1 - stretched_share) / wavelength + stretched_share / (scale * wavelength))
        frequencies.append(2 * mp.pi / wavelength)
    return np.array([float(frequency) for frequency in frequencies])


def kept_share(method, pair, wavelength, theta, d, length, slow, fast):
    if method == "llama3":  # gamma(r) of arXiv 2309.00071, section 3.2
        ratio = length / wavelength
        if ratio < slow:
            return mpf(0)
        return mpf(1) if ratio > fast else (ratio - slow) / (mpf(fast) - mpf(slow))

    def pair_with(turns):  # the pair that makes so many turns, as a real number
        return mp.log(length / (2 * mp.pi * turns), mpf(theta)) * d / 2

    start = max(mp.floor(pair_with(fast)), 0)
    end = min(mp.ceil(pair_with(slow)), d - 1)
    if pair <= start:
        return mpf(1)
    return mpf(0) if pair >= end else (end - pair) / (end - start)


def by_transformers(method, theta, d, length, scale, slow, fast):
    parameters = {
        "yarn": {"beta_slow": slow, "beta_fast": fast, "original_max_position_embeddings": length},
        "llama3": {
            "low_freq_factor": slow,
            "high_freq_factor": fast,
            "original_max_position_embeddings": length,
        },
        "linear": {},
    }[method]
    config = LlamaConfig(
        hidden_size=d,
        num_attention_heads=1,
        max_position_embeddings=length * scale,
        rope_parameters={
            "rope_type": method,
            "rope_theta": theta,
            "factor": float(scale),
            **parameters,
        },
    )
    frequencies, temperature = ROPE_INIT_FUNCTIONS[method](config)
    return frequencies.double().numpy(), temperature


def ours(method, setting):
    theta, d, length, scale, slow, fast = setting
    return inverse_frequencies(
        method,
        theta=theta,
        rotary_dim=d,
        scale=scale,
        original_length=length,
        beta_slow=slow,
        beta_fast=fast,
    )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_frequencies_follow_the_equations_of_the_papers(method, setting):
    np.testing.assert_allclose(ours(method, setting), by_the_papers(method, *setting), rtol=2e-13)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", ["yarn", "llama3", "linear"])
def test_frequencies_are_those_of_transformers_to_float32(method, setting):
    theirs, temperature = by_transformers(method, *setting)
    # Pairs near the slow end of llama3's ramp lose digits in float32: kept * 0.001 + kept / 512.
    np.testing.assert_allclose(ours(method, setting), theirs, rtol=1e-5)
    assert attention_temperature(method, setting[3]) == pytest.approx(temperature, rel=1e-15)


# Llama-3.1 (theta 500,000, heads of 128, 8,192 tokens), pairs 28 to 36, computed once by `by_the_papers`.
# Below pair 29 both methods keep the frequency at every scale, above 34 both divide it by the scale.
TABLE = {
    ("yarn", 128): [
        3.2114459948e-03,
        2.2452905419e-03,
        1.5269852039e-03,
        9.9783934333e-04,
        6.1240498013e-04,
        3.3558387858e-04,
        1.4035211900e-04,
        5.9726327212e-06,
        4.8654095462e-06,
    ],
    ("yarn", 256): [
        3.2114459948e-03,
        2.2438306650e-03,
        1.5246067223e-03,
        9.9493301514e-04,
        6.0924825343e-04,
        3.3236947361e-04,
        1.3720990738e-04,
        2.9863163606e-06,
        2.4327047731e-06,
    ],
    ("yarn", 512): [
        3.2114459948e-03,
        2.2431007266e-03,
        1.5234174815e-03,
        9.9347985105e-04,
        6.0766989008e-04,
        3.3076227113e-04,
        1.3563880158e-04,
        1.4931581803e-06,
        1.2163523866e-06,
    ],
    ("llama3", 128): [
        3.2114459948e-03,
        2.1063660551e-03,
        1.2702115183e-03,
        7.3898865097e-04,
        4.0573445545e-04,
        2.0028093924e-04,
        7.6726644341e-05,
        5.9726327212e-06,
        4.8654095462e-06,
    ],
    ("llama3", 256): [
        3.2114459948e-03,
        2.1043592315e-03,
        1.2668221167e-03,
        7.3506322557e-04,
        4.0176406527e-04,
        1.9653384553e-04,
        7.3333938727e-05,
        2.9863163606e-06,
        2.4327047731e-06,
    ],
    ("llama3", 512): [
        3.2114459948e-03,
        2.1033558197e-03,
        1.2651274158e-03,
        7.3310051287e-04,
        3.9977887017e-04,
        1.9466029868e-04,
        7.1637585919e-05,
        1.4931581803e-06,
        1.2163523866e-06,
    ],
}


@pytest.mark.parametrize(("method", "scale"), TABLE)
def test_llama_3_1_has_the_tabulated_frequencies(method, scale):
    frequencies = ours(method, (500_000.0, 128, 8192, scale, 1.0, 4.0))
    np.testing.assert_allclose(frequencies[28:37], TABLE[method, scale], rtol=1e-9)
    plain = 500_000.0 ** (-np.arange(64) / 64)
    np.testing.assert_allclose(frequencies[:29], plain[:29], rtol=1e-14)
    np.testing.assert_allclose(frequencies[35:], plain[35:] / scale, rtol=1e-14)


def test_llama3_with_factors_1_and_4_is_the_ramp_of_the_yarn_paper_over_turns():
    plain = 500_000.0 ** (-np.arange(64) / 64)
    turns = 8192 * plain / (2 * math.pi)
    gamma = np.minimum(1, np.maximum(0, (turns - 1) / (4 - 1)))
    paper = (1 - gamma) * plain / 128 + gamma * plain
    np.testing.assert_allclose(ours("llama3", (500_000.0, 128, 8192, 128, 1.0, 4.0)), paper, rtol=1e-15)


@pytest.mark.parametrize(("scale", "largest"), [(128, 1.829), (256, 1.871), (512, 1.893)])
def test_the_two_yarns_differ_on_the_ramp_alone(scale, largest):
    """The six pairs from 29 to 34, by 7 % at its fast end and 83 to 89 % at its slow one."""
    setting = (500_000.0, 128, 8192, scale, 1.0, 4.0)
    ratio = ours("yarn", setting) / ours("llama3", setting)
    assert np.flatnonzero(abs(ratio - 1) > 1e-12).tolist() == [29, 30, 31, 32, 33, 34]
    assert ratio[29] == pytest.approx(1.066, abs=1e-3)
    assert ratio[34] == pytest.approx(largest, abs=1e-3)


def test_ntk_slows_the_slowest_pair_by_the_scale_and_leaves_the_fastest():
    plain, stretched = (ours(m, (10_000.0, 64, 4096, 16, 1.0, 4.0)) for m in ("none", "ntk"))
    assert stretched[0] == plain[0] == 1.0
    assert plain[-1] / stretched[-1] == pytest.approx(16, rel=1e-13)


def test_a_scale_of_one_stretches_nothing():
    plain = ours("none", (10_000.0, 64, 4096, 1, 1.0, 4.0))
    for method in METHODS:
        np.testing.assert_allclose(ours(method, (10_000.0, 64, 4096, 1, 1.0, 4.0)), plain, rtol=1e-15)


def test_turns_ramp_goes_from_interpolated_to_kept():
    assert turns_ramp(np.array([0.2, 1.0, 2.5, 4.0, 99.0]), 1.0, 4.0).tolist() == [0, 0, 0.5, 1, 1]


def test_temperatures_of_the_paper_for_1m_2m_and_4m():
    assert [round(attention_temperature("yarn", s), 4) for s in (128, 256, 512)] == [1.4852, 1.5545, 1.6238]
    assert attention_temperature("yarn", 128, attention_factor=1.25) == 1.25
    assert [attention_temperature(m, 128) for m in METHODS if m != "yarn"] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("position", "radians"), [(131_071, 3.9e-3), (2**20 - 1, 3.1e-2), (2**21 - 1, 6.2e-2), (2**22 - 1, 0.125)]
)
def test_float32_angles_are_off_by_half_a_unit_in_the_last_place(position, radians):
    plain = 500_000.0 ** (-np.arange(64) / 64)
    assert angle_error(plain, position) == pytest.approx(radians, rel=0.02)


def test_small_positions_have_no_angle_error_to_speak_of():
    assert angle_error(np.array([1.0]), 4_000_000) == 0.0
    assert angle_error(np.array([1.0, 0.1]), 10) < 1e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "yarm"}, "'yarm' is none of yarn, llama3, ntk, linear, none. Nearest: yarn."),
        ({"method": "YaRN"}, "Nearest: yarn"),
        ({"scale": 0.5}, "scale 0.5 would shorten"),
        ({"scale": math.inf}, "scale inf"),
        ({"scale": math.nan}, "scale nan"),
        ({"beta_fast": 1.0}, "beta_fast 1 must be above beta_slow 1"),
        ({"beta_slow": 8.0}, "beta_fast 4 must be above beta_slow 8"),
        ({"beta_slow": 0.0}, "above 0"),
        ({"rotary_dim": 63}, "rotary_dim 63"),
        ({"rotary_dim": 0}, "rotary_dim 0"),
    ],
)
def test_arguments_out_of_range_are_rope_errors(change, message):
    arguments = {"method": "yarn", "theta": 1e4, "rotary_dim": 64, "scale": 2.0, "original_length": 4096}
    with pytest.raises(RopeError, match=message):
        inverse_frequencies(**{**arguments, **change})


def test_one_pair_cannot_be_stretched_by_ntk():
    with pytest.raises(RopeError, match="at least 4"):
        ntk_theta(10_000.0, 2.0, 2)
