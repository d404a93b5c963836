"""What a gateway must hold against, each as a function that attacks a real one and returns what it measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure and the most it may be."""

    name: str
    value: float
    most: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.most

    def __str__(self) -> str:
        verdict = "" if self.holds else "   <- too much"
        return f"{self.name}: {self.value:g} {self.unit} (at most {self.most:g}){verdict}"


@dataclass(frozen=True)
class Effort:
    """How hard and how long; a short one runs in CI, where times get five times the slack and counts none."""

    seconds: float
    clients: int
    slack: float = 1.0


def broken(figures: list[Figure]) -> list[str]:
    """The figures that do not hold, as sentences."""
    return [str(figure) for figure in figures if not figure.holds]
