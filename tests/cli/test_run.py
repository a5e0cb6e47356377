from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vtprune import loading, testbed
from vtprune.cli import app
from vtprune.cli.run import _note_if_empty
from vtprune.core.errors import LoadError
from vtprune.testbed import DEFAULT_NOTE, load_default, photo

FAST = ("--max-new-tokens", "2", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_default_model():
    """The default model is built once for the module."""
    pair = load_default()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed, "load_default", lambda: pair, raising=False)
        yield pair


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["run", *map(str, arguments)], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


class TestResult:
    def test_json_is_all_there_is_on_stdout(self) -> None:
        code, out, err = run("--recipe", "random", "--json", *FAST)
        assert code == 0
        data = json.loads(out)
        assert data["text"]
        assert data["model"] == "default"
        assert "unpruned" not in data
        (stage,) = data["report"]["stages"]
        assert (stage["requested"], stage["realised"]) == (144, 144)
        assert data["report"]["tokens_at_llm_input"] == 144
        assert data["report"]["new_tokens"] == 1
        assert DEFAULT_NOTE in err
        assert "using the photograph chelsea" in err
        assert "placeholders for 1 image were added through the processor's chat template" in err

    def test_tables_for_people(self) -> None:
        code, out, _ = run("-r", "plphp", *FAST)
        assert code == 0
        assert "llm.layers[0:].kv" in out
        assert "attention > reattention > top_k > evict_kv" in " ".join(out.split())
        assert "KV cache" in out

    def test_overrides_reach_the_recipe(self) -> None:
        _, out, _ = run(
            "-r", "random", "--set", "stages.0.budget=0.5", "--set", "stages.0.scorer.seed=7", "--json", *FAST
        )
        report = json.loads(out)["report"]
        assert report["stages"][0]["realised"] == 288
        assert report["recipe"]["stages"][0]["scorer"]["seed"] == 7

    def test_compare_with_everything_kept_gives_the_same_text(self) -> None:
        _, out, _ = run("-r", "random", "--set", "budget=1.0", "--compare", "--json", *FAST)
        data = json.loads(out)
        assert data["unpruned"]["text"] == data["text"]
        assert data["unpruned"]["same_text"] is True
        assert data["unpruned"]["seconds"] > 0
        assert data["seconds"] > 0

    def test_compare_for_people_shows_both(self) -> None:
        _, out, _ = run("-r", "random", "--compare", *FAST)
        assert "unpruned (" in out
        assert "pruned (" in out

    def test_attention_dtype_and_seed_are_applied(self, one_default_model) -> None:
        model, _ = one_default_model
        try:
            code, _, _ = run("-r", "random", "--attn", "eager", "--dtype", "bfloat16", "--seed", "3", "--json", *FAST)
            assert code == 0
            assert model.dtype == torch.bfloat16
            assert model.config._attn_implementation == "eager"
            assert torch.initial_seed() == 3
        finally:
            model.float().set_attn_implementation("sdpa")


class TestPrompts:
    def test_a_complete_prompt_is_used_as_it_is(self) -> None:
        prompt = "USER: <image>\nWhat? ASSISTANT:"
        _, out, err = run("-r", "random", "--prompt", prompt, "--json", *FAST)
        assert json.loads(out)["prompt"] == prompt
        assert "placeholder" not in err

    def test_two_placeholders_get_two_photographs(self) -> None:
        _, out, _ = run("-r", "random", "--prompt", "USER: <image> <image> Which? ASSISTANT:", "--json", *FAST)
        segments = json.loads(out)["report"]["samples"][0]["segments"]
        assert [segment["grid"] for segment in segments] == [[1, 24, 24], [1, 24, 24]]

    def test_a_wrong_number_of_placeholders(self, tmp_path: Path) -> None:
        photo().save(tmp_path / "a.png")
        image = tmp_path / "a.png"
        code, _, err = run("-r", "random", "--prompt", "<image> Same?", "--image", image, "--image", image, *FAST)
        assert code == 1
        assert "the prompt has 1 placeholders '<image>', but there are 2 images" in err

    def test_without_a_chat_template_placeholders_go_in_front(self, one_default_model, monkeypatch) -> None:
        monkeypatch.setattr(one_default_model[1], "chat_template", None)
        _, out, err = run("-r", "random", "--prompt", "What?", "--json", *FAST)
        assert json.loads(out)["prompt"] == "<image>\nWhat?"
        assert "in front" in err


