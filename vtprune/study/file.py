"""The study file: what is compared with what, as YAML, and every problem in it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from vtprune.core.errors import RecipeError, UnknownNameError, VtpruneError, bulleted, did_you_mean
from vtprune.core.overrides import apply_overrides
from vtprune.core.plugins import registry
from vtprune.core.recipe import read as read_recipe
from vtprune.core.site import Site
from vtprune.core.spec import TaskSpec, faults, located, plain
from vtprune.core.task import Task
from vtprune.loading import DTYPES
from vtprune.studies import read, shipped
from vtprune.study.cell import ModelRef

Baseline = Literal["full", "random", "uniform_grid", "downsample"]
Control = Literal["random", "inverted", "oracle", "repacked"]
BASELINES: tuple[str, ...] = get_args(Baseline)


class StudyError(VtpruneError):
    """A study that cannot be planned; ``problems`` lists every fault found, one sentence each."""

    def __init__(self, problems: Sequence[str], source: str = "study") -> None:
        self.problems = tuple(problems)
        super().__init__(bulleted(f"{source} is not valid", self.problems))


def _model(given: Any) -> Any:
    if isinstance(given, str):
        return ModelRef(given)
    if not isinstance(given, Mapping):
        return given
    known = list(ModelRef.__dataclass_fields__)
    problems = [f"unknown field {name!r}.{did_you_mean(str(name), known)}" for name in given if name not in known]
    if not isinstance(given.get("id"), str):
        problems.append("a model is a name or a mapping with 'id'")
    if (dtype := given.get("dtype", "auto")) not in DTYPES:
        problems.append(f"unknown dtype {dtype!r}.{did_you_mean(str(dtype), DTYPES)}")
    if problems:
        raise ValueError("\n".join(problems))
    return ModelRef(**given)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return values


Levels = Annotated[tuple[Any, ...], Field(min_length=1), AfterValidator(_distinct)]
Factor = Literal["all"] | Annotated[tuple[str | dict[str, Any] | None, ...], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecipeEntry(_Part):
    """One recipe of a study; a bare name or path stands for ``{recipe: ...}``.

    recipe: a registered name, the path of a YAML file, or a mapping. label: what tables call it; the recipe's name if
    left out. set: overrides by dotted path. axes: in place of the study's axes, for this recipe alone. controls: see
    `vtprune.study.controls`.
    """

    recipe: str | dict[str, Any]
    label: Annotated[str, Field(min_length=1)]
    set: dict[str, Any] = {}
    axes: dict[str, Levels] | None = None
    controls: Annotated[tuple[Control, ...], AfterValidator(_distinct)] = ()

    @model_validator(mode="before")
    @classmethod
    def _load(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"recipe": data}
        if not isinstance(data, Mapping) or not isinstance(data.get("recipe"), str | Mapping):
            raise ValueError("a recipe is a name, a path or a mapping with 'recipe' (and 'label', 'set', 'axes', ...)")
        try:
            found = _recipe_data(data["recipe"], data.get("set"))
        except RecipeError as error:
            name = data["recipe"] if isinstance(data["recipe"], str) else data.get("label", "recipe")
            raise ValueError("\n".join(f"{name}: {line}" for line in error.problems)) from None
        except UnknownNameError as error:
            raise ValueError(str(error)) from None
        if data.get("label") is None and found.get("name", "inline") == "inline":
            raise ValueError("a recipe written inside the study needs a 'label'")
        return {**data, "label": data.get("label") or found.get("name", "inline")}

    def data(self) -> dict[str, Any]:
        """The recipe as data with ``set`` applied: not validated, as an axis may give what it lacks."""
        return _recipe_data(self.recipe, self.set)


def _recipe_data(recipe: str | Mapping[str, Any], overrides: Any) -> dict[str, Any]:
    source = recipe if isinstance(recipe, str) else "recipe"
    data = read_recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(data, Mapping):
        raise RecipeError([f"a recipe is a mapping with 'stages', got {type(data).__name__}"], source)
    return apply_overrides(data, overrides if isinstance(overrides, Mapping) else {}, source)


class Baselines(_Part):
    """without: the baselines that are left out; the others are always there."""

    without: Annotated[tuple[Baseline, ...], AfterValidator(_distinct)] = ()


class Factorial(_Part):
    """Every scorer with every selector and every allocator, on one site; see `vtprune.study.factorial`.

    A factor is ``all`` or a list of names and mappings with parameters; a scorer may be null (none).
    """

    site: str
    scorers: Factor
    selectors: Factor = ("top_k",)
    allocators: Factor = ("uniform",)

    @field_validator("site")
    @classmethod
    def _a_site(cls, site: str) -> str:
        return str(Site.parse(site))


class StudyFile(_Part):
    """A study as data.

    axes: crossed; a key is a parameter of the recipes by dotted path, or ``budget``, the budget of every stage that has
        one. seeds: for every component that has a seed. limit: samples of each task, None for all. keep_indices: for
        how many samples the kept indices are stored. threads: of torch, on the CPU. compare_to: the label of what tests
        compare with, beside the unpruned model.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    description: str = ""
    models: Annotated[
        tuple[Annotated[ModelRef, BeforeValidator(_model), PlainSerializer(lambda ref: dict(vars(ref)))], ...],
        Field(min_length=1),
        AfterValidator(_distinct),
    ]
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1), AfterValidator(_distinct)]
    recipes: tuple[RecipeEntry, ...] = ()
    axes: dict[str, Levels] = {}
    seeds: Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_distinct)] = (0,)
    limit: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 16
    keep_indices: Annotated[int, Field(ge=0)] = 4
    threads: Annotated[int, Field(ge=1)] = 1
    baselines: Baselines = Baselines()
    compare_to: str = "random"
    factorial: Factorial | None = None

    @classmethod
    def parse(cls, data: Any, source: str = "study", folder: Path | None = None) -> StudyFile:
        """Validate plain data; raises StudyError naming every problem. Relative paths start from ``folder``."""
        if not isinstance(data, Mapping):
            raise StudyError(
                [f"a study is a mapping with 'name', 'models', 'tasks', ..., got {type(data).__name__}"], source
            )
        from vtprune.study import checks  # which read a study

        given = dict(data) if folder is None else _anchored(data, folder)
        try:
            study = cls.model_validate(given)
        except ValidationError as error:
            rest, whole = _rest(given, error)
            more = checks.everything(rest, whole) if rest else []
            raise StudyError([*_problems(error), *more], source) from None
        if checks.problems(study):
            raise StudyError(checks.everything(study), source)
        return study

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data with every default filled in; `parse` gives an equal study back."""
        return plain(self)


def load_study(study: str | Path) -> StudyFile:
    """A study from a YAML file or by the name of one that comes with vtprune; raises StudyError or UnknownNameError.

    Relative paths of recipes, tasks and models start from the file's folder.
    """
    path = Path(study).expanduser()
    if str(study) in shipped():
        text, source, folder = read(str(study)), f"study {study!r}", None
    elif path.is_file():
        text, source, folder = path.read_text(encoding="utf-8"), str(study), path.resolve().parent
    elif isinstance(study, Path) or path.suffix in (".yaml", ".yml"):
        raise StudyError([f"no such file; the current directory is {Path.cwd()}"], str(study))
    else:
        raise UnknownNameError(
            f"unknown study {study!r}.{did_you_mean(study, shipped())} A path to a YAML file works too."
        )
    return StudyFile.parse(_yaml(text, source), source, folder)


def _yaml(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError([f"not valid YAML: {error}"], source) from None


def _anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The data with relative paths made absolute."""

    def recipe(given: Any) -> Any:
        if isinstance(given, Mapping) and "recipe" in given:
            return {**given, "recipe": recipe(given["recipe"])}
        if not isinstance(given, str) or given in registry().names("recipe"):
            return given
        is_path = given.endswith((".yaml", ".yml")) or (folder / given).is_file()
        return str(folder / Path(given).expanduser()) if is_path else given

    def model(given: Any) -> Any:
        if isinstance(given, Mapping) and "id" in given:
            return {**given, "id": model(given["id"])}
        if not isinstance(given, str) or given.startswith("~"):
            return given
        return str(folder / given) if given.startswith(".") or (folder / given).is_dir() else given

    def task(given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("name") not in registry().names("task"):
            return given
        cls = registry().load("task", given["name"])
        return {
            key: str(folder / Path(value).expanduser()) if isinstance(value, str) and is_path(cls, key) else value
            for key, value in given.items()
        }

    changed = dict(data)
    for field, change in (("recipes", recipe), ("models", model), ("tasks", task)):
        if isinstance(data.get(field), list):
            changed[field] = [change(entry) for entry in data[field]]
    return changed


def is_path(task: type[Task], key: str) -> bool:
    """Whether a parameter of a task is a path: it is called so, or its type is Path."""
    annotation = task.model_fields[key].annotation if key in task.model_fields else None
    return key == "path" or annotation is Path or Path in get_args(annotation)


def _rest(data: Mapping[str, Any], error: ValidationError) -> tuple[StudyFile | None, bool]:
    """The study without what is at fault in it, so that what is left can be checked too (None if that is nothing), and
    whether nothing is gone that its labels and budgets depend on."""
    wrong: dict[Any, set[Any]] = {}
    for fault in faults(error):
        field, *inside = fault["loc"] or (None,)
        wrong.setdefault(field, set()).update(inside[:1])
    rest = {field: value for field, value in data.items() if field not in wrong}
    whole = not wrong.keys() & {"recipes", "axes", "baselines"}
    for field, at in wrong.items():
        given = data.get(field)
        if field in ("models", "tasks", "recipes") and isinstance(given, list):
            rest[field] = [entry for number, entry in enumerate(given) if at and number not in at]
        elif field == "axes" and isinstance(given, Mapping):
            rest[field] = {path: levels for path, levels in given.items() if path not in at}
            rest[field] |= {"budget": [1.0]} if "budget" in at else {}  # recipes rely on there being one
    stand_in = {"name": "study", "models": ["testbed/nano"], "tasks": ["testbed"]}
    try:
        given = {**rest, **{field: rest.get(field) or stand_in[field] for field in stand_in}}
        return StudyFile.model_validate(given), whole
    except ValidationError:
        return None, whole


def _problems(error: ValidationError) -> list[str]:
    """Pydantic's faults as sentences that start with the place in the file."""
    models: dict[str, type[BaseModel]] = {"recipes": RecipeEntry, "factorial": Factorial, "baselines": Baselines}

    def owner(place: Sequence[int | str]) -> type[BaseModel]:
        return models[str(place[0])] if place else StudyFile

    found = [f"{place or 'the study'}: {text}" for place, text in located(error, "the study", owner)]
    return list(dict.fromkeys(found))
