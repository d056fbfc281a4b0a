"""What every section of a configuration is made of: its base, the types of its keys, and how it refuses.

Types are strict (a whole number is no text, text is no number) and unknown keys are refused.  The docstring under a key
is its description: error messages show it.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _as_tuple(value: object) -> object:
    """TOML has lists only; frozen models hold tuples, and a lone number is a list of one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | float) else value


Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_as_tuple)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_as_tuple)]
Pair = Annotated[tuple[Count, Count], BeforeValidator(_as_tuple)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)]
Simple = bool | int | float | str


class Section(BaseModel):
    """Base of all sections: frozen, strict, closed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # the house words, not pydantic's, own the prefix
        protected_namespaces=(),
    )


S = TypeVar("S", bound=Section)


def refuse(section: S, rules: list[tuple[bool, str]]) -> S:
    """Return the section, or raise one error with a line for every rule that is broken."""
    broken = [sentence for is_broken, sentence in rules if is_broken]
    if broken:
        raise ValueError("\n".join(broken))
    return section