class TestTestbed:
    """A model of the testbed knows nothing but its scenes and questions."""

    @pytest.mark.parametrize("model", ["testbed/nano", "testbed/mrope"])
    def test_is_shown_a_scene_and_asked_what_it_can_answer(self, model: str) -> None:
        _, out, err = run("-r", "fastv", "--model", model, "--compare", "--json", "--device", "cpu")
        data = json.loads(out)
        (answer,) = re.findall(r"asking 'what digit is \w+ \?', to which the answer is '(\d)'", err)
        assert (data["unpruned"]["text"], data["text"]) == (answer, answer)
        assert "using the testbed's scene medium-0-0" in err
        assert "photograph" not in err
        assert "empty" not in err

    def test_a_prompt_gets_a_scene_for_each_placeholder(self) -> None:
        prompt = "first <image> second <image> what digit is white in the second ?"
        _, out, err = run("-r", "random", "-m", "testbed/nano", "--prompt", prompt, "--json", *FAST)
        data = json.loads(out)
        assert data["prompt"] == prompt
        assert len(data["report"]["samples"][0]["segments"]) == 2
        assert "using the testbed's scenes medium-0-0, medium-0-1" in err
        assert "asking" not in err

    def test_a_picture_of_the_users_is_asked_about_without_an_answer(self, tmp_path: Path) -> None:
        photo().save(tmp_path / "own.png")
        _, _, err = run("-r", "random", "-m", "testbed/nano", "--image", tmp_path / "own.png", *FAST)
        assert "asking 'what digit is" in err
        assert "to which the answer is" not in err
        assert "no --image" not in err


class TestEmptyAnswers:
    def test_an_answer_that_ends_at_once_is_remarked_on(self) -> None:
        words = ("-r", "fastv", "-m", "testbed/nano", "--prompt", "What is in the picture?", *FAST)
        code, out, err = run(*words, "--json")
        assert code == 0
        assert json.loads(out)["text"] == ""
        assert "the model ended at once: its answer is empty; a model of the testbed knows" in err
        assert "ended at once: its answer is empty" in run(*words, "--compare")[2]

    @pytest.mark.parametrize(
        ("unpruned", "pruned", "steps", "said"),
        [
            ("a", "", 0, "the model ended at once when pruned: its answer is empty"),
            ("", "a", 3, "the model wrote nothing but special tokens or spaces when unpruned: its answer is empty"),
            ("", "", 3, "the model wrote nothing but special tokens or spaces: its answer is empty"),
            (None, "", 0, "the model ended at once: its answer is empty"),
            ("a", "b", 0, ""),
        ],
    )
    def test_it_says_which_of_two_answers_is_empty(self, unpruned, pruned, steps, said, capsys) -> None:
        other = {} if unpruned is None else {"unpruned": {"text": unpruned}}
        _note_if_empty({"text": pruned, **other}, steps, "someone/model")
        assert capsys.readouterr().err == (f"note: {said}\n" if said else "")


class TestOverlay:
    def test_is_written_for_the_given_images(self, tmp_path: Path) -> None:
        photo().resize((300, 200)).save(tmp_path / "in.jpg")
        target = tmp_path / "out.png"
        code, out, err = run("-r", "random", "--image", tmp_path / "in.jpg", "--overlay", target, "--json", *FAST)
        assert code == 0
        assert json.loads(out)["images"] == [str(tmp_path / "in.jpg")]
        assert f"overlay written to {target}" in err
        assert Image.open(target).width > 384

    @pytest.mark.parametrize(
        ("name", "message"), [("out.txt", "'.txt' is no picture format"), ("no/out.png", "does not exist")]
    )
    def test_a_bad_target_is_refused_before_the_run(self, tmp_path: Path, monkeypatch, name: str, message: str) -> None:
        monkeypatch.setattr("vtprune.cli.run.load_model", lambda *_: pytest.fail("the model was loaded"))
        code, _, err = run("-r", "random", "--overlay", tmp_path / name, *FAST)
        assert code == 1
        assert message in err


