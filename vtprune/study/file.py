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
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe
from vtprune.core.site import Site
from vtprune.core.spec import TaskSpec, faults, plain
from vtprune.core.task import Task
from vtprune.loading import DTYPES
from vtprune.studies import read, shipped
from vtprune.study.cell import ModelRef

Baseline = Literal["full", "random", "uniform_grid", "downsample"]
Control = Literal["random", "inverted", "oracle", "repacked"]
BASELINES: tuple[str, ...] = get_args(Baseline)
CONTROLS: tuple[str, ...] = get_args(Control)


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
        overrides = data.get("set") or {}
        try:
            recipe = Recipe.load(data["recipe"], **(overrides if isinstance(overrides, Mapping) else {}))
        except RecipeError as error:
            name = data["recipe"] if isinstance(data["recipe"], str) else data.get("label", "recipe")
            raise ValueError("\n".join(f"{name}: {line}" for line in error.problems)) from None
        except UnknownNameError as error:
            raise ValueError(str(error)) from None
        if data.get("label") is None and recipe.name == "inline":
            raise ValueError("a recipe written inside the study needs a 'label'")
        return {**data, "label": data.get("label") or recipe.name}

    def load(self, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """The recipe with ``set`` and then ``overrides`` applied; raises RecipeError."""
        return Recipe.load(self.recipe, **self.set, **(overrides or {}))


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

    @model_validator(mode="after")
    def _labels(self) -> StudyFile:
        labels = [name for name in BASELINES if name not in self.baselines.without]
        problems = [
            f"label {entry.label!r} is that of the cells of a factorial; give this recipe a label of its own"
            for entry in self.recipes
            if entry.label == "factorial"
        ]
        for entry in self.recipes:
            if entry.label in labels:
                whose = "a baseline that is always there" if entry.label in BASELINES else "another recipe"
                problems.append(f"label {entry.label!r} is taken by {whose}; give this recipe a label of its own")
            labels += [entry.label, *(f"{entry.label} ({control})" for control in entry.controls)]
        if self.compare_to not in labels:
            problems.append(
                f"compare_to: nothing is labelled {self.compare_to!r}.{did_you_mean(self.compare_to, labels)}"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def parse(cls, data: Any, source: str = "study", folder: Path | None = None) -> StudyFile:
        """Validate plain data; raises StudyError naming every problem. Relative paths start from ``folder``."""
        if not isinstance(data, Mapping):
            raise StudyError(
                [f"a study is a mapping with 'name', 'models', 'tasks', ..., got {type(data).__name__}"], source
            )
        try:
            return cls.model_validate(data if folder is None else _anchored(data, folder))
        except ValidationError as error:
            raise StudyError(_problems(error), source) from None

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


def _problems(error: ValidationError) -> list[str]:
    """Pydantic's faults as sentences that start with the place in the file."""
    found: list[str] = []
    models: dict[str, type[BaseModel]] = {"recipes": RecipeEntry, "factorial": Factorial, "baselines": Baselines}
    for fault in faults(error):
        loc = [part for part in fault["loc"] if not str(part).startswith(("function-", "tuple[", "literal["))]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or "the study"
        if fault["type"] == "extra_forbidden":
            parent = where.rpartition(".")[0] or "the study"
            owner = StudyFile if len(loc) == 1 else models[str(loc[0])]
            found.append(f"{parent}: unknown field {loc[-1]!r}.{did_you_mean(str(loc[-1]), owner.model_fields)}")
        elif fault["type"] == "missing":
            found.append(f"{where}: missing")
        elif fault["type"] == "value_error":
            found.extend(f"{where}: {line}" for line in str(fault["ctx"]["error"]).split("\n"))
        else:
            found.append(f"{where}: {fault['msg']} (got {fault['input']!r})")
    return list(dict.fromkeys(found))
