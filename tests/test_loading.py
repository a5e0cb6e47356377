"""Names of models: which are folders, whose configuration is read, and that looking is quiet."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from transformers.utils import logging

from vtprune.core.errors import LoadError, UnknownNameError
from vtprune.loading import config_of, local_folder, quiet
from vtprune.testbed.models import folder


def test_a_name_is_a_folder_or_may_be_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder("mine") == Path("mine")
    assert local_folder("~/mine") == tmp_path / "mine"
    assert local_folder("some/model") is None


@pytest.mark.parametrize("name", ["./absent", "/no/such/folder", "~/absent", "./file"])
def test_what_is_written_as_a_path_is_no_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match=f"model directory {name} does not exist; the current directory is {tmp_path}"):
        local_folder(name)


def test_the_configuration_of_a_testbed_model_by_each_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder("nano")
    by_name = config_of("nano").to_dict()
    for name in ("testbed/nano", str(where), str(where / "config.json")):
        assert {**config_of(name).to_dict(), "_name_or_path": ""} == {**by_name, "_name_or_path": ""}


def test_a_wrong_testbed_name_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"the testbed has no model 'nanoo'\. Did you mean 'nano'"):
        config_of("testbed/nanoo")


def test_quiet_holds_back_remarks_and_puts_everything_back() -> None:
    def remark() -> None:
        with quiet():
            warnings.warn("of a library", stacklevel=1)
            assert logging.get_verbosity() == logging.ERROR
            raise RuntimeError("something goes wrong")

    before = logging.get_verbosity()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match="goes wrong"):
            remark()
        assert not seen
        warnings.warn("of ours", stacklevel=1)
        assert len(seen) == 1
    assert logging.get_verbosity() == before
