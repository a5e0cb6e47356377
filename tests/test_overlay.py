from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.core.reports import DROP, HEADS, event, layout, report
from vtprune import overlay as module
from vtprune.core.errors import ReportError
from vtprune.overlay import evenly, overlay

WHITE = (255, 255, 255)


def solid(colour: str, size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tile(
    grid: tuple[int, int, int], kept: set[int], image: Image.Image, frame: int = 0, fit: str = "crop"
) -> np.ndarray:
    """The centre pixel of every token's cell: ``[row, column, 3]``."""
    segment = layout(grid).segments[0]
    picture, count, size = module.tile(image, segment, frame, kept, 192, fit)
    assert count == len([k for k in kept if frame * size <= k < (frame + 1) * size])
    cell = picture.width // grid[2]
    return np.asarray(picture)[cell // 2 :: cell, cell // 2 :: cell]


class TestTile:
    def test_kept_tokens_stay_and_dropped_ones_go_dark_and_grey(self) -> None:
        pixels = tile((1, 2, 3), {1, 5}, solid("red"))
        kept = np.array([[False, True, False], [False, False, True]])
        assert (pixels[kept] == (255, 0, 0)).all()
        assert (pixels[~kept].max(axis=-1) < 80).all()
        assert (np.ptp(pixels[~kept].astype(int), axis=-1) < 20).all()

    def test_the_grid_is_row_major_and_not_square(self) -> None:
        picture, count, size = module.tile(solid("red"), layout((1, 2, 4)).segments[0], 0, {4}, 192, "crop")
        assert (picture.width, picture.height) == (192, 96)
        assert (count, size) == (1, 8)
        assert picture.getpixel((24, 72)) == (255, 0, 0)

    def test_crop_cuts_the_centre_and_stretch_scales(self) -> None:
        image = solid("blue", (90, 30))
        image.paste("red", (30, 0, 60, 30))
        everything = {0, 1, 2, 3}
        assert (tile((1, 2, 2), everything, image, fit="crop") == (255, 0, 0)).all()
        stretched = module.tile(image, layout((1, 3, 3)).segments[0], 0, set(range(9)), 192, "stretch")[0]
        assert stretched.getpixel((5, 96)) == (0, 0, 255)
        assert stretched.getpixel((96, 80)) == (255, 0, 0)

    def test_frames_of_a_video_take_their_own_tokens(self) -> None:
        first, second = (tile((2, 1, 2), {0, 3}, solid("red"), frame)[0, :, 0] for frame in (0, 1))
        assert (first > 200).tolist() == [True, False]
        assert (second > 200).tolist() == [False, True]

    def test_modes_other_than_rgb(self) -> None:
        assert (tile((1, 1, 1), {0}, Image.new("L", (5, 5), 200)) == 200).all()


class TestOverlay:
    def test_draws_the_second_image_from_the_second_segment(self) -> None:
        two = report(DROP, [layout((1, 2, 2), (1, 2, 2))], [event(0, 0, 0, [0, 1, 2, 3])])
        pixels = np.asarray(overlay(two, [solid("red"), solid("blue")]))
        assert (pixels == (255, 0, 0)).all(axis=-1).sum() > 10_000
        assert not (pixels == (0, 0, 255)).all(axis=-1).any()

    def test_writes_a_file_and_leaves_the_images_alone(self, tmp_path) -> None:
        image = solid("red")
        picture = overlay(report(DROP, [layout((1, 2, 2))], [event(0, 0, 0, [1])]), [image], tmp_path / "kept.png")
        assert Image.open(tmp_path / "kept.png").size == picture.size
        assert image == solid("red")

    def test_per_head_stage_has_a_tile_per_layer_and_head(self, monkeypatch) -> None:
        seen = []
        monkeypatch.setattr(module, "_matrix", lambda matrix: seen.append(matrix) or solid("white"))
        events = [event(0, layer, 0, [layer - 1], [3]) for layer in (1, 2, 3)]
        overlay(report(HEADS, [layout((1, 2, 2))], events), [solid("red")])
        (matrix,) = seen
        assert matrix.rows == ["layer 1", "layer 2", "layer 3"]
        assert matrix.columns == ["KV head 0", "KV head 1"]
        assert [[caption for _, caption in row] for row in matrix.tiles] == [["1/4", "1/4"]] * 3
        brightest = [
            [int(np.asarray(t)[36::72, 36::72, 0].reshape(-1).argmax()) for t, _ in row] for row in matrix.tiles
        ]
        assert brightest == [[0, 3], [1, 3], [2, 3]]

    def test_kv_stage_with_one_choice_for_all_heads_has_one_column(self, monkeypatch) -> None:
        seen = []
        monkeypatch.setattr(module, "_matrix", lambda matrix: seen.append(matrix) or solid("white"))
        overlay(report(HEADS, [layout((1, 2, 2))], [event(0, 1, 0, [0])]), [solid("red")])
        assert seen[0].columns == ["all KV heads"]

    def test_many_layers_and_heads_are_thinned_and_said_so(self, monkeypatch) -> None:
        captions, seen = [], []
        compose = module._compose
        monkeypatch.setattr(module, "_compose", lambda panels: captions.extend(c for c, _ in panels) or compose(panels))
        monkeypatch.setattr(module, "_matrix", lambda matrix: seen.append(matrix) or solid("white"))
        events = [event(0, layer, 0, *[[0]] * 12) for layer in range(1, 32)]
        overlay(report(HEADS, [layout((1, 2, 2))], events, depth=32, kv_heads=12), [solid("red")])
        assert (len(seen[0].rows), len(seen[0].columns)) == (16, 8)
        assert (seen[0].rows[0], seen[0].rows[-1], seen[0].columns[-1]) == ("layer 1", "layer 31", "KV head 11")
        assert "16 of 31 layers shown; 8 of 12 KV heads shown" in captions[0]
        assert "stage 0 at llm.layers[1:].kv" in captions[0]
        assert "kept 1 of 4 vision tokens in some layer or head" in captions[0]

    def test_captions_and_tiles_do_not_overlap_or_leave_the_page(self) -> None:
        events = [event(0, layer, 0, [0], [1, 2]) for layer in (1, 2)]
        picture = np.asarray(overlay(report(HEADS, [layout((1, 1, 3), (1, 3, 1))], events), [solid("red")] * 2))
        frame = np.concatenate(
            [picture[:8].reshape(-1, 3), picture[-8:].reshape(-1, 3), picture[:, -8:].reshape(-1, 3)]
        )
        assert (frame == WHITE).all()

    @pytest.mark.parametrize(
        ("images", "sample", "message"),
        [
            (0, 0, "has 1 images, but 0 were given"),
            (2, 0, "2 were given"),
            (1, 3, "sample 3 does not exist"),
            (0, 1, "no image"),
        ],
    )
    def test_errors(self, images: int, sample: int, message: str) -> None:
        run = report(DROP, [layout((1, 2, 2)), layout()], [event(0, 0, 0, [1])])
        with pytest.raises(ReportError, match=message):
            overlay(run, [solid("red")] * images, sample=sample)

    def test_a_segment_without_a_grid_is_refused(self) -> None:
        with pytest.raises(ReportError, match="has no grid"):
            overlay(report(DROP, [layout(None)], [event(0, 0, 0, [1])]), [solid("red")])

    def test_a_stage_that_has_not_acted_is_refused(self) -> None:
        with pytest.raises(ReportError, match="has not acted"):
            overlay(report(DROP, [layout((1, 2, 2))], []), [solid("red")])


class TestLayoutHelpers:
    @pytest.mark.parametrize(("count", "most"), [(3, 8), (8, 8), (9, 8), (32, 16), (31, 16)])
    def test_evenly(self, count: int, most: int) -> None:
        chosen = evenly(range(count), most)
        assert len(chosen) == min(count, most)
        assert chosen[0] == 0
        assert chosen[-1] == count - 1
        steps = np.diff(chosen)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1

    def test_wrapping_keeps_every_word_and_the_width(self) -> None:
        text = "one two three four five six seven eight nine ten\nsecond line"
        wrapped = module._wrap(text, 15, 120)
        assert wrapped.split() == text.split()
        assert module._extent(wrapped, 15) <= 120
        assert "\nsecond line" in wrapped or "\nsecond\nline" in wrapped
