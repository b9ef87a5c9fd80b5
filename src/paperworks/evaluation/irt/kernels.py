"""The compiled passes of `fused.py` (which see). Importing this module needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from paperworks._compiled import FAST, jit
from paperworks.evaluation.irt.fused import BETAS, BLOCK, EPSILON, MISSING, RIGHT

f = np.float32
ONE, HALF, NOTHING = f(1), f(0.5), f(0)
REACH = f(43)  # |z| is clamped here, so that f s stays within single precision
LOG2_E, LN2_HIGH, LN2_LOW = f(1.4426950408889634), f(0.693359375), f(-2.12194440e-4)
KEEP_FIRST, KEEP_SECOND, ALMOST_NOTHING = f(BETAS[0]), f(BETAS[1]), f(EPSILON)
ROOT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
# Cephes' polynomials: e^x on [-ln 2 / 2, ln 2 / 2], log(1 + y) on [sqrt(1/2) - 1, sqrt(2) - 1]; errors under 2e-7.
P0, P1, P2 = f(1.9875691500e-4), f(1.3981999507e-3), f(8.3334519073e-3)
P3, P4, P5 = f(4.1665795894e-2), f(1.6666665459e-1), f(5.0000001201e-1)
Q0, Q1, Q2 = f(7.0376836292e-2), f(-1.1514610310e-1), f(1.1676998740e-1)
Q3, Q4, Q5 = f(-1.2420140846e-1), f(1.4249322787e-1), f(-1.6668057665e-1)
Q6, Q7, Q8 = f(2.0000714765e-1), f(-2.4999993993e-1), f(3.3333331174e-1)


def _bitcast(to: Any, kind: ir.Type) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], kind)

    return to, generate


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    return _bitcast(types.float32(types.int32), ir.FloatType())


@intrinsic
def as_integer(typing: Any, number: Any) -> Any:
    return _bitcast(types.int32(types.float32), ir.IntType(32))


@jit(fastmath=FAST, inline="always")
def exponential(x):
    x = min(max(x, -REACH), REACH)
    n = np.floor(x * LOG2_E + HALF)
    y = x - n * LN2_HIGH - n * LN2_LOW
    power = (((((P0 * y + P1) * y + P2) * y + P3) * y + P4) * y + P5) * y * y + y + ONE
    return power * as_float((np.int32(n) + np.int32(127)) << np.int32(23))  # pyright: ignore[reportCallIssue]


@jit(fastmath=FAST, inline="always")
def logarithm(x):
    # The mantissa comes out in [sqrt(1/2), sqrt(2)].
    bits = as_integer(x) - ROOT_HALF  # pyright: ignore[reportCallIssue]
    n = f(bits >> np.int32(23))
    y = as_float((bits & np.int32(0x7FFFFF)) + ROOT_HALF) - ONE  # pyright: ignore[reportCallIssue]
    tail = ((Q0 * y + Q1) * y + Q2) * y + Q3
    tail = ((((tail * y + Q4) * y + Q5) * y + Q6) * y + Q7) * y + Q8
    return (tail * y - HALF) * y * y + y + n * LN2_LOW + n * LN2_HIGH


@jit(fastmath=FAST)
def cell_sums(
    cells, theta, a, shift, guessing, slipping, pull, slope, slope_theta, guess, slip, parts, thread, threads
):
    for block in range(thread, len(parts), threads):
        by_theta = parts[block]
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(a))):
            # Held in registers: the compiler cannot know that `by_theta` overlaps none of these.
            a_i, shift_i, high_i, pull_i = a[i], shift[i], slipping[i], pull[i]
            above_i, below_i = ONE - guessing[i], ONE - high_i
            slope_i = slope_theta_i = guess_i = slip_i = NOTHING
            for r in range(len(theta)):
                e = exponential(a_i * theta[r] + shift_i)
                right = f(cells[i, r] == RIGHT)
                p = ONE - right * above_i
                first = ONE + e
                second = p + e * (high_i + right * below_i)
                inverse = f(cells[i, r] != MISSING) / (first * second)
                share = p * first * inverse
                d = second * inverse - share
                slope_i += d
                slope_theta_i += d * theta[r]
                guess_i += share * right
                slip_i += share
                by_theta[r] += pull_i * d
            slope[i], slope_theta[i], guess[i], slip[i] = slope_i, slope_theta_i, guess_i, slip_i - guess_i


@jit(fastmath=FAST)
def cell_logliks(cells, theta, a, shift, guessing, slipping, totals, parts, thread, threads):
    for block in range(thread, len(parts), threads):
        for i in range(block * BLOCK, min((block + 1) * BLOCK, len(a))):
            a_i, shift_i, high_i = a[i], shift[i], slipping[i]
            above_i, below_i = ONE - guessing[i], ONE - high_i
            total = NOTHING
            for r in range(len(theta)):
                e = exponential(a_i * theta[r] + shift_i)
                right = f(cells[i, r] == RIGHT)
                second = ONE - right * above_i + e * (high_i + right * below_i)
                total += f(cells[i, r] != MISSING) * logarithm(second / (ONE + e))
            totals[i] = total


@jit(fastmath=FAST)
def ascend(value, slope, first, second, shrink, rate, scale, thread, threads):
    share = -(-len(value) // threads)
    for i in range(thread * share, min((thread + 1) * share, len(value))):
        up = slope[i]
        first[i] += (ONE - KEEP_FIRST) * (up - first[i])
        second[i] = KEEP_SECOND * second[i] + (ONE - KEEP_SECOND) * up * up
        value[i] = value[i] * shrink + rate * first[i] / (np.sqrt(second[i]) * scale + ALMOST_NOTHING)
