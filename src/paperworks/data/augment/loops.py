"""Loops over single images, compiled: `result` or `images` are written; threads take every `step`-th image."""

from __future__ import annotations

from typing import Any

import numpy as np

from paperworks._compiled import FAST, jit


@jit(fastmath=FAST)
def warp(images: Any, rows: Any, moves: Any, fill: Any, first: int, step: int) -> None:
    _, channels, height, width = images.shape
    count, before = moves.shape[1], np.empty((channels, height * width), np.float32)
    one, zero, half = np.float32(1), np.float32(0), np.float32(0.5)
    middle_x, middle_y = half * np.float32(width), half * np.float32(height)
    last_x, last_y = np.float32(width - 1), np.float32(height - 1)
    xs, ys, seen = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.bool_)
    # Where the upper left of four neighbours lies, and how far it is to the right and lower ones.
    corner, right, down = np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32)
    for number in range(first, len(rows), step):
        image = images[rows[number]].reshape(channels, height * width)
        before[:] = image
        for row in range(height):
            for column in range(width):
                xs[column], ys[column] = np.float32(column) + half - middle_x, np.float32(row) + half - middle_y
                seen[column] = True
            for back in range(count):
                move = moves[number, count - 1 - back]
                xx, xy, x0, yx, yy, y0 = move[0, 0], move[0, 1], move[0, 2], move[1, 0], move[1, 1], move[1, 2]
                for column in range(width):
                    x, y = xs[column], ys[column]
                    xs[column], ys[column] = xx * x + (xy * y + x0), yx * x + (yy * y + y0)
                    seen[column] &= (abs(xs[column]) < middle_x) & (abs(ys[column]) < middle_y)
            for column in range(width):
                x = min(max(xs[column] + middle_x - half, zero), last_x)
                y = min(max(ys[column] + middle_y - half, zero), last_y)
                left, top = np.int32(x), np.int32(y)
                corner[column] = top * width + left
                right[column], down[column] = np.int32(left < width - 1), width * np.int32(top < height - 1)
                xs[column], ys[column] = x - np.float32(left), y - np.float32(top)
            for channel in range(channels):
                source, target = before[channel], image[channel, row * width : (row + 1) * width]
                for column in range(width):
                    at, x, y = corner[column], xs[column], ys[column]
                    beside, below = at + right[column], at + down[column]
                    upper = source[at] * (one - x) + source[beside] * x
                    lower = source[below] * (one - x) + source[below + right[column]] * x
                    target[column] = upper * (one - y) + lower * y if seen[column] else fill


@jit(fastmath=FAST)
def recolour(images: Any, rows: Any, matrices: Any, first: int, step: int) -> None:
    _, channels, height, width = images.shape
    zero, one = np.float32(0), np.float32(1)
    for number in range(first, len(rows), step):
        image, matrix = images[rows[number]].reshape(channels, height * width), matrices[number]
        if channels == 1:
            gain, offset = matrix[0, 0] + matrix[0, 1] + matrix[0, 2], matrix[0, 3]
            for place in range(height * width):
                image[0, place] = min(max(image[0, place] * gain + offset, zero), one)
        else:
            a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3]
            e, f, g, h = matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[1, 3]
            i, j, k, m = matrix[2, 0], matrix[2, 1], matrix[2, 2], matrix[2, 3]
            for place in range(height * width):
                red, green, blue = image[0, place], image[1, place], image[2, place]
                image[0, place] = min(max(a * red + b * green + c * blue + d, zero), one)
                image[1, place] = min(max(e * red + f * green + g * blue + h, zero), one)
                image[2, place] = min(max(i * red + j * green + k * blue + m, zero), one)


@jit()
def equalize(result: Any, images: Any, first: int, step: int) -> None:
    batch, channels, height, width = images.shape
    counts, table = np.empty(256, np.int64), np.empty(256, np.float32)
    levels, scale = np.empty((height, width), np.int64), np.float32(255)
    for number in range(first, batch, step):
        for channel in range(channels):
            counts[:] = 0
            highest = 0
            for row in range(height):
                for column in range(width):
                    level = min(max(int(np.rint(images[number, channel, row, column] * scale)), 0), 255)
                    levels[row, column] = level
                    counts[level] += 1
                    highest = max(highest, level)
            share = (height * width - counts[highest]) // 255
            below = 0
            for level in range(256):
                value = level if share == 0 else min((share // 2 + below) // share, 255)
                table[level] = np.float32(value) / scale
                below += counts[level]
            for row in range(height):
                for column in range(width):
                    result[number, channel, row, column] = table[levels[row, column]]


@jit(fastmath=FAST)
def smooth(result: Any, images: Any, weight: Any, first: int, step: int) -> None:
    batch, channels, height, width = images.shape
    for number in range(first, batch, step):
        share = weight[number]
        for channel in range(channels):
            image, out = images[number, channel], result[number, channel]
            out[:] = image
            for y in range(1, height - 1):
                for x in range(1, width - 1):
                    total = image[y - 1, x - 1] + image[y - 1, x] + image[y - 1, x + 1]
                    total += image[y, x - 1] + np.float32(5) * image[y, x] + image[y, x + 1]
                    total += image[y + 1, x - 1] + image[y + 1, x] + image[y + 1, x + 1]
                    out[y, x] += (total / np.float32(13) - image[y, x]) * share


@jit(fastmath=FAST)
def blur(result: Any, images: Any, weight: Any, first: int, step: int) -> None:
    batch, channels, height, width = images.shape
    for number in range(first, batch, step):
        share = weight[number]
        for channel in range(channels):
            image, out = images[number, channel], result[number, channel]
            out[:] = image
            for y in range(2, height - 2):
                for x in range(2, width - 2):
                    total = image[y - 2, x - 2] + image[y + 2, x - 2]
                    for offset in range(-1, 3):
                        total += image[y - 2, x + offset] + image[y + 2, x + offset]
                    for offset in range(-1, 2):
                        total += image[y + offset, x - 2] + image[y + offset, x + 2]
                    out[y, x] += (total / np.float32(16) - image[y, x]) * share
