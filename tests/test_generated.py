"""The tools that write a file from the package: what they write, what they find out of date, what they say then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.generated import main


def test_a_page_is_written_then_found_up_to_date_until_what_it_is_made_from_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"

    def run(text: str, *arguments: str) -> int:
        return main(page, lambda: text, "make docs", arguments)

    assert run("ä\n", "--check") == 1
    assert not page.exists()
    assert run("ä\n") == 0
    assert page.read_bytes() == "ä\n".encode()
    assert run("ä\n", "--check") == 0
    assert not capsys.readouterr().err.removeprefix("page.md is out of date; run `make docs`\n")
    assert run("other\n", "--check") == 1
    assert capsys.readouterr().err == "page.md is out of date; run `make docs`\n"
    assert page.read_bytes() == "ä\n".encode()
