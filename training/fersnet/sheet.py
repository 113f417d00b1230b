"""Faces side by side in one picture, with titles."""

import numpy as np
import torch

from training.report import to_png

GAP = 2  # pixels between faces


def contact_sheet(rows, columns):
    """The bytes of a PNG of faces in rows and columns, on white, with titles.

    rows: at least one (row title, faces), a face per column: uint8 (S, S), all of one size;
    columns: their titles.
    """
    from matplotlib.figure import Figure
    from torchvision.utils import make_grid

    faces = torch.from_numpy(np.stack([face for _, row in rows for face in row]))
    side = faces.shape[-1]
    grid = make_grid(faces[:, None], len(columns), GAP, pad_value=255)[0].numpy()
    figure = Figure((1.2 * len(columns) + 1, 1.2 * len(rows) + 0.5), layout="constrained")
    axes = figure.add_subplot(frameon=False)
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255)
    middles = GAP + side / 2 + (side + GAP) * np.arange(max(len(columns), len(rows)))
    axes.set_xticks(middles[: len(columns)], columns)
    axes.set_yticks(middles[: len(rows)], [title for title, _ in rows])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return to_png(figure)