class TestErrors:
    """Each is one message on stderr, without a traceback, and an exit code."""

    @staticmethod
    def fails(*arguments: object, code: int = 1) -> str:
        seen, out, err = run(*arguments)
        assert seen == code
        assert not out
        assert "Traceback" not in err
        return err

    def test_unknown_recipe(self) -> None:
        assert "unknown recipe 'fastw'. Did you mean 'fastv'" in self.fails("-r", "fastw", code=2)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("stages.0.budget=7.5", "budget 7.5"),
            ("stages.0.scorer.seeed=1", "Did you mean 'seed'"),
            ("budget", "must look like PATH=VALUE"),
            ("stages.4.budget=1", "no index"),
            ("source=1", "unknown field 'source'"),
            ("recipe=1", "unknown field 'recipe'"),
            ("buget=0.3", "unknown field 'buget'. Did you mean 'budget'? Known: allocator, budget, description,"),
        ],
    )
    def test_bad_override(self, override: str, message: str) -> None:
        assert message in self.fails("-r", "random", "--set", override)

    def test_a_recipe_that_does_not_fit_the_model(self) -> None:
        err = self.fails("-r", "fastv", "--set", "site=llm.layers[30]", *FAST)
        assert "layer 30 is out of range; the model has layers 0 to 7" in err

    def test_missing_image(self) -> None:
        assert "image nowhere.png does not exist" in self.fails("-r", "random", "--image", "nowhere.png")

    def test_unreadable_images(self, tmp_path: Path) -> None:
        text = tmp_path / "text.png"
        text.write_text("no picture")
        assert "not a picture in a format that Pillow knows" in self.fails("-r", "random", "--image", text)
        photo().save(tmp_path / "whole.png")
        cut = tmp_path / "cut.png"
        cut.write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
        assert "cannot be read" in self.fails("-r", "random", "--image", cut)
        assert "cannot be read" in self.fails("-r", "random", "--image", tmp_path)

    def test_missing_model_directory(self) -> None:
        assert "model directory ./nowhere does not exist" in self.fails("-r", "random", "--model", "./nowhere")

    def test_directory_without_a_model(self, tmp_path: Path) -> None:
        assert "holds no complete checkpoint" in self.fails("-r", "random", "--model", tmp_path, *FAST)

    def test_model_id_that_cannot_be_had(self, monkeypatch) -> None:
        def refuse(name: str, **_: object) -> None:
            raise OSError(f"We couldn't connect to the Hub to load {name}.\nmore lines")

        monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", refuse)
        err = self.fails("-r", "random", "--model", "someone/model", *FAST)
        assert "the id is wrong, the model is private or gated, this machine is offline" in err
        assert "couldn't connect" in err
        assert "more lines" not in err

    @pytest.mark.parametrize(("device", "message"), [("gpu0", "unknown device 'gpu0'"), ("cuda:99", "is not here")])
    def test_device_that_is_not_there(self, device: str, message: str) -> None:
        assert message in self.fails("-r", "random", "--device", device)

    def test_unknown_attention(self) -> None:
        assert "attention 'fast' cannot be used" in self.fails("-r", "random", "--attn", "fast", *FAST)

    def test_usage_errors_have_exit_code_2(self) -> None:
        assert (
            run()[0]
            == run("-r", "random", "--dtype", "int8")[0]
            == run("-r", "random", "--max-new-tokens", "0")[0]
            == 2
        )

    def test_interrupt(self, monkeypatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("vtprune.cli.run.load_model", interrupted)
        assert "interrupted" in self.fails("-r", "random", code=130)

    def test_debug_shows_the_error_itself(self) -> None:
        with pytest.raises(LoadError, match="does not exist"):
            run("-r", "random", "--image", "nowhere.png", "--debug")


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    opened = loading.open_image(tmp_path / "turned.jpg")
    assert (opened.size, opened.mode) == ((20, 30), "RGB")


def test_a_local_checkpoint_runs(tmp_path: Path, one_default_model) -> None:
    model, processor = one_default_model
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    options = ("--dtype", "bfloat16", "--attn", "eager")
    code, out, err = run("-r", "random", "--model", tmp_path, *options, "--json", *FAST)
    assert code == 0
    assert json.loads(out)["model"] == str(tmp_path)
    assert DEFAULT_NOTE not in err
    assert json.loads(out)["report"]["tokens_at_llm_input"] == 144
