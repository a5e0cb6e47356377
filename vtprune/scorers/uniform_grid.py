"""An evenly spread subset of each image's grid, for any count."""

from __future__ import annotations

import torch
from torch import Tensor

from vtprune.core.component import Scorer
from vtprune.core.errors import ComponentError
from vtprune.core.signals import Need, Signals


class UniformGrid(Scorer):
    """Scores whose top k, for every k, is spread evenly over each image: a strided grid that can stop anywhere.

    Tokens are put in the order of a dispersed-dot dither matrix (Bayer, 1973), extended to (t, row, column) and laid
    through the middle of the grid. In two dimensions the first quarter is every second row and column, the first half
    a checkerboard, the first sixteenth every fourth row and column, and so on; counts between fill the next lattice
    in the same manner, so that they cover the image less evenly than those, and below a sixteenth of it not always
    better than chance. A frame of a video counts as one step, like a row or a column.

    With r the place of a token among the n survivors of its image, score = 1 - (r + 1/2) / n. Ranked together, several
    images therefore share any count in proportion to their survivors (the order of Sainte-Lague), and no image's order
    depends on another image. The method is our choice; papers speak of "uniform sampling" without fixing one.
    """

    @property
    def permutation_equivariant(self) -> bool:
        return False

    def needs(self) -> frozenset[Need]:
        return frozenset({Need("grid")})

    def score(self, signals: Signals) -> Tensor:
        """float32 ``[batch, vision]`` in (0, 1). Raises ComponentError for an image without a grid."""
        coordinates = signals.coordinates()
        scores = torch.zeros(coordinates.shape[:2], device=coordinates.device)
        for sample in range(signals.batch):
            for segment in signals.segments(sample):
                if segment.grid is None:
                    raise ComponentError(
                        f"uniform_grid needs the rows and columns of every image, but image {segment.index} has no grid"
                    )
                (members,) = torch.where(coordinates[sample, :, 0] == segment.index)
                order = members[dither_keys(coordinates[sample, members, 1:], segment.grid).argsort()]
                places = torch.arange(len(order), device=order.device)
                scores[sample, order] = 1 - (places + 0.5) / len(order)
        return scores


def dither_keys(cells: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """int64 ``[vision]``: distinct sort keys of the cells in dither order.

    cells: int64 ``[vision, 3]``, t, row and column inside ``grid`` (t, h, w).

    The offset of a cell from the middle is read bit by bit, finest bit first: the cells whose finest bits are all 0
    form the lattice of spacing 2, those whose second bits are 0 too the lattice of spacing 4. Within a level the order
    of the eight phases puts even parity first, which gives the checkerboard.
    """
    middle = torch.tensor([(size - 1) // 2 for size in grid], device=cells.device)
    offsets = cells - middle
    keys = torch.zeros_like(cells[:, 0])
    for level in range(max(grid).bit_length()):
        t, row, column = ((offsets >> level) & 1).unbind(dim=-1)
        keys = 8 * keys + 4 * (t ^ row ^ column) + 2 * (row ^ column) + column
    return keys
