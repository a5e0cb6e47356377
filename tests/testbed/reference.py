"""Answers worked out anew from the words of a question and what the pictures show, written unlike the generator.

A picture is a table of four rows of four: (digit, colour) or None.
"""

from __future__ import annotations

from collections import Counter

from vtprune.testbed.scenes import Scenes
from vtprune.testbed.vocabulary import COLORS

Content = tuple[str, str] | None
Table = list[list[Content]]
ORDER = ["first", "second", "third", "fourth"]


def tables(scenes: Scenes) -> list[Table]:
    """What each picture shows."""
    found = []
    for digits, colors in zip(scenes.digit, scenes.color, strict=True):
        flat = [None if d < 0 else (str(d), COLORS[k]) for d, k in zip(digits, colors, strict=True)]
        found.append([flat[start : start + 4] for start in (0, 4, 8, 12)])
    return found


def shown(table: Table) -> list[tuple[int, int, str, str]]:
    """Row, column, digit and colour of each digit, in reading order."""
    return [(r, c, *content) for r, row in enumerate(table) for c, content in enumerate(row) if content]


def only(found: list) -> tuple:
    """The one thing that a question is about; it is not well put if there are more or none."""
    assert len(found) == 1, f"ambiguous: {found}"
    return found[0]


def named(table: Table, word: str) -> list[tuple[int, int, str, str]]:
    """The digits that a colour or a value names."""
    return [one for one in shown(table) if word in one[2:]]


def line(table: Table, name: str) -> list[Content]:
    """A row or column by name."""
    place = int(name[-1]) - 1
    return table[place] if name.startswith("row") else [row[place] for row in table]


def answer(words: tuple[str, ...], pictures: list[Table]) -> str:
    """The answer, words apart by spaces."""
    match words:
        case ("what", "digit", "is", ("left" | "right" | "above" | "below") as way, *_, name, "?"):
            return _beside(pictures[0], way, name)[0]
        case ("what", "color", "is", ("left" | "right" | "above" | "below") as way, *_, name, "?"):
            return _beside(pictures[0], way, name)[1]
        case ("what", "digit", "is", color, "in", "the", ordinal, "image", "?"):
            return only(named(pictures[ORDER.index(ordinal)], color))[2]
        case ("what", ("digit" | "color") as asked, "is", "at", row, column, "?"):
            content = pictures[0][int(row[-1]) - 1][int(column[-1]) - 1]
            return "none" if content is None else content[asked == "color"]
        case ("what", "digit", "is", color, "?"):
            return only(named(pictures[0], color))[2]
        case ("what", "color", "is", "the", digit, "?"):
            return only(named(pictures[0], digit))[3]
        case ("is", "there", "a", color, digit, "?"):
            return "yes" if any(one[2:] == (digit, color) for one in shown(pictures[0])) else "no"
        case ("how", "many", "are", name, "?"):
            return str(len(named(pictures[0], name)))
        case ("where", "is", "the", name, "?"):
            row, column, *_ = only(named(pictures[0], name))
            return f"row{row + 1} col{column + 1}"
        case ("read", name, "?"):
            return " ".join("none" if content is None else content[0] for content in line(pictures[0], name))
        case ("describe", name, "?"):
            contents = [content for content in line(pictures[0], name) if content]
            return " ".join(f"{color} {digit}" for digit, color in contents) or "none"
        case ("list", "the", "digits", "?"):
            return " ".join(one[2] for one in shown(pictures[0]))
    return _sequence(words, pictures)


def _beside(table: Table, way: str, name: str) -> tuple[str, str]:
    row, column, *_ = only(named(table, name))
    row += {"above": -1, "below": 1}.get(way, 0)
    column += {"left": -1, "right": 1}.get(way, 0)
    assert row in range(4), "there is no such cell"
    assert column in range(4), "there is no such cell"
    return table[row][column] or ("none", "none")


def _sequence(words: tuple[str, ...], pictures: list[Table]) -> str:
    match words:
        case ("which", "image", "has", "the", name, "?"):
            has = [bool(named(picture, name)) for picture in pictures]
            return {(True, True): "both", (True, False): "first", (False, True): "second"}[has[0], has[1]]
        case ("which", "image", "has", "more", "digits", "?"):
            one, other = (len(shown(picture)) for picture in pictures)
            return "same" if one == other else "first" if one > other else "second"
        case ("when", "does", "the", color, digit, "appear", "?"):
            counts = [sum(one[2:] == (digit, color) for one in shown(picture)) for picture in pictures]
            assert counts[0] == 0
            return ORDER[counts.index(1)]
        case ("what", "digit", "appears", "in", "the", ordinal, "frame", "?"):
            now = ORDER.index(ordinal)
            before, after = (Counter(one[2:] for one in shown(pictures[moment])) for moment in (now - 1, now))
            (new,) = (after - before).elements()
            return new[0]
        case ("where", "does", "the", color, "digit", "move", "?"):
            places = [only(named(picture, color))[:2] for picture in pictures]
            down, right = (places[-1][axis] - places[0][axis] for axis in (0, 1))
            assert (down == 0) != (right == 0)
            return "down" if down > 0 else "up" if down < 0 else "right" if right > 0 else "left"
    raise AssertionError(f"no such question: {words}")
