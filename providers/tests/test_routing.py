"""Names: which of them are published, how upstreams spell them, and which are near to one that nobody takes."""

from __future__ import annotations

import pytest

from providers.routing import LONGEST_NAME, Candidate, Endpoint, KnownModel, Route, Routing, Target


def endpoint(number: int, *names: str) -> Endpoint:
    models = {name.lower(): KnownModel(name, 1000 * number, 100 * number) for name in names}
    return Endpoint(number, f"provider {number}", "openai", "http://localhost", models=models)


FIRST = endpoint(1, "Qwen/Qwen3-Coder", "z-ai/GLM-4.6", "claude-opus-5-5")
SECOND = endpoint(2, "gpt-5", "z-ai/glm-4.6")


def routing(**patterns: tuple[Endpoint, str]) -> Routing:
    return Routing(Route(pattern, (Target(*target),)) for pattern, target in patterns.items())


@pytest.mark.parametrize(
    ("patterns", "published"),
    [
        ({"*": (FIRST, "")}, ["claude-opus-5-5", "claude-sonnet-5-5", "Qwen/Qwen3-Coder", "z-ai/GLM-4.6"]),
        ({"*glm*": (FIRST, "")}, ["z-ai/GLM-4.6"]),
        ({"*": (SECOND, "")}, ["claude-opus-5-5", "claude-sonnet-5-5", "gpt-5", "z-ai/glm-4.6"]),
        ({"*": (FIRST, "always-this")}, ["claude-opus-5-5", "claude-sonnet-5-5"]),  # its other models are not offered
        # Another route takes the name, and leads to who does not list it.
        ({"*": (FIRST, ""), "qwen*": (SECOND, "")}, ["claude-opus-5-5", "claude-sonnet-5-5", "z-ai/GLM-4.6"]),
        ({"claude-glm": (FIRST, "z-ai/glm-4.6")}, ["claude-glm"]),
        ({"Claude-Opus-5-5": (FIRST, ""), "claude-o*": (FIRST, "")}, ["Claude-Opus-5-5"]),  # once, as it is routed
    ],
)
def test_names_are_published_that_a_route_takes_and_somebody_has(
    patterns: dict[str, tuple[Endpoint, str]], published: list[str]
) -> None:
    assert routing(**patterns).published(["claude-opus-5-5", "claude-sonnet-5-5"]) == published


def test_two_providers_publish_a_name_once() -> None:
    both = Routing([Route("*glm*", (Target(FIRST), Target(SECOND)))])
    assert both.published([]) == ["z-ai/GLM-4.6"]
    assert [candidate.model for candidate in both.candidates("Z-AI/GLM-4.6")] == ["z-ai/GLM-4.6", "z-ai/glm-4.6"]


@pytest.mark.parametrize(
    ("asked", "target", "sent"),
    [
        ("z-ai/glm-4.6", "", "z-ai/GLM-4.6"),
        ("Z-AI/GLM-4.6[1m]", "", "z-ai/GLM-4.6"),
        ("GLM-5", "", "GLM-5"),  # nobody has told us how it is spelled
        ("anything", "Z-AI/glm-4.6", "Z-AI/glm-4.6"),  # an administrator's word stands
    ],
)
def test_the_upstream_gets_its_own_spelling(asked: str, target: str, sent: str) -> None:
    [candidate] = routing(**{"*": (FIRST, target)}).candidates(asked)
    assert candidate.model == sent


def test_a_candidate_knows_the_limits_of_its_model() -> None:
    assert Candidate(FIRST, "Z-AI/glm-4.6").limits == KnownModel("z-ai/GLM-4.6", 1000, 100)
    assert Candidate(FIRST, "GLM-5").limits == KnownModel("GLM-5")


def test_limits_are_those_of_the_provider_that_comes_first() -> None:
    route = Route("*glm*", (Target(FIRST, priority=2), Target(SECOND, priority=1)))
    assert Routing([route]).limits("z-ai/glm-4.6[1m]").context_window == 2000
    assert Routing([route]).limits("gpt-5") == KnownModel("gpt-5")
    assert Routing([Route("*", ())]).limits("gpt-5") == KnownModel("gpt-5")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("qwen3-coder", ["Qwen/Qwen3-Coder"]),
        ("GLM-4.6", ["z-ai/GLM-4.6"]),
        ("gpt5", ["gpt-5"]),
        ("clade-opus-5-5[1m]", ["claude-opus-5-5"]),
        ("", []),
        ("☃", []),
        ("x" * 1_000_000, []),
    ],
)
def test_names_near_to_an_unknown_one_are_found_whatever_their_case(asked: str, near: list[str]) -> None:
    names = ["Qwen/Qwen3-Coder", "z-ai/GLM-4.6", "gpt-5", "claude-opus-5-5", *(f"other-{n}" for n in range(3000))]
    assert Routing([]).near(asked, names) == near


def test_a_name_beyond_reason_is_routed_nowhere_and_not_kept() -> None:
    every = routing(**{"*": (FIRST, "")})
    assert every.route("m" * LONGEST_NAME) is not None
    assert every.route("m" * (LONGEST_NAME + 1)) is None
    assert max(map(len, every._remembered)) == LONGEST_NAME


def test_every_provider_is_named_once() -> None:
    routes = [Route("a", (Target(FIRST), Target(SECOND))), Route("b", (Target(SECOND),)), Route("c", ())]
    assert [each.id for each in Routing(routes).endpoints] == [1, 2]
