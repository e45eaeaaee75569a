"""The base classes of all models of specs and recipes, and types of fields that recur."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
)


class Model(BaseModel):
    """Base of all models: frozen, strict types, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    WRITTEN_BESIDE: ClassVar[tuple[str, ...]] = ()
    """Keys that a file may have besides the model's fields; they are read before validation."""


class Extended(Model):
    """A model that got more fields after keys of finished work had hashed it.

    Fields in `OMITTED` are serialized only if they differ from their defaults, so that work that
    does not use them keeps its keys.
    """

    OMITTED: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_omitted(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in self.OMITTED if getattr(self, name) == fields[name].default}
        return {name: value for name, value in write(self).items() if name not in unused}


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
TEXT_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]*$"
OWN_PATTERN = r"^[^:\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]+:[A-Za-z_][A-Za-z0-9_]*$"
PYTHON_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""A name that is safe as a file name: letters, digits, `.`, `_`, `-`, 64 characters at most."""

Line = Annotated[str, Field(pattern=TEXT_PATTERN)]
"""One line of any length, without control, line-breaking or bidirectional characters."""

Text = Annotated[str, Field(max_length=300, pattern=TEXT_PATTERN)]
"""One line for people, without control, line-breaking or bidirectional characters."""

PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=TEXT_PATTERN)]
"""A path; relative to the file in which it is written, `~` is the home folder."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Precision = Literal["fp32", "tf32", "bf16"]


TAKE_AWAY = "null removes an inherited value"

Option = TypeVar("Option")


def option_of_kind(
    kind: str, value: Option | None, default: Option, info: ValidationInfo
) -> Option | None:
    """The value of an option that only one `kind` has: `default` if not given; None for others.

    For validators of fields that come after `kind`. Raises ValueError if another kind has a value.
    """
    chosen = info.data.get("kind", kind)  # missing if it was invalid itself
    if chosen == kind:
        return default if value is None else value
    if value is not None:
        raise ValueError(f"goes with `kind: {kind}`, not with {chosen}; {TAKE_AWAY}")
    return None


def string_or_mapping(value: Any) -> str:
    """A discriminator for unions of one word and a mapping."""
    return "<mapping>" if isinstance(value, Mapping | BaseModel) else "<word>"


def word_or_key(*words: str, **keys: str) -> Discriminator:
    """A discriminator for unions of `words` and mappings, each with a key that only it has.

    Tags are `<word>` and `<KEY>`; the values of `keys` are placeholders in messages. Anything else
    is a `none_of_these` error.
    """

    def tag(value: Any) -> str | None:
        mapping = type(value).model_fields if isinstance(value, BaseModel) else value
        if isinstance(mapping, Mapping):
            return next((f"<{key}>" for key in keys if key in mapping), None)
        return "<word>" if value in words else None

    forms = [*words, *(f"{{{key}: {meaning}}}" for key, meaning in keys.items())]
    return Discriminator(
        tag,
        custom_error_type="none_of_these",
        custom_error_message="Input should be one of {allowed}",
        custom_error_context={"allowed": ", ".join(forms)},
    )
