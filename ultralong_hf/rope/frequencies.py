"""The arithmetic of stretching RoPE: plain numbers in, float64 numpy out.

Pair i of the d rotary dimensions of a head turns by theta^(-2i/d) radians a token. To stretch a window of L
tokens by a factor s, slow pairs are interpolated (their frequency divided by s) and fast ones kept; the
methods differ in how they go from one to the other.

Two functions are called YaRN. "llama3" here is the ramp of the paper (arXiv 2309.00071, section 3.2), over
the turns of a pair within L. "yarn" is the ramp of YaRN's own repository and of transformers, over the
pair's index, together with a temperature of attention.
"""

from __future__ import annotations

import difflib
import math

import numpy as np

from ultralong_hf.errors import RopeError

METHODS = ("yarn", "llama3", "ntk", "linear", "none")

# angle_error looks at so many positions up to the one asked for: its figure is then the worst of a
# neighbourhood, not the luck of one rounding.
_NEIGHBOURHOOD = 1024


def check_method(method: str) -> None:
    """Raises RopeError, naming the nearest method, if `method` is none of METHODS."""
    if method not in METHODS:
        nearest = difflib.get_close_matches(str(method).lower(), METHODS, n=1, cutoff=0.4)
        hint = f" Nearest: {nearest[0]}." if nearest else ""
        raise RopeError(f"method {method!r} is none of {', '.join(METHODS)}.{hint}")


def inverse_frequencies(
    method: str,
    *,
    theta: float,
    rotary_dim: int,
    scale: float,
    original_length: int,
    beta_slow: float = 1.0,
    beta_fast: float = 4.0,
) -> np.ndarray:
    """Inverse frequencies: float64 [rotary_dim // 2], radians per token, fastest first.

    `scale` is s, `original_length` L in tokens. `beta_slow` and `beta_fast` bound the ramps of yarn and
    llama3, in turns within L; the other methods have no ramp.

    - none: theta^(-2i/d) (RoFormer, arXiv 2104.09864, section 3.2.2); `scale` is not used.
    - linear: every frequency divided by s (position interpolation, arXiv 2306.15595).
    - ntk: as none, with the base `ntk_theta` ("NTK-aware", arXiv 2309.00071, section 3.1).
    - llama3: interpolated below beta_slow turns, kept above beta_fast, linear in the turns between (arXiv
      2309.00071, section 3.2; Llama 3.1's own, whose low_freq_factor and high_freq_factor are the betas).
    - yarn: the same ends, linear in the index i between, the ends rounded outwards to whole indices and
      clamped to [0, d - 1] (transformers 5.23, `_compute_yarn_parameters`).

    Raises RopeError for an unknown method, a scale below 1, beta_fast <= beta_slow, beta_slow <= 0, or a
    rotary_dim that is odd or not positive.
    """
    check_method(method)
    if rotary_dim < 2 or rotary_dim % 2:
        raise RopeError(
            f"rotary_dim {rotary_dim} has no pairs of dimensions: it must be even and at least 2."
        )
    if not (math.isfinite(scale) and scale >= 1):
        raise RopeError(f"scale {scale:g} would shorten the window: it must be finite and at least 1.")
    if method == "ntk":
        return _plain(ntk_theta(theta, scale, rotary_dim), rotary_dim)
    kept = _plain(theta, rotary_dim)
    if method == "none":
        return kept
    if method == "linear":
        return kept / scale
    check_ramp(beta_slow, beta_fast)
    if method == "llama3":
        keep = turns_ramp(original_length * kept / (2 * math.pi), beta_slow, beta_fast)
    else:
        keep = _index_ramp(theta, rotary_dim, original_length, beta_slow, beta_fast)
    return kept * keep + kept / scale * (1 - keep)


def check_ramp(beta_slow: float, beta_fast: float) -> None:
    """Raises RopeError if the ramp between the two has no width, or its slow end is not positive."""
    if not (beta_slow > 0 and math.isfinite(beta_fast)):
        raise RopeError(
            f"beta_slow {beta_slow:g}, beta_fast {beta_fast:g}: turns must be above 0 and finite."
        )
    if beta_fast <= beta_slow:
        raise RopeError(
            f"beta_fast {beta_fast:g} must be above beta_slow {beta_slow:g} (turns in the original length)."
        )


def ntk_theta(theta: float, scale: float, rotary_dim: int) -> float:
    """theta s^(d/(d-2)): the base that slows the slowest pair by exactly `scale` and the fastest not at all.

    Source: arXiv 2309.00071, section 3.1 ("NTK-aware", first posted by u/bloc97). A head of one pair has no
    slowest beside its fastest, so rotary_dim 2 is a RopeError.
    """
    if rotary_dim < 4:
        raise RopeError(
            f"method 'ntk' needs a rotary_dim of at least 4, not {rotary_dim}: one pair has no slower one."
        )
    return theta * scale ** (rotary_dim / (rotary_dim - 2))


def turns_ramp(turns: np.ndarray, beta_slow: float, beta_fast: float) -> np.ndarray:
    """The share of each pair that is kept: 0 up to beta_slow turns, 1 from beta_fast on (YaRN's gamma)."""
    return np.clip((turns - beta_slow) / (beta_fast - beta_slow), 0.0, 1.0)


def attention_temperature(method: str, scale: float, attention_factor: float | None = None) -> float:
    """The factor on cos and sin, so that attention logits grow by its square; 1 for all methods but yarn.

    yarn: 0.1 ln s + 1 (arXiv 2309.00071, section 3.4), or `attention_factor` where one is given.
    """
    check_method(method)
    if method != "yarn":
        return 1.0
    return 0.1 * math.log(scale) + 1.0 if attention_factor is None else float(attention_factor)


def angle_error(inv_freq: np.ndarray, position: int) -> float:
    """Radians by which float32 angles are off: the worst pair, over the 1,024 positions up to `position`.

    Compares position * inv_freq rounded to float32, as transformers computes it, with the unrounded product.
    `inv_freq` is float64 [pairs] and is itself taken at float32, as every reader stores it: that rounding is
    a fixed change of frequency by 6e-8 at most, the same at every position, and no error of an angle.
    """
    positions = np.arange(max(0, position - _NEIGHBOURHOOD + 1), position + 1)[:, None]
    stored = np.asarray(inv_freq).astype(np.float32)
    rounded = positions.astype(np.float32) * stored
    return float(np.abs(rounded - positions * stored.astype(np.float64)).max())


def _plain(theta: float, rotary_dim: int) -> np.ndarray:
    return theta ** (-np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)


def _index_ramp(
    theta: float, rotary_dim: int, original_length: int, beta_slow: float, beta_fast: float
) -> np.ndarray:
    """The share of each pair that is kept, linear over the index, as transformers' yarn has it."""

    def index_at(turns: float) -> float:
        return rotary_dim * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(index_at(beta_fast)), 0)
    last: float = min(math.ceil(index_at(beta_slow)), rotary_dim - 1)
    if first == last:
        last += 0.001  # transformers' own guard: a step instead of a division by zero
    return 1 - np.clip((np.arange(rotary_dim // 2) - first) / (last - first), 0.0, 1.0)
