"""Reading a configuration: defaults, then a TOML file, then overrides, then the command line.

    defaults  <  config.toml  <  --set a.b=v  <  --plan, --run-dir

All problems are found before anything starts and told at once, each by its dotted key in plain
words.  A dumped configuration, loaded again, is the same configuration.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gridnn.errors import InputError
from gridnn.train.sections import Config

# Overrides that make another job of the default one, for which its tuned values would be wrong.
_OTHER_JOB = ("model.", "data.name", "data.path", "data.target", "data.input_shape", "train.optimizer")

# Words for the kinds of error pydantic tells apart; "{x}" are the limits it found broken.
_NEEDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table of keys",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_short": "text that is not empty",
    "too_long": "a list of {max_length} at most",
    "literal_error": "one of {expected}",
}
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    plan: str | None = None,
    run_dir: str | None = None,
    device: str | None = None,
) -> Config:
    """Return the configuration of a run.

    Parameters
    ----------
    path : path of a TOML file, or None
        None starts from the defaults.
    overrides : sequence of str
        ``"train.batch=256"``: a dotted key and a TOML value; a value that is no TOML is text.
    plan, run_dir, device : str or None
        Given, they replace ``plan.spec``, ``run.dir`` and ``compute.device``.

    Raises
    ------
    InputError
        With every problem found: a missing file, bad TOML, unknown keys, wrong types, values out of
        range, keys that contradict each other.
    """
    table = {} if path is None else _read_toml(Path(path))
    problems: list[str] = []
    settings = _parse_overrides(overrides, problems)
    # a new length of the run replaces the file's, whichever of the two keys the file used
    lengths = {"train.epochs", "train.steps"}
    if lengths & settings.keys() and isinstance(table.get("train"), dict):
        for key in lengths:
            table["train"].pop(key.removeprefix("train."), None)
    said = {"plan.spec": plan, "run.dir": run_dir, "compute.device": device}
    settings |= {key: value for key, value in said.items() if value is not None}
    for dotted, value in settings.items():
        _put(table, dotted, value, problems)
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        problems += _explain(error)
    if problems:
        source = "configuration" if path is None else f"configuration {path}"
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(f"{source} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return config


def default_job(overrides: Sequence[str]) -> Path | None:
    """Return the file of the default job, or None where overrides ask for other data, network or optimizer."""
    other = any(text.strip().startswith(_OTHER_JOB) for text in overrides)
    return None if other else Path(__file__).with_name("default.toml")


def dump_toml(config: Config) -> str:
    """Return the whole configuration as TOML text, defaults included; keys left open are absent."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no configuration file {path}; give the path of a TOML file, or none for the default job"
        ) from None
    except OSError as error:
        raise InputError(
            f"configuration file {path} cannot be read: {error.strerror}; give a readable TOML file"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"configuration file {path} is not UTF-8 text; give a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"configuration file {path} is not valid TOML: {error}; text needs quotes, lists brackets"
        ) from None


def _parse_overrides(overrides: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """Dotted keys and values of ``a.b=v`` texts; of one key given twice the later counts."""
    settings: dict[str, Any] = {}
    for text in overrides:
        dotted, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value or not all(dotted.split(".")):
            problems.append(
                f"--set {text}: needs section.key=value, such as train.batch=256 "
                "(a config file goes before --set)"
            )
            continue
        try:
            parsed = tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            parsed = {"value": value}
        settings[dotted] = parsed["value"] if len(parsed) == 1 else value
    return settings


def _put(table: dict[str, Any], dotted: str, value: object, problems: list[str]) -> None:
    """Set a dotted key in nested tables, making those that are missing."""
    *parents, last = dotted.split(".")
    for depth, name in enumerate(parents, 1):
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            problems.append(f"{dotted}: {'.'.join(parents[:depth])} is {_shown(inner)}, not a table")
            return
        table = inner
    table[last] = value


def _explain(error: ValidationError) -> list[str]:
    """Plain words for every problem pydantic found, one for each key: the first tells enough."""
    meanings = dict(_keys(Config))
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False):
        dotted = _dotted(details["loc"])
        lines.setdefault(dotted, _line(dotted, details, meanings))
    return "\n".join(lines.values()).split("\n")


def _line(dotted: str, details: ErrorDetails, meanings: dict[str, str]) -> str:
    kind, given = details["type"], _shown(details["input"])
    if kind == "extra_forbidden":
        return f"{dotted}: unknown key{_suggestion(dotted, list(meanings))}"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "missing":
        return f"{dotted}: is missing; the list needs one more number"
    if dotted.startswith("model.options."):
        return f"{dotted}: needs a number, text, true or false, or a list of these; got {given}"
    needs = _NEEDS[kind].format(**details.get("ctx", {})) if kind in _NEEDS else details["msg"]
    hint = " in quotes" if kind == "string_type" else ""
    meaning = meanings.get(dotted.partition("[")[0])
    return f"{dotted}: needs {needs}{hint}; got {given}" + (f" ({meaning})" if meaning else "")


def _dotted(location: tuple[int | str, ...]) -> str:
    """Write a place as a dotted key; positions in a list are written ``[i]``.

    Below an option of the model pydantic names the type it tried, which is no key.
    """
    parts = location[:3] if location[:2] == ("model", "options") else location
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every dotted key below a model, with its meaning; sections among them."""
    for name, field in model.model_fields.items():
        yield prefix + name, (field.description or "").rstrip(".")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")


def _suggestion(dotted: str, known: list[str]) -> str:
    """Return the likeliest key meant: the same name elsewhere, a similar one beside it, a similar one."""
    section, _, last = dotted.rpartition(".")
    places = [key.rpartition(".") for key in known]
    found = [key for key in known if key.rpartition(".")[2] == last]
    for names in ([name for at, _, name in places if at == section], [name for _, _, name in places]):
        if not found:
            near = difflib.get_close_matches(last, names, n=1)
            found = sorted(
                (k for k in known if k.rpartition(".")[2] in near), key=lambda k: not k.startswith(section)
            )
    return f"; did you mean {found[0]}?" if found else "; --print-config shows all keys"


def _shown(value: object) -> str:
    """Write a value with its kind, short enough for a line."""
    if isinstance(value, bool):
        return str(value).lower()
    kind = _KINDS.get(type(value), f"a {type(value).__name__}")
    text = str(list(value)) if isinstance(value, tuple) else repr(value)
    return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}"
