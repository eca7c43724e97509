"""Declarations that stand for a family of transformers configurations, and are read from released ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from omniform.geometry import SpecError
from omniform.parts import Backbone


@dataclass(frozen=True, kw_only=True)
class Configured(Backbone):
    """A backbone whose fields are a released configuration's, under other names.

    Attributes:
        name: the released weights it stands for, as the field calls them.
    """

    abstract: ClassVar[bool] = True
    keys: ClassVar[Mapping[str, str]]
    """Field -> its key in a released configuration."""
    fixed: ClassVar[Mapping[str, Any]]
    """Settings of the whole family; a released configuration that says otherwise is refused."""
    assumed: ClassVar[Mapping[str, int]]
    """Sizes assumed where a released configuration leaves them out: transformers' own, where it has one."""

    name: str = ""

    @property
    def title(self) -> str:
        return self.name or type(self).__name__

    def sizes(self) -> dict[str, Any]:
        """The fields under the configuration's names."""
        return {key: getattr(self, field) for field, key in self.keys.items()}

    @classmethod
    def refuse(cls, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Refuse a configuration that says other than what is wanted.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise SpecError(
                    f"{cls.__name__} stands for {key}={value!r}, the configuration says {config[key]!r}; "
                    "use another backbone, or a family file of its own"
                )

    @classmethod
    def fields_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Fields from a released (transformers) configuration.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        cls.refuse(config, cls.fixed)
        return {**cls.assumed, **{field: config[key] for field, key in cls.keys.items() if key in config}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **extra: Any) -> Self:
        """The declaration of a released configuration; `extra` fields take precedence.

        Raises:
            SpecError: the configuration contradicts what the family has fixed.
        """
        return cls(**{**cls.fields_of(config), **extra})
