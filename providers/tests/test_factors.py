"""How far a count is from the bill: assumed at first, learned from answers, and never far off."""

from __future__ import annotations

import pytest

from providers.factors import ENOUGH_ANSWERS, REMEMBERED_ANSWERS, Factors, default_factor


def taught(model: str, *pairs: tuple[int, int], times: int = ENOUGH_ANSWERS) -> Factors:
    factors = Factors()
    for estimated, real in pairs * times:
        factors.learn(model, estimated, real)
    return factors


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("claude-opus-5-5", 1.2),
        ("anthropic/Claude-Sonnet-4.5", 1.2),
        ("us.anthropic.claude-opus-4-1", 1.2),
        ("gpt-5", 1.0),
        ("glm-4.6", 1.0),
        ("", 1.0),
    ],
)
def test_a_model_nobody_has_heard_of_gets_its_familys_factor(model: str, factor: float) -> None:
    factors = Factors()
    assert default_factor(model) == factors.of_counts(model) == factors.of_estimates(model) == factor


@pytest.mark.parametrize(
    ("pairs", "factor"),
    [
        ([(1000, 1300)], 1.3),
        ([(1000, 1000), (9000, 18_000)], 1.9),  # by what they weigh, not one by one
        ([(1000, 100)], 0.8),
        ([(1000, 90_000)], 2.0),
        ([(499, 998)], 1.0),  # too small to prove anything
        ([(1000, 0)], 1.0),  # no bill at all
    ],
)
def test_answers_teach_a_factor_within_bounds(pairs: list[tuple[int, int]], factor: float) -> None:
    assert taught("m", *pairs).of_estimates("m") == pytest.approx(factor)


def test_a_few_answers_prove_nothing() -> None:
    assert taught("claude-x", (1000, 1500), times=ENOUGH_ANSWERS - 1).of_estimates("claude-x") == 1.2


def test_only_the_last_answers_count() -> None:
    factors = taught("m", (1000, 2000), times=500)
    for _ in range(REMEMBERED_ANSWERS):
        factors.learn("m", 1000, 900)
    assert factors.of_estimates("m") == pytest.approx(0.9)


def test_a_count_is_corrected_only_once_estimates_are_known_in_tokens() -> None:
    factors = taught("m", (1000, 1500))
    assert factors.of_counts("m") == 1.0
    for _ in range(ENOUGH_ANSWERS):
        factors.compare(1000, 1250)  # the text has more tokens than its characters say, whoever reads it
    assert factors.of_counts("m") == pytest.approx(1500 / 1250)
    assert factors.of_estimates("m") == pytest.approx(1.5)
    assert factors.of_counts("other") == 1.0


def test_models_are_learned_apart_and_the_oldest_is_forgotten() -> None:
    factors = Factors(most=2)
    for model, real in (("a", 1500), ("b", 1600), ("a", 1500), ("c", 1700)):
        for _ in range(ENOUGH_ANSWERS):
            factors.learn(model, 1000, real)
    assert [factors.of_estimates(model) for model in "abc"] == pytest.approx([1.5, 1.0, 1.7])
